#!/usr/bin/env bash
# The stack as an image, from nothing. What has been downloaded is kept.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

podman_packages
tools control
become=()
[ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || become=(--ask-become-pass)
if ! mirror_complete; then
  program mvn maven
  bootstrap_uv
  say "Filling the artifact mirror"
  fill_mirror
fi

say "Making the image"
ansible-playbook -i inventories/sandbox -i inventories/image playbooks/image.yml "${become[@]}"
cat <<END

Made in $SECONDS s. Run it:

  podman run --detach --name crypto-stream --publish 127.0.0.1:8501:8501 --volume crypto-stream:/var/lib crypto-stream
END
