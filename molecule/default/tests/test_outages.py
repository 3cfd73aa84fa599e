"""A piece is away for minutes, killed, frozen, stopped with all others, or the host loses its power: all find their way
back, and nothing is missing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from itertools import count

import pytest
from sandbox import (
    CHILDREN,
    CONTAINER,
    TARGET,
    UNITS,
    connect,
    podman,
    power_cut,
    process,
    properties,
    states,
    wait_for,
)
from stream import Stream
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

INTERVAL_SECONDS = 5
# Those of one row find their way back each by itself, and share their minute.
PROCESSES = [
    # A master that comes back waits a minute for a job that has ended meanwhile: they are in two rows.
    ["kafka", "crypto-dashboard", "executor", "spark-master"],
    ["cassandra", "crypto-simulator", "crypto-stream-job (Python)"],
    ["crypto-stream-job", "crypto-producer", "spark-worker"],
]
assert {name for names in PROCESSES for name in names} == {*UNITS, *CHILDREN} - {"crypto-schema"}


@pytest.mark.parametrize(("unit", "seconds", "hop"), [("kafka", 120, "topic"), ("cassandra", 60, "table")])
def test_away(host: Host, stream: Stream, unit: str, seconds: int, hop: str) -> None:
    # Without Kafka, the job's query ends; without Cassandra, a batch waits.
    services = ["crypto-producer", *(["crypto-stream-job"] if unit == "cassandra" else [])]
    before = [properties(host, service, "MainPID", "NRestarts") for service in services]
    began = time.time()
    host.check_output("systemctl stop %s", unit)
    wait_for(lambda: time.time() > began + seconds, f"{seconds} s without {unit}", seconds + 10)
    # All that needs it is broken as well by now, and it is named all the same.
    assert f"First broken hop: {hop}\n" in host.run("crypto-check").stdout
    host.check_output("systemctl start %s", unit)
    stream.wait_until_all_is_well(time.time())
    stream.compare_every_table()
    # No poll is missing: what was fetched meanwhile has arrived as well.
    pauses = stream.pauses(began, time.time() - INTERVAL_SECONDS)
    assert len(pauses) >= seconds / INTERVAL_SECONDS
    assert max(pauses) < 1.5 * INTERVAL_SECONDS
    assert [properties(host, service, "MainPID", "NRestarts") for service in services] == before


@pytest.mark.parametrize("names", PROCESSES, ids="+".join)
def test_killed(host: Host, stream: Stream, names: list[str]) -> None:
    killed = {name: process(host, name) for name in names}
    host.check_output("kill -9 " + " ".join(killed.values()))
    back = time.time()
    for name in names:
        wait_for(lambda name=name: process(host, name) not in ("0", killed[name]), f"{name} again", 240)
    stream.wait_until_all_is_well(back)
    stream.compare_every_table()


def test_what_cassandra_has_acknowledged_outlives_its_kill(host: Host, stream: Stream) -> None:
    stream.cql("CREATE KEYSPACE kept WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
    stream.cql("CREATE TABLE kept.numbers (number int PRIMARY KEY)")
    acknowledged: list[int] = []

    def write() -> None:
        with contextlib.suppress(Exception):
            for number in count():
                stream.cql("INSERT INTO kept.numbers (number) VALUES (%s)", number)
                acknowledged.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_for(lambda: len(acknowledged) > 500, "500 writes", 60)
    finally:
        host.check_output("kill -9 %s", process(host, "cassandra"))
        writer.join()
    stream.wait_until_all_is_well(time.time())
    lost = set(acknowledged) - {row.number for row in stream.cql("SELECT number FROM kept.numbers")}
    stream.cql("DROP KEYSPACE kept")
    assert not lost


@pytest.mark.parametrize("names", PROCESSES, ids="+".join)
def test_frozen(host: Host, stream: Stream, names: list[str]) -> None:
    frozen = " ".join(process(host, name) for name in names)
    began = time.time()
    host.check_output(f"kill -STOP {frozen}")
    try:
        # A client gives up on an answer after half a minute.
        wait_for(lambda: time.time() > began + 35, "35 s without them", 60)
    finally:
        host.check_output(f"kill -CONT {frozen}")
    stream.wait_until_all_is_well(time.time())
    stream.compare()


def address() -> str:
    return podman("inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", CONTAINER)


def test_a_power_cut_after_which_the_host_has_another_address(host: Host, stream: Stream) -> None:
    before = address()
    # A container's journal does not outlive it.
    stream.acknowledged()
    power_cut(CONTAINER)
    since = time.time()
    assert address() != before
    wait_for(lambda: connect(sudo=True).run("true").succeeded, "a login", 60)
    stream.wait_until_all_is_well(since)
    stream.compare_every_table()


def test_the_target_stops_and_starts_all(host: Host, stream: Stream) -> None:
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
