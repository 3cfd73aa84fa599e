"""A wrong variable stops site.yml before anything is changed, and is named with what it got and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from sandbox import ROOT, playbook
from testinfra.host import Host

# What changes by itself while somebody is logged in: logs, logins and caches.
PASSING = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/cache", "/var/lib/apt")

WRONG: list[tuple[str, Any, tuple[str, ...]]] = [
    ("app_market", "kraken", ("app_market", "coinlore, simulator", "kraken")),
    ("kafka_heap_size", "64g", ("kafka_heap_size is 64g", "4096m")),
    ("kafka_memory_max", "256M", ("kafka_heap_size is 256m", "less than kafka_memory_max, 256M")),
    ("cassandra_memory_max", "2 GB", ("cassandra_memory_max is 2 GB", "such as 512M or 2G")),
    ("cassandra_rpc_address", "10.0.0.5", ("cassandra_rpc_address", "127.0.0.1, 0.0.0.0", "10.0.0.5")),
    ("producer_interval_seconds", -5, ("producer_interval_seconds is -5", "above 0")),
    ("kafka_port", 70000, ("kafka_port is 70000", "from 1 to 65535")),
    ("spark_worker_cores", "many", ("spark_worker_cores", "int", "many")),
    ("kafka_heep_size", "512m", ("kafka_heep_size", "kafka_heap_size")),
    # The last role of all.
    ("dashboard_port", 0, ("dashboard_port is 0", "from 1 to 65535")),
]


def everything(host: Host) -> str:
    """All files with their sizes, times and owners, all packages and all units."""
    passing = " -o ".join(f"-path {path}" for path in PASSING)
    return host.check_output(
        f"find / -xdev \\( {passing} \\) -prune -o -not -type d -printf '%p %s %T@ %m %u %l\\n' | sort;"
        " dpkg-query --show; systemctl list-unit-files --no-pager --no-legend; getent passwd"
    )


@pytest.fixture(scope="module")
def untouched(host: Host) -> str:
    """The host before any of this."""
    return everything(host)


@pytest.mark.parametrize(("name", "value", "expected"), WRONG, ids=[name for name, _, _ in WRONG])
def test_is_refused(
    host: Host, untouched: str, tmp_path: Path, name: str, value: Any, expected: tuple[str, ...]
) -> None:
    """The value comes from an inventory, as a user's would."""
    (tmp_path / "hosts.yml").write_text("all: {}\n")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text(yaml.safe_dump({name: value}))
    run = playbook(ROOT / "playbooks/site.yml", f"--inventory={tmp_path}")
    output = " ".join(run.stdout.split())
    assert run.returncode != 0
    assert [part for part in expected if part not in output] == [], run.stdout
    assert "changed=0" in output
    assert set(everything(host).splitlines()) ^ set(untouched.splitlines()) == set()
