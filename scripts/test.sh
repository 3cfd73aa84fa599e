#!/usr/bin/env bash
# Lint, the unit tests, and each molecule scenario with its time. All of them run, and any failure is one of the whole.
# There is one stack at a time, whatever else goes on beside it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null ||
  die "The test hosts are made as root, many times: run this as root, or as somebody who may sudo without a password."

# Java for the stream job's unit tests, a browser for the dashboard's.
podman_packages
program java default-jre-headless
program mvn maven
program chromium chromium
program vagrant vagrant
tools dev
bootstrap_uv

# Its borders wrap every line at 80 columns.
export MOLECULE_COMMAND_BORDERS=false

if [ -n "${SCENARIO:-}" ]; then
  [ -e "molecule/$SCENARIO/molecule.yml" ] || die "There is no scenario $SCENARIO; SCENARIO is one of: $(cd molecule && echo */molecule.yml | sed 's|/molecule.yml||g')."
else
  [ -z "${KEEP:-}" ] || die "KEEP leaves the host of one scenario: make test SCENARIO=default KEEP=1"
fi

state=$PWD/.state/test
rm -rf "$state"
mkdir -p "$state"

# step NAME COMMAND...: its time and how it ended are a line of $state/steps, shown at once.
exec 3>&1
step() {
  say "$1"
  local before=$SECONDS ended=passed
  PYTEST_ADDOPTS="--junitxml=$state/${1##* }.xml" "${@:2}" </dev/null || ended=failed
  printf '%6d s  %s  %s\n' $((SECONDS - before)) "$ended" "$1" | tee -a "$state/steps" >&3
}

scenario() {
  step "scenario $1" molecule test --destroy "${destroy:-always}" --scenario-name "$1"
}

# molecule takes it for itself, and bash would go on with the next step.
trap 'exit 130' INT

without_hosts() {
  step lint scripts/lint.sh
  step unit pytest app/tests
  step inventories pytest inventories/tests
}
stackless='refusal ec2'
# With control groups of version 1, a container host cannot run what is deployed, and no stack comes of it.
[ "$(as_root podman info --format '{{.Host.CgroupsVersion}}')" = v2 ] || stackless+=' deploy'
without_stack() {
  without_hosts
  # They begin with the mirror, and with the image.
  until grep -q 'scenario image' "$state/steps"; do sleep 1; done
  for name in $stackless; do scenario "$name"; done
}

if [ -n "${SCENARIO:-}" ]; then
  without_hosts
  mirror_complete || step mirror fill_mirror
  # They begin with the image.
  [[ ! $SCENARIO =~ ^(default|zookeeper|deploy)$ ]] || as_root podman image exists localhost/crypto-stream:test ||
    step "image" molecule converge --scenario-name image
  [ -z "${KEEP:-}" ] || destroy=never
  scenario "$SCENARIO"
else
  # What needs no stack goes on beside the rest and gives way to it; what it says is shown at its end.
  say "Lint, unit tests and: $stackless (beside the next; in $state/aside.log until it ends)"
  set -m
  (renice -n 10 "$BASHPID"; without_stack) >"$state/aside.log" 2>&1 &
  set +m
  aside=$!
  trap 'kill -- "-$aside"' EXIT
  mirror_complete || step mirror fill_mirror
  scenario image
  for file in molecule/*/molecule.yml; do
    name=$(basename "$(dirname "$file")")
    [[ " image $stackless " == *" $name "* ]] || scenario "$name"
  done
  # Its steps have failures of their own; this is one that ended before its last step.
  wait "$aside" || echo "     ? s  failed  what went on beside" >>"$state/steps"
  trap - EXIT
  cat "$state/aside.log"
fi

say "make test"
cat "$state/steps"
python3 - "$state" <<'END'
import pathlib, sys, xml.etree.ElementTree as tree

suites = [suite for file in pathlib.Path(sys.argv[1]).glob("*.xml") for suite in tree.parse(file).iter("testsuite")]
tests, skipped, failures, errors = (sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "skipped", "failures", "errors"))
print(f"{tests - skipped - failures - errors} passed, {failures + errors} failed, {skipped} skipped")
END
failed=$(sed -n 's/.* failed  //p' "$state/steps")
[ -z "$failed" ] || die "Failed: ${failed//$'\n'/, }"
echo "All passed in $SECONDS s."
