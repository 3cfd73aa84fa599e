"""A host that leaves a group: what it does not carry any more is stopped; the piece's own playbook brings it back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sandbox import ROOT, UNITS, playbook, properties, states
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

UNIT = "crypto-dashboard"


@pytest.fixture
def back(host: Host) -> Iterator[None]:
    yield
    run = playbook(ROOT / "playbooks/app.yml")
    assert run.returncode == 0, run.stdout
    run = playbook(ROOT / "playbooks/start.yml")
    assert run.returncode == 0, run.stdout
    assert states(host) == dict.fromkeys(UNITS, "active")
    assert properties(host, UNIT, "UnitFileState")["UnitFileState"] == "enabled"


@pytest.fixture
def foreign(host: Host) -> Iterator[None]:
    """Somebody else's unit, of the name of one that this host does not carry."""
    unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    host.check_output("printf %%s %s > /etc/systemd/system/zookeeper.service", unit)
    host.check_output("systemctl daemon-reload && systemctl enable --now zookeeper")
    yield
    host.check_output("systemctl disable --now zookeeper && rm /etc/systemd/system/zookeeper.service")
    host.check_output("systemctl daemon-reload")


@pytest.mark.usefixtures("back", "foreign")
def test_a_piece_that_left(host: Host, tmp_path: Path) -> None:
    """What is somebody else's is left alone: a host in the same inventory that cannot even be reached, and a unit."""
    inventory = yaml.safe_load((ROOT / "inventories/sandbox/hosts.yml").read_text())
    del inventory["all"]["children"]["dashboard"]
    inventory["all"]["hosts"]["bastion"] = {"ansible_host": "203.0.113.1", "ansible_timeout": 3}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (tmp_path / "group_vars").symlink_to(ROOT / "inventories/sandbox/group_vars")
    before = properties(host, "kafka", "MainPID")
    run = playbook(ROOT / "playbooks/kafka.yml", instead=tmp_path)
    assert run.returncode == 0, run.stdout
    assert properties(host, UNIT, "ActiveState", "UnitFileState") == {
        "ActiveState": "inactive",
        "UnitFileState": "disabled",
    }
    assert properties(host, "zookeeper", "ActiveState", "UnitFileState") == {
        "ActiveState": "active",
        "UnitFileState": "enabled",
    }
    # Only that has changed: nothing was restarted, and the rest runs.
    assert "changed=1 " in run.stdout
    assert properties(host, "kafka", "MainPID") == before
    assert {unit: state for unit, state in states(host).items() if state != "active"} == {UNIT: "inactive"}
