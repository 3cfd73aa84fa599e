#!/usr/bin/env bash
# run.sh control|dev COMMAND...: run a command with these tools.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tools "$1"
exec "${@:2}"
