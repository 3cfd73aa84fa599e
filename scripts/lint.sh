#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tools dev
status=0
check() {
  printf '%-34s' "${*:1:2}"
  local output
  if output=$("$@" 2>&1); then echo ok; else
    status=1
    printf 'failed\n%s\n' "$output"
  fi
}
check ruff check
check ruff format --check
check mypy
check yamllint --strict .
check ansible-lint --strict --nocolor
check python scripts/variables.py --check
check shellcheck --external-sources .ci/run scripts/*.sh
exit $status
