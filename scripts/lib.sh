# shellcheck shell=bash
# What the scripts share: messages, packages, and the tools' environments. Sourced, from scripts that set -euo pipefail.
#
# The cache (CRYPTO_STREAM_CACHE) holds
#   uv/            uv and pip, in an environment of the system's Python
#   venv/control   what the playbooks need (locks/control.txt)
#   venv/dev       what lint and tests need, too (locks/dev.txt)
#   mirror/        what the sandbox installs from
#   apt/ ssh/      the image's and the hosts' packages, the key to log in with

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
CACHE=${CRYPTO_STREAM_CACHE:=$HOME/.cache/crypto-stream}
export CRYPTO_STREAM_CACHE
SANDBOX=crypto-sandbox
UV_VERSION=0.13.9

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() {
  printf '\n%s\n' "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    command -v sudo >/dev/null || die "This needs root: install sudo, or run it as root."
    sudo "$@"
  fi
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Install those of the packages that are missing.
packages() {
  local package missing=()
  command -v dpkg-query >/dev/null || die "This installs $* by apt, which this machine has not. Install them, or use vagrant up."
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "Installing ${missing[*]}"
  if [ -z "${PACKAGES_UPDATED:-}" ]; then
    as_root apt-get update -q || die "apt-get update failed: see above. Mend the package sources and run this again."
    PACKAGES_UPDATED=yes
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" ||
    die "apt-get could not install ${missing[*]}: see above, mend it and run this again."
}

# Install a package only where none of it is there under whatever name: command, package.
program() { command -v "$1" >/dev/null || packages "$2"; }

# What a container host needs. Ubuntu 22.04's podman is older than netavark.
podman_packages() {
  packages podman runc catatonit iptables dnsmasq-base debootstrap ca-certificates
  installed netavark || installed containernetworking-plugins ||
    if apt-cache show netavark >/dev/null 2>&1; then packages netavark aardvark-dns; else packages containernetworking-plugins; fi
  program ssh openssh-client
}

# uv comes from the package index by the system's own pip.
bootstrap_uv() {
  [ "$(cat "$CACHE/uv/.version" 2>/dev/null)" != "$UV_VERSION" ] || return 0
  say "Installing uv $UV_VERSION"
  python3 -c 'import ensurepip' 2>/dev/null || packages python3-venv
  rm -rf "$CACHE/uv"
  python3 -m venv "$CACHE/uv"
  "$CACHE/uv/bin/pip" install --quiet --disable-pip-version-check "uv==$UV_VERSION" ||
    die "pip could not install uv: is the package index reachable (pip config list)?"
  echo "$UV_VERSION" >"$CACHE/uv/.version"
}

# tools control|dev: make the environment of that lock, and put it first in PATH.
tools() {
  local lock=locks/$1.txt venv=$CACHE/venv/$1 wanted
  wanted=$(sha256sum <"$lock")
  mkdir -p "$CACHE/venv"
  if [ "$(cat "$venv/.lock" 2>/dev/null)" != "$wanted" ]; then
    (
      flock 9
      bootstrap_uv
      say "Installing the tools of $lock into $venv"
      rm -f "$venv/.lock"
      if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        "$CACHE/uv/bin/uv" venv --quiet --clear --python '>=3.11' "$venv" ||
          die "The tools need Python 3.11 or later, and uv could not fetch one: install it and run this again."
      fi
      "$CACHE/uv/bin/uv" pip sync --python "$venv/bin/python" --require-hashes "$lock" ||
        die "The tools could not be installed: see above; running this again goes on where it stopped."
      echo "$wanted" >"$venv/.lock"
    ) 9>"$CACHE/venv/$1.flock"
  fi
  PATH=$venv/bin:$PATH
  export PATH
}

# What the mirror is made of, as one checksum.
mirror_inputs() {
  find locks/app.txt locks/cqlsh.txt roles/mirror roles/artifact/vars playbooks/mirror.yml playbooks/group_vars/all/releases.yml -type f ! -name '*.pyc' -print0 |
    sort -z | xargs -0 sha256sum | sha256sum
}

mirror_complete() {
  local checksum
  [ "$(cat "$CACHE/mirror/.complete" 2>/dev/null)" = "$(mirror_inputs)" ] || return 1
  for checksum in "$CACHE"/mirror/*.sha512 "$CACHE"/mirror/*/*.sha512; do [ -e "${checksum%.sha512}" ] || return 1; done
}

# Fill the mirror; needs the control tools, and Maven.
fill_mirror() {
  rm -f "$CACHE/mirror/.complete"
  ansible-playbook -i inventories/sandbox playbooks/mirror.yml &&
    mirror_inputs >"$CACHE/mirror/.complete"
}

# The mirror, unless it is there.
provide_mirror() {
  ! mirror_complete || return 0
  program mvn maven
  bootstrap_uv
  say "Filling the artifact mirror"
  fill_mirror
}

# ansible-playbook, for a playbook that needs root here: it asks for sudo's password where there is one.
playbook_as_root() {
  local become=()
  [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || become=(--ask-become-pass)
  ansible-playbook "$@" "${become[@]}"
}

sandbox_running() { command -v podman >/dev/null && [ "$(as_root podman ps --quiet --filter "name=^$SANDBOX\$")" ]; }
