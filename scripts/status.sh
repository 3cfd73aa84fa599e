#!/usr/bin/env bash
# Is data flowing, and if not, which hop is broken? Exits as crypto-check does.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

sandbox_running || die "The sandbox is not running: make up"
status=0
as_root podman exec "$SANDBOX" crypto-check || status=$?
echo
as_root podman exec "$SANDBOX" systemctl --no-pager --full --all list-units \
  crypto-stack.target kafka.service cassandra.service 'spark-*.service' 'crypto-*.service'
exit "$status"
