#!/usr/bin/env bash
# Measures the running sandbox; scripts/bench says what.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

sandbox_running || die "The sandbox is not running: make up"
program chromium chromium
tools dev
PYTHONPATH=app:scripts exec python -m bench
