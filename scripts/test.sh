#!/usr/bin/env bash
# Lint, the unit tests, and each molecule scenario with its time. All of them run, and any failure is one of the whole.
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

junit=$PWD/.state/junit
rm -rf "$junit"
mkdir -p "$junit"
failed=()
times=()

# step NAME COMMAND...
step() {
  say "$1"
  local before=$SECONDS
  PYTEST_ADDOPTS="--junitxml=$junit/${1##* }.xml" "${@:2}" </dev/null || failed+=("$1")
  times+=("$(printf '%6d s  %s' $((SECONDS - before)) "$1")")
}

step lint scripts/lint.sh
step unit pytest app/tests
step inventories pytest inventories/tests
mirror_complete || step mirror fill_mirror
scenarios=(molecule/*/molecule.yml)
destroy=always
if [ -n "${KEEP:-}" ]; then
  [ -n "${SCENARIO:-}" ] || die "KEEP leaves the host of one scenario: make test SCENARIO=default KEEP=1"
  destroy=never
fi
for scenario in "${scenarios[@]}"; do
  name=$(basename "$(dirname "$scenario")")
  [ -z "${SCENARIO:-}" ] || [ "$SCENARIO" = "$name" ] || continue
  # It starts from the image; in a whole run, scenario image has just made it.
  [ "$name" != zookeeper ] || as_root podman image exists localhost/crypto-stream:test || step "image" molecule converge --scenario-name image
  step "scenario $name" molecule test --destroy "$destroy" --scenario-name "$name"
done

say "make test"
printf '%s\n' "${times[@]}"
python3 - "$junit" <<'END'
import pathlib, sys, xml.etree.ElementTree as tree

suites = [suite for file in pathlib.Path(sys.argv[1]).glob("*.xml") for suite in tree.parse(file).iter("testsuite")]
tests, skipped, failures, errors = (sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "skipped", "failures", "errors"))
print(f"{tests - skipped - failures - errors} passed, {failures + errors} failed, {skipped} skipped")
END
[ ${#failed[@]} = 0 ] || die "Failed: ${failed[*]}"
echo "All passed in $SECONDS s."
