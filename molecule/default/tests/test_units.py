"""systemd's view of the stack: enabled, active, as itself, bounded and hardened."""

from __future__ import annotations

import re

import pytest
from sandbox import JVM_UNITS, PYTHON_UNITS, TARGET, UNITS, properties, states
from testinfra.host import Host

# systemd's exposure level, from 0 to 10. A JVM needs memory that is writable and executable, and most of /proc.
EXPOSURE = dict.fromkeys(JVM_UNITS, 2.0) | dict.fromkeys(PYTHON_UNITS, 2.0)


def test_the_target_is_the_whole_stack(host: Host) -> None:
    tree = host.check_output("systemctl list-dependencies --plain --no-pager %s", TARGET)
    assert {line.strip().removesuffix(".service") for line in tree.splitlines()[1:]} == set(UNITS)


def test_everything_runs(host: Host) -> None:
    assert states(host) == dict.fromkeys(UNITS, "active")


@pytest.mark.parametrize("unit", UNITS)
def test_its_first_start_was_enough(host: Host, unit: str) -> None:
    journal = host.check_output("journalctl --quiet --output=cat --unit=%s", unit)
    assert "Started" in journal or "Finished" in journal
    assert "Scheduled restart job" not in journal


@pytest.mark.parametrize("unit", [TARGET, *UNITS])
def test_starts_at_boot(host: Host, unit: str) -> None:
    assert host.service(unit).is_enabled


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_in_effect(host: Host, unit: str) -> None:
    found = properties(
        host,
        unit,
        "User",
        "MemoryMax",
        "Restart",
        "NoNewPrivileges",
        "ProtectSystem",
        "StartLimitIntervalUSec",
        "PartOf",
    )
    memory = int(found.pop("MemoryMax"))
    assert 64 << 20 <= memory <= 2 << 30
    assert found == {
        "User": UNITS[unit],
        "Restart": "on-failure",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "StartLimitIntervalUSec": "0",
        "PartOf": TARGET,
    }


@pytest.mark.parametrize("unit", UNITS)
def test_hardening(host: Host, unit: str) -> None:
    output = host.run("systemd-analyze security --no-pager %s", f"{unit}.service").stdout
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", output)
    assert exposure
    assert float(exposure[1]) <= EXPOSURE[unit], output
