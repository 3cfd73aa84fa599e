"""The Vagrantfile is valid, forwards to the loopback only, refuses wrong settings, and its inventory follows it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# What the environment of whoever runs the tests says is not what is tested.
READ = ("DASHBOARD_PORT", "SPARK_UI_PORT", "KAFKA_PORT", "CQL_PORT", "SSH_PORT", "MARKET", "KAFKA_MODE")
READ += ("VM_BOX", "VM_MEMORY", "VM_CPUS", "VAGRANT_CWD", "VAGRANT_VAGRANTFILE", "VAGRANT_DEFAULT_PROVIDER")

# The Vagrantfile, with each network that it asks for written down as Vagrant gets it.
RECORDING = """
Vagrant.configure("2") do |config|
  config.vm.class.prepend(Module.new do
    def network(type, **options)
      File.write("networks", {type: type, **options}.to_json + "\\n", mode: "a")
      super
    end
  end)
end
load "%s"
"""
# What Vagrant says of a machine whose ssh port had to move.
GENERATED = "crypto-vm ansible_host=127.0.0.1 ansible_port=2200 ansible_user='vagrant' ansible_ssh_private_key_file='k'"


def run(*command: str, cwd: Path = ROOT, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in READ}
    environment |= {"VAGRANT_CHECKPOINT_DISABLE": "1", **settings}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120)


def validate(cwd: Path = ROOT, **settings: str) -> subprocess.CompletedProcess[str]:
    """With or without a hypervisor here."""
    return run("vagrant", "validate", "--ignore-provider", cwd=cwd, **settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {8501: 8501, 8080: 8080, 9092: 9092, 9042: 9042, 22: 2222}),
        (
            {"KAFKA_PORT": "19092", "SSH_PORT": "2022", "VM_MEMORY": "8192", "VM_CPUS": "4", "VM_BOX": "my/box"},
            {8501: 8501, 8080: 8080, 9092: 19092, 9042: 9042, 22: 2022},
        ),
    ],
    ids=["default", "moved"],
)
def test_forwards_to_the_loopback_only(tmp_path: Path, settings: dict[str, str], expected: dict[int, int]) -> None:
    (tmp_path / "Vagrantfile").write_text(RECORDING % (ROOT / "Vagrantfile"))
    result = validate(tmp_path, **settings)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning" not in result.stderr
    networks = [json.loads(line) for line in (tmp_path / "networks").read_text().splitlines()]
    assert {network["type"] for network in networks} == {"forwarded_port"}
    assert {network["host_ip"] for network in networks} == {"127.0.0.1"}
    assert {network["guest"]: network["host"] for network in networks} == expected


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"KAFKA_PORT": "99999"}, 'KAFKA_PORT is "99999", it takes a number from 1 to 65535.'),
        ({"VM_MEMORY": "4GB"}, 'VM_MEMORY is "4GB", it takes a number from 3584 to 262144.'),
        ({"CQL_PORT": "8501"}, "DASHBOARD_PORT and CQL_PORT are both 8501."),
        ({"MARKET": "kraken"}, 'MARKET is "kraken", it takes coinlore or simulator.'),
    ],
    ids=["port", "memory", "same", "market"],
)
def test_wrong_setting(settings: dict[str, str], sentence: str) -> None:
    result = validate(**settings)
    assert result.returncode != 0
    assert result.stderr.strip() == sentence


def inventory(tmp_path: Path, **settings: str) -> tuple[set[str], dict[str, Any]]:
    """The machine's groups and variables, from both inventories as Vagrant names them, templated."""
    (tmp_path / "vagrant_ansible_inventory").write_text(GENERATED + "\n")
    wanted = ["group_names", "ansible_host", "ansible_port", "ansible_user", "ansible_become", "app_market"]
    wanted += ["kafka_advertised_port", "kafka_listen_address", "cassandra_rpc_address"]
    message = f"{{{{ dict({wanted} | zip(query('ansible.builtin.vars', *{wanted}))) }}}}"
    result = run(
        *("ansible", "crypto-vm", f"--inventory={tmp_path}", "--inventory=inventories/vagrant"),
        *("--module-name=ansible.builtin.debug", f"--args=msg={message}"),
        ANSIBLE_CALLBACK_RESULT_FORMAT="json",
        **settings,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    values = json.loads(result.stdout.split("=>", 1)[1])["msg"]
    return set(values.pop("group_names")), values


def groups() -> set[str]:
    """The groups of the sandbox, which carries everything."""
    return set(yaml.safe_load((ROOT / "inventories/sandbox/hosts.yml").read_text())["all"]["children"])


def test_inventory(tmp_path: Path) -> None:
    carried, values = inventory(tmp_path, KAFKA_PORT="19092")
    assert carried == groups() - {"simulator"}
    assert values == {
        "ansible_host": "127.0.0.1",
        "ansible_port": 2200,
        "ansible_user": "vagrant",
        "ansible_become": True,
        "app_market": "coinlore",
        "kafka_advertised_port": 19092,
        "kafka_listen_address": "0.0.0.0",
        "cassandra_rpc_address": "0.0.0.0",
    }


def test_inventory_with_the_simulator(tmp_path: Path) -> None:
    carried, values = inventory(tmp_path, MARKET="simulator")
    assert carried == groups()
    assert (values["app_market"], values["kafka_advertised_port"]) == ("simulator", 9092)
