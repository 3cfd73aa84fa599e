"""A piece is away for a minute, or killed: everything finds its way back by itself, and nothing is missing."""

from __future__ import annotations

import time

import pytest
from sandbox import UNITS, properties, states, wait_for
from stream import Stream
from testinfra.host import Host

pytestmark = pytest.mark.disturbs


@pytest.mark.parametrize("unit", ["kafka", "cassandra"])
def test_away_for_a_minute(host: Host, stream: Stream, unit: str) -> None:
    host.check_output("systemctl stop %s", unit)
    back = time.time() + 60
    wait_for(lambda: time.time() > back, f"a minute without {unit}", 70)
    host.check_output("systemctl start %s", unit)
    stream.wait_until_it_flows(time.time())
    wait_for(lambda: states(host) == dict.fromkeys(UNITS, "active"), "every unit active", 120)
    stream.compare()


@pytest.mark.parametrize("unit", ["kafka", "cassandra", "crypto-stream-job", "spark-worker"])
def test_killed(host: Host, stream: Stream, unit: str) -> None:
    killed = properties(host, unit, "MainPID")["MainPID"]
    host.check_output("kill -9 %s", killed)

    def restarted() -> bool:
        found = properties(host, unit, "MainPID", "ActiveState")
        return found["ActiveState"] == "active" and found["MainPID"] not in ("0", killed)

    wait_for(restarted, f"{unit} active again", 180)
    stream.wait_until_it_flows(time.time())
    wait_for(lambda: states(host) == dict.fromkeys(UNITS, "active"), "every unit active", 120)
    stream.compare()
