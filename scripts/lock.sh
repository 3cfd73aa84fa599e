#!/usr/bin/env bash
# Writes locks/ from pyproject.toml. One lock of the application serves Python 3.10 (Ubuntu 22.04) and later, and no lock
# names a package index. What the tools share with the application has the application's version, but for one package.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

bootstrap_uv

compile() {
  "$CACHE/uv/bin/uv" pip compile --quiet --universal --generate-hashes --custom-compile-command 'make lock' "${@:2}" --output-file "locks/$1.txt"
  echo "locks/$1.txt"
}

compile app pyproject.toml --python-version 3.10
compile cqlsh --group cqlsh --python-version 3.10 --constraints locks/app.txt
# boto3 of the control group takes no dateutil 3, which the application has by way of pandas.
awk '/^[^ ]/ { other = !/^python-dateutil==/ } other' locks/app.txt |
  compile dev pyproject.toml --group control --group dev --python-version 3.11 --constraints -
compile control --group control --python-version 3.11 --constraints locks/dev.txt
