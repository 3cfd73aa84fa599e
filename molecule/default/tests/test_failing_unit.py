"""A unit that cannot start: the playbook fails, names it and shows its journal; what it leaves broken is named, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sandbox import ROOT, UNITS, playbook, states
from testinfra.host import Host

UNIT = "crypto-dashboard"
WORDS = "broken by a test"
START, VERIFY = ROOT / "playbooks/start.yml", ROOT / "playbooks/verify.yml"

pytestmark = pytest.mark.disturbs


@pytest.fixture
def broken(host: Host) -> Iterator[None]:
    drop_in = f"/etc/systemd/system/{UNIT}.service.d/broken.conf"
    content = f"[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo {WORDS}; exit 3'\n"
    host.check_output("mkdir -p $(dirname %s) && printf %%s %s > %s", drop_in, content, drop_in)
    host.check_output("systemctl daemon-reload && systemctl stop %s", UNIT)
    yield
    host.check_output("rm -r $(dirname %s) && systemctl daemon-reload", drop_in)
    repaired = playbook(START)
    assert repaired.returncode == 0, repaired.stdout
    assert states(host) == dict.fromkeys(UNITS, "active")


@pytest.mark.usefixtures("broken")
def test_is_named_with_its_journal_and_by_the_check() -> None:
    run = playbook(START)
    assert run.returncode != 0
    assert f"{UNIT}.service of crypto-sandbox did not start" in run.stdout
    assert WORDS in run.stdout
    assert "kafka.service of" not in run.stdout
    run = playbook(VERIFY)
    assert run.returncode != 0
    assert "First broken hop: dashboard" in run.stdout
