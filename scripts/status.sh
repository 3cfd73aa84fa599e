#!/usr/bin/env bash
# Is data flowing, and if not, which hop is broken? Exits as crypto-check does.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

sandbox_running || die "The sandbox is not running: make up"
status=0
as_root podman exec "$SANDBOX" crypto-check || status=$?
echo
# shellcheck disable=SC2016 # there, not here
as_root podman exec "$SANDBOX" sh -c \
  'systemctl --no-pager --full --all list-units crypto-stack.target $(systemctl show --property=Wants --value crypto-stack.target)'
exit "$status"
