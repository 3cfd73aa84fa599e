#!/usr/bin/env bash
# From nothing to the running stack. Whatever is there already is kept, so that running it again goes on where it stopped.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

: "${DASHBOARD_PORT:=8501}" "${SPARK_UI_PORT:=8080}" "${KAFKA_PORT:=9092}" "${CQL_PORT:=9042}" "${SSH_PORT:=2222}"
: "${MARKET:=simulator}" "${KAFKA_MODE:=kraft}"
export DASHBOARD_PORT SPARK_UI_PORT KAFKA_PORT CQL_PORT SSH_PORT MARKET KAFKA_MODE

finished=
mirror_pid=
on_exit() {
  local status=$?
  if [ -n "$mirror_pid" ]; then pkill -P "$mirror_pid" || true; fi
  if [ -z "$finished" ] && [ "$status" != 0 ]; then
    printf '\nmake up did not finish: the first error above says why. Run it again when that is mended: it goes on from here. If the sandbox itself is broken, make down removes it, with its data.\n' >&2
  fi
}
trap on_exit EXIT

case $MARKET in
  simulator | coinlore) ;;
  *) die "MARKET is \"$MARKET\", it takes simulator or coinlore." ;;
esac

case $KAFKA_MODE in
  kraft | zookeeper) ;;
  *) die "KAFKA_MODE is \"$KAFKA_MODE\", it takes kraft or zookeeper." ;;
esac

# The ports are named before anything is changed. Those that the sandbox itself has published are free to it.
ports=(DASHBOARD_PORT SPARK_UI_PORT KAFKA_PORT CQL_PORT SSH_PORT)
# Its ports are part of the sandbox, which would be made anew with others, without its data.
published=
if sandbox_running; then published=$(as_root podman port "$SANDBOX"); fi
for variable in "${ports[@]}"; do
  port=${!variable}
  [[ $port =~ ^[0-9]{1,5}$ ]] && [ "$port" -ge 1 ] && [ "$port" -le 65535 ] ||
    die "$variable is \"$port\", it takes a port, 1 to 65535."
  for other in "${ports[@]}"; do
    [ "$variable" = "$other" ] || [ "$port" != "${!other}" ] || die "$variable and $other are both $port."
  done
  [[ $'\n'$published$'\n' != *"127.0.0.1:$port"$'\n'* ]] || continue
  [ -z "$published" ] || die "The sandbox runs with another $variable than $port. Keep that, or remove the sandbox first, with its data: make down"
  # shellcheck disable=SC2016 # Python
  python3 -c 'import socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))' "$port" 2>/dev/null ||
    die "Port $port on 127.0.0.1 is taken by something else, or may not be used. Choose another: make up $variable=PORT"
done

cached=true
command -v podman >/dev/null && [ -n "$(as_root podman images --quiet localhost/crypto-stream-sandbox)" ] || cached=false
compgen -G "$CACHE/apt/$SANDBOX/openjdk-8-*.deb" >/dev/null || cached=false
mirror_complete || cached=false

podman_packages
mirror_complete || program mvn maven
tools control

# The mirror is mostly waiting for the network, the image mostly for the disk.
if ! mirror_complete; then
  bootstrap_uv
  say "Filling the artifact mirror, beside what follows: $CACHE/mirror.log"
  (fill_mirror >"$CACHE/mirror.log" 2>&1) &
  mirror_pid=$!
fi
say "Providing the sandbox"
playbook_as_root -i inventories/sandbox playbooks/sandbox.yml
if [ -n "$mirror_pid" ]; then
  say "Waiting for the artifact mirror"
  tail -n +1 -f --pid="$mirror_pid" "$CACHE/mirror.log" | grep --line-buffered '^TASK' || true
  wait "$mirror_pid" || { tail -n 40 "$CACHE/mirror.log"; die "The artifact mirror could not be filled: $CACHE/mirror.log"; }
  mirror_pid=
fi

say "Installing the stack"
ansible-playbook -i inventories/sandbox playbooks/site.yml
say "Waiting for prices to arrive"
as_root podman exec "$SANDBOX" crypto-check --wait 300

mkdir -p .state
echo "{\"up_s\": $SECONDS, \"cached\": $cached}" >.state/up.json
finished=yes
cat <<END

Up in $SECONDS s ($([ $cached = true ] && echo "downloads and image cached" || echo "not everything was cached")). Prices come from $MARKET.

  Dashboard   http://127.0.0.1:$DASHBOARD_PORT
  Spark       http://127.0.0.1:$SPARK_UI_PORT
  Kafka       127.0.0.1:$KAFKA_PORT
  Cassandra   127.0.0.1:$CQL_PORT
  ssh         ssh -i $CACHE/ssh/id_ed25519 -p $SSH_PORT ops@127.0.0.1

make status shows whether data is flowing, make down removes it all.
END
