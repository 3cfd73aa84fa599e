#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

command -v podman >/dev/null || die "There is no podman, so there is no sandbox."
as_root podman stop --ignore --time 30 "$SANDBOX" >/dev/null
as_root podman rm --force --ignore "$SANDBOX" >/dev/null
echo "The sandbox is gone, with its data; $CACHE keeps what makes the next one quick."
