"""The stack with ZooKeeper: prices flow, it stops and starts as a whole, and a kill of either server loses nothing."""

from __future__ import annotations

import re
import time

import pytest
from sandbox import ROOT, TARGET, UNITS, playbook, process, states, wait_for
from stream import Stream
from testinfra.host import Host


def test_everything_runs(host: Host, stream: Stream) -> None:
    assert "zookeeper" in UNITS
    stream.wait_until_all_is_well(time.time())
    stream.compare()
    # The first row is written before the other queries have begun.
    wait_for(lambda: host.check_output("crypto-check | tail -n 1") == "Data flows.", "data flowing", 240)


def test_the_broker_is_known_to_zookeeper(host: Host) -> None:
    answer = host.check_output(
        "python3 -c %s",
        "import socket; s = socket.create_connection(('127.0.0.1', 2181)); "
        "s.sendall(b'srvr'); print(s.makefile().read())",
    )
    assert "Zookeeper version: 3.8.3" in answer
    assert "Mode: standalone" in answer
    assert "version=0" in host.file("/var/lib/kafka/data/meta.properties").content_string
    listening = host.check_output("ss --no-header --tcp --listening --numeric 'sport = 2181'")
    assert "127.0.0.1:2181" in listening.replace("[::ffff:127.0.0.1]", "127.0.0.1")
    # Kafka's own controllers are not there.
    assert host.check_output("ss --no-header --tcp --listening --numeric 'sport = 9093'") == ""


def test_a_check_of_the_converged_host_tells_of_no_change() -> None:
    run = playbook(ROOT / "playbooks/site.yml", "--check", "--diff")
    assert run.returncode == 0, run.stdout
    assert re.search(r"^crypto-sandbox .* changed=0 ", run.stdout, re.MULTILINE), run.stdout


@pytest.mark.disturbs
@pytest.mark.parametrize("unit", ["kafka", "zookeeper"])
def test_killed(host: Host, stream: Stream, unit: str) -> None:
    killed = process(host, unit)
    host.check_output("kill -9 %s", killed)
    back = time.time()
    wait_for(lambda: process(host, unit) not in ("0", killed), f"{unit} again", 240)
    stream.wait_until_all_is_well(back)
    stream.compare()


@pytest.mark.disturbs
def test_target(host: Host, stream: Stream) -> None:
    host.check_output("systemctl stop %s", TARGET)
    wait_for(lambda: set(states(host).values()) <= {"inactive", "failed"}, "the end of every unit", 180)
    assert states(host) == dict.fromkeys(UNITS, "inactive")
    # Kafka ended before what it stands on, so it could say goodbye.
    ended = host.check_output(
        "systemctl show --property=InactiveEnterTimestampMonotonic --value kafka zookeeper"
    ).split()
    assert int(ended[0]) <= int(ended[1])
    since = time.time()
    host.check_output("systemctl start %s", TARGET)
    stream.wait_until_all_is_well(since)
    stream.compare()


def test_the_mode_of_data_is_not_changed() -> None:
    run = playbook(ROOT / "playbooks/site.yml", "--extra-vars=kafka_mode=kraft")
    assert run.returncode != 0
    output = " ".join(run.stdout.split())
    assert "kafka_mode is kraft, but the data of crypto-sandbox was made in the mode zookeeper;" in output
    assert "changed=0" in output
