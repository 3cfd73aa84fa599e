"""The target stops and starts all, and so does a new start of the host, which then has another address."""

from __future__ import annotations

import time

import pytest
from sandbox import CONTAINER, TARGET, UNITS, connect, podman, states, wait_for
from stream import Stream
from testinfra.host import Host

pytestmark = pytest.mark.disturbs


def test_target(host: Host, stream: Stream) -> None:
    host.check_output("systemctl stop %s", TARGET)
    # It returns when the target has stopped, which does not wait for the units.
    wait_for(lambda: set(states(host).values()) <= {"inactive", "failed"}, "the end of every unit", 120)
    assert states(host) == dict.fromkeys(UNITS, "inactive")
    assert host.check_output("systemctl list-units --state=failed --plain --no-legend") == ""
    assert host.run("pgrep -x java").stdout == ""
    since = time.time()
    host.check_output("systemctl start %s", TARGET)
    stream.wait_until_all_is_well(since)
    stream.compare()


def address() -> str:
    return podman("inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", CONTAINER)


def test_host_with_another_address(host: Host, stream: Stream) -> None:
    before = address()
    # A container's journal does not outlive it.
    stream.acknowledged()
    podman("stop", "--time=120", CONTAINER)
    since = time.time()
    podman("start", CONTAINER)
    assert address() != before
    wait_for(lambda: connect(sudo=True).run("true").succeeded, "a login", 60)
    stream.wait_until_all_is_well(since)
    stream.compare()
