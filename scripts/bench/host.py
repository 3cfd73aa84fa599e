"""The running sandbox: commands on its host, its Cassandra, and what its processes take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cassandra.cluster import Cluster, NoHostAvailable, Session
from crypto_stream import metrics

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("CRYPTO_STREAM_CACHE") or Path.home() / ".cache/crypto-stream")
CQL_PORT = int(os.environ.get("CQL_PORT", "9042"))
KAFKA_PORT = int(os.environ.get("KAFKA_PORT", "9092"))
SSH = ["ssh", "-i", str(CACHE / "ssh/id_ed25519"), "-p", os.environ.get("SSH_PORT", "2222")]
SSH += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]

Found = TypeVar("Found")


def on_host(command: str) -> str:
    """Run a command on the sandbox host as its user, over ssh."""
    return subprocess.run(
        [*SSH, "ops@127.0.0.1", command], check=True, capture_output=True, text=True, timeout=1200
    ).stdout


def wait_for(condition: Callable[[], Found | None], what: str, limit: float = 600) -> Found:
    """The first result of a condition that is not None; ends the program after `limit` seconds."""
    deadline = time.monotonic() + limit
    while (result := condition()) is None:
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not happen within {limit:.0f} s; `make status` says what is wrong")
        time.sleep(0.1)
    return result


def connect() -> tuple[Cluster, Session] | None:
    """A cluster and its session, or None while Cassandra does not answer."""
    cluster = Cluster(["127.0.0.1"], port=CQL_PORT, connect_timeout=2)
    try:
        return cluster, cluster.connect()
    except NoHostAvailable:
        cluster.shutdown()
        return None


def published(port: int) -> dict[str, float]:
    """The metrics that a service tells of on its host's loopback interface."""
    look = f"from urllib.request import urlopen; print(urlopen('http://127.0.0.1:{port}/metrics').read().decode())"
    return metrics.read(on_host(f'python3 -c "{look}"'))


def converge(**variables: object) -> None:
    """Let the application's playbook change something of the sandbox."""
    run = subprocess.run(
        [
            *("ansible-playbook", "-i", "inventories/sandbox", f"--extra-vars={json.dumps(variables)}"),
            "playbooks/app.yml",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"playbooks/app.yml failed with {variables}:\n{run.stdout[-3000:]}")


def resident_mb(processes: str = "[0-9]*") -> float:
    """Resident memory of all processes of the host, or of one, in MB; what several share counts once."""
    kilobytes = on_host(
        f"sudo cat /proc/{processes}/smaps_rollup 2>/dev/null | awk '/^Pss:/ {{sum += $2}} END {{print sum}}'"
    )
    return int(kilobytes) / 1024


def cpu_seconds(processes: str = "[0-9]*") -> float:
    """CPU time that the processes of the host that live, or one of them, have had."""
    ticks = on_host(
        f"sudo cat /proc/{processes}/stat 2>/dev/null | sed 's/.*) //' | awk '{{sum += $12 + $13}} END {{print sum}}'"
    )
    return int(ticks) / 100


def cores(seconds: float, processes: str = "[0-9]*") -> float:
    """How many cores they are busy with."""
    before, began = cpu_seconds(processes), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(processes) - before) / (time.monotonic() - began)
