"""A wrong variable stops a playbook before anything is changed, and is named with what it got and what it takes."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from sandbox import ROOT, playbook
from testinfra.host import Host

# What changes by itself while somebody is logged in: logs, logins and caches.
PASSING = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/cache", "/var/lib/apt")

# The values of one run are refused together, each for itself: a list of (variable, value, words of the message).
WRONG: list[list[tuple[str, Any, str]]] = [
    [("app_market", "kraken", "app_market must be one of: coinlore, simulator, got: kraken")],
    [("spark_worker_cores", "many", "spark_worker_cores")],
    # By the roles' own rules.
    [
        ("kafka_port", 70000, "kafka_port is 70000; it takes a port from 1 to 65535."),
        ("kafka_heap_size", "64m", "kafka_heap_size is 64m; it takes a size such as 512m or 2g, 128m at least."),
        ("kafka_retention_bytes", 20, "kafka_retention_bytes is 20; it takes a number of 4194304 or more."),
        ("kafka_advertised_host", "", "kafka_advertised_host is ''; it takes a name or an address that clients reach."),
        (
            "kafka_version",
            "3.6.9",
            "kafka_version is 3.6.9; it takes a version whose checksum is known (3.6.1; artifact_checksums",
        ),
    ],
    [("kafka_memory_max", "192M", "kafka_heap_size is 192m; it takes less than kafka_memory_max, 192M.")],
    [
        ("cassandra_memory_max", "2 GB", "cassandra_memory_max is '2 GB'; it takes a size such as 512M or 2G."),
        ("cassandra_rpc_address", "10.0.0.5", "cassandra_rpc_address is 10.0.0.5; it takes 127.0.0.1 or 0.0.0.0."),
        ("cassandra_rack", "a b", "cassandra_rack is 'a b'; it takes a name such as rack1."),
    ],
    [("cassandra_seeds", ["elsewhere"], "cassandra_seeds is elsewhere; it takes hosts of the group cassandra")],
    [("spark_daemon_memory", "2g", "spark_daemon_memory is 2g; it takes less than 512M.")],
    [
        (
            "stream_job_driver_memory",
            "300m",
            "stream_job_driver_memory is 300m; it takes a size such as 512m or 2g, 450m at least.",
        )
    ],
    [
        ("common_journal_max_size", "lots", "common_journal_max_size is lots; it takes a size such as 500M or 2G."),
        ("common_address", "no such name", "common_address is 'no such name'; it takes a name or an IPv4 address."),
    ],
    [
        (
            "dashboard_address",
            "nowhere",
            "dashboard_address is nowhere; it takes an IPv4 address of the host, or 0.0.0.0",
        )
    ],
    [("java_apt_repository", {"uris": ["file:/srv"]}, "java_apt_repository has no suites, components, signed_by;")],
    # By the application's own checker.
    [
        (
            "producer_interval_seconds",
            86401,
            "(producer_interval_seconds): got 86401, must be less than or equal to 86400",
        ),
        (
            "producer_coins",
            50000,
            "(producer_coins): got 50000, must be a number from 1 to 20000, or a list of different ids",
        ),
        (
            "dashboard_refresh_seconds",
            7200,
            "(dashboard_refresh_seconds): got 7200, must be less than or equal to 3600",
        ),
        ("app_topic_partitions", 2000, "(app_topic_partitions): got 2000, must be less than or equal to 1000"),
    ],
    # By what a host has, and what several pieces want of it.
    [
        (
            "kafka_port",
            9094,
            "kafka_port and the brokers' listener for the stack are both 9094; each takes a port of its own.",
        ),
        (
            "dashboard_port",
            8080,
            "dashboard_port and spark_master_ui_port are both 8080; each takes a port of its own.",
        ),
    ],
    [("dashboard_port", 22, "dashboard_port is 22, where ssh.service listens already; it takes a free port.")],
    [("stream_job_executor_memory", "1200m", "it takes no more than a worker offers: spark_worker_memory is 640m.")],
    # Names.
    [
        ("kafka_heep_size", "512m", "kafka_heep_size is no variable; the nearest one is kafka_heap_size."),
        ("kafak_port", 9092, "kafak_port is no variable; the nearest one is kafka_port."),
        ("common_unit_early", True, "common_unit_early is what one role tells another; an inventory may not set it."),
    ],
]
# Several values of an inventory at once, or hosts besides the one.
HEAPS = {"kafka_heap_size": "2g", "kafka_memory_max": "3G", "cassandra_heap_size": "1g", "cassandra_memory_max": "2G"}
SECOND = "all: {children: {stream_job: {hosts: {another: }}, producer: {hosts: {another: }}}}\n"
TWIN = """
all:
  hosts:
    twin:
      ansible_host: 127.0.0.1
      ansible_port: "{{ sandbox_ssh_port }}"
      ansible_user: ops
      ansible_become: true
      ansible_ssh_private_key_file: "{{ sandbox_cache }}/ssh/id_ed25519"
      ansible_ssh_common_args: -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR
  children: {spark_worker: {hosts: {twin: }}}
"""
OTHERS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    **{
        f"the address {address}": (
            # Without the simulator, which has an address of its own.
            {"app_market": "coinlore", "app_coinlore_url": address},
            "",
            [f"[market] api_url (app_coinlore_url): got '{address}', must be an address like http://host:port/path"],
        )
        for address in ("api.coinlore.net/api", "http://host:port", "not an address")
    },
    "heaps beyond the host": (
        HEAPS,
        "",
        ["The host has 4096 MB of memory, and what it carries needs", "kafka_heap_size 2g, cassandra_heap_size 1g,"],
    ),
    "a worker that cannot keep the state of candles": (
        {},
        TWIN,
        ["twin in spark_worker must have stream_job_checkpoint_dir, too, on storage that all share"],
    ),
    "a name that does not resolve": (
        {"stream_job_checkpoint_shared": True},
        # A second host, which is the first one under another name.
        TWIN,
        ["common_address twin does not resolve here; it takes a name that every host knows, or an address."],
    ),
    "two jobs and producers": (
        {},
        SECOND,
        [
            "The inventory has 2 hosts in the group producer; it takes 0 or 1.",
            "The inventory has 2 hosts in the group stream_job; it takes 1.",
        ],
    ),
}
CASES = OTHERS | {
    " ".join(f"{name}={value}" for name, value, _ in together): (
        {name: value for name, value, _ in together},
        "",
        [expected for _, _, expected in together],
    )
    for together in WRONG
}


def everything(host: Host) -> str:
    """All files with their sizes, times and owners, all packages and all units."""
    passing = " -o ".join(f"-path {path}" for path in PASSING)
    return host.check_output(
        f"find / -xdev \\( {passing} \\) -prune -o -not -type d -printf '%p %s %T@ %m %u %l\\n' | sort;"
        " dpkg-query --show; systemctl list-unit-files --no-pager --no-legend; getent passwd"
    )


def refuse(folder: Path, variables: dict[str, Any], hosts: str, name: str = "site") -> CompletedProcess[str]:
    """A playbook with these variables, which come from an inventory as a user's would."""
    (folder / "group_vars").mkdir(parents=True)
    (folder / "hosts.yml").write_text(hosts or "all: {}\n")
    (folder / "group_vars/all.yml").write_text(yaml.safe_dump(variables))
    return playbook(ROOT / f"playbooks/{name}.yml", f"--inventory={folder}")


@pytest.fixture(scope="module")
def refusals(host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CompletedProcess[str]]:
    """All of these runs, three at a time; together they have left the host as it was.

    They are of what every playbook begins with, which is read in half the time.
    """
    before = everything(host)
    folders = [tmp_path_factory.mktemp("inventory") / "inventory" for _ in CASES]
    with ThreadPoolExecutor(3) as pool:
        runs = pool.map(lambda folder, case: refuse(folder, case[0], case[1], "prepare"), folders, CASES.values())
        found = dict(zip(CASES, runs, strict=True))
    assert set(everything(host).splitlines()) ^ set(before.splitlines()) == set()
    return found


@pytest.mark.parametrize("case", CASES)
def test_is_refused(refusals: dict[str, CompletedProcess[str]], case: str) -> None:
    run = refusals[case]
    output = " ".join(run.stdout.split())
    assert run.returncode != 0
    assert [part for part in CASES[case][2] if part not in output] == [], run.stdout
    assert not re.search(r"changed=[1-9]", output)


def test_data_of_a_newer_release_is_refused(host: Host, tmp_path: Path) -> None:
    host.check_output("mkdir -p /var/lib/cassandra && echo 4.2.7 > /var/lib/cassandra/version")
    try:
        run = refuse(tmp_path / "inventory", {}, "")
    finally:
        host.check_output("rm -r /var/lib/cassandra")
    assert run.returncode != 0
    output = " ".join(run.stdout.split())
    assert (
        "cassandra_version is 4.1.3, but the data in /var/lib/cassandra was written by 4.2.7; it takes 4.2.0 or newer."
        in output
    )
    assert "changed=0" in output


def test_what_is_somebody_else_s_is_left_alone(tmp_path: Path) -> None:
    """A user's own variables do not stop the check; what does comes after them."""
    run = refuse(tmp_path / "inventory", {"app_name": "x", "common_packages": [], "kafka_port": 0}, "")
    assert "kafka_port is 0" in run.stdout
    assert "app_name" not in run.stdout
