"""An inventory without a group that the stack needs is refused before any host is looked at."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def site(inventory: Path) -> str:
    run = subprocess.run(
        ["ansible-playbook", f"--inventory={inventory}", "playbooks/site.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode != 0
    return " ".join(run.stdout.split())


def test_a_missing_group(tmp_path: Path) -> None:
    sample = yaml.safe_load((ROOT / "inventories/sample/one.yml").read_text())
    del sample["all"]["children"]["kafka"], sample["all"]["children"]["spark_master"]
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(sample))
    output = site(tmp_path / "hosts.yml")
    assert "The inventory has no host in the group kafka; it takes 1 or more." in output
    assert "The inventory has 0 hosts in the group spark_master; it takes 1." in output
    assert "unreachable=0" in output


def test_no_group_at_all(tmp_path: Path) -> None:
    """Hosts that are none of ours are left alone, and that there is nothing to do is said."""
    (tmp_path / "hosts.yml").write_text("all: {hosts: {bastion: {ansible_host: 203.0.113.1}}}\n")
    output = site(tmp_path / "hosts.yml")
    assert "The inventory has 0 hosts in the group kafka_controller; it takes 1 or 3." in output
    assert "unreachable=0" in output
