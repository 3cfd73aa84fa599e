#!/usr/bin/env bash
# The stack as an image, from nothing. What has been downloaded is kept.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

podman_packages
tools control
provide_mirror

say "Making the image"
playbook_as_root -i inventories/sandbox -i inventories/image playbooks/image.yml ||
  die "The image was not made: see above. Where a disk is full, make room (podman system prune); make image goes on from there."
cat <<END

Made in $SECONDS s. Run it:

  podman run --detach --name crypto-stream --publish 127.0.0.1:8501:8501 --volume crypto-stream:/var/lib crypto-stream
END
