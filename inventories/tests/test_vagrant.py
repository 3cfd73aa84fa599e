"""The Vagrantfile is valid, refuses wrong settings in one sentence, and its inventory follows the forwarded ports."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the environment of whoever runs the tests says is not what is tested.
READ = ("DASHBOARD_PORT", "SPARK_UI_PORT", "KAFKA_PORT", "CQL_PORT", "SSH_PORT", "VM_BOX", "VM_MEMORY", "VM_CPUS")


def run(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in READ} | settings
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "settings", [{}, {"KAFKA_PORT": "19092", "VM_MEMORY": "8192", "VM_CPUS": "4", "VM_BOX": "my/box"}]
)
def test_valid(settings: dict[str, str]) -> None:
    result = run("vagrant", "validate", **settings)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"KAFKA_PORT": "99999"}, 'KAFKA_PORT is "99999", it takes a number from 1 to 65535.'),
        ({"VM_MEMORY": "4GB"}, 'VM_MEMORY is "4GB", it takes a number from 3584 to 262144.'),
        ({"VM_CPUS": "0"}, 'VM_CPUS is "0", it takes a number from 1 to 64.'),
        ({"CQL_PORT": "8501"}, "DASHBOARD_PORT and CQL_PORT are both 8501."),
    ],
)
def test_wrong_setting(settings: dict[str, str], sentence: str) -> None:
    result = run("vagrant", "validate", **settings)
    assert result.returncode != 0
    assert result.stderr.strip() == sentence


def test_forwarded_to_the_loopback_only() -> None:
    lines = [line for line in (ROOT / "Vagrantfile").read_text().splitlines() if '"forwarded_port"' in line]
    assert len(lines) == 2
    assert all('host_ip: "127.0.0.1"' in line for line in lines)


def test_kafka_advertises_the_forwarded_port() -> None:
    result = run(
        *("ansible", "crypto-vm", "--inventory=inventories/vagrant", "--module-name=ansible.builtin.debug"),
        "--args=var=kafka_advertised_port",
        KAFKA_PORT="19092",
        ANSIBLE_CALLBACK_RESULT_FORMAT="json",
    )
    assert json.loads(result.stdout.split("=>", 1)[1])["kafka_advertised_port"] == 19092


def test_groups() -> None:
    result = run("ansible-inventory", "--inventory=inventories/vagrant", "--list")
    groups = json.loads(result.stdout)
    carried = {name for name, group in groups.items() if group.get("hosts") == ["crypto-vm"]}
    assert carried == {
        *("kafka_controller", "kafka", "cassandra", "spark_master", "spark_worker"),
        *("producer", "stream_job", "dashboard"),
    }
