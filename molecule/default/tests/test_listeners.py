"""What listens on the host is what README.md says, and nothing else."""

from __future__ import annotations

import re

from sandbox import ROOT, UNITS
from testinfra.host import Host

# The table names variables; these are their values in this inventory.
VALUES = {
    "kafka_listen_address": "0.0.0.0",
    "cassandra_rpc_address": "0.0.0.0",
    "spark_ui_address": "0.0.0.0",
    "dashboard_address": "0.0.0.0",
}


def documented() -> dict[int, str]:
    """Each port of the table, and where it listens on one host."""
    text = (ROOT / "README.md").read_text().split("| Port | Listens on |")[1]
    rows = re.findall(r"^\| ([0-9, ]+) \| ([^|]+) \|", text, flags=re.MULTILINE)
    found = {}
    for ports, where in rows:
        variable = re.fullmatch(r"`(\w+)`.*", where.strip())
        for number in ports.split(","):
            found[int(number)] = VALUES[variable[1]] if variable else "127.0.0.1"
    return found


def test_listeners(host: Host) -> None:
    ours = "|".join(UNITS)
    output = host.check_output("ss --no-header --tcp --udp --listening --numeric --cgroup")
    listeners = re.findall(rf"^\w+ +\w+ +\d+ +\d+ +(\S+):(\d+) .*/({ours})[.]service *$", output, flags=re.MULTILINE)
    assert {unit for _, _, unit in listeners} == UNITS.keys() - {"crypto-schema"}
    table = documented()
    seen = {int(port): address for address, port, _ in listeners if int(port) in table}
    assert seen == table
    # What is not in it: ports that a JVM chooses for itself, on the loopback interface.
    others = {(address, unit) for address, port, unit in listeners if int(port) not in table}
    assert {address for address, _ in others} == {"127.0.0.1"}
