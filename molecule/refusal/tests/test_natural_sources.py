"""Without a mirror, jars come by coordinates and Python packages by the lock, where the network allows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sandbox import ROOT, playbook
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

PLAYBOOK = Path(__file__).parent.parent / "artifact.yml"
NO_WAY_OUT = re.compile(
    r"(?:Temporary failure in name resolution|Name or service not known|No address associated with hostname"
    r"|Connection refused|Network is unreachable|No route to host|[Tt]imed out)"
)


def install(**variables: Any) -> None:
    """Install it, and again, which changes nothing."""
    for changed in (True, False):
        run = playbook(PLAYBOOK, f"--extra-vars={json.dumps(variables | {'artifact_mirror': ''})}")
        if run.returncode and (reason := NO_WAY_OUT.search(run.stdout)):
            pytest.skip(f"NOT TESTED: the host's network does not reach the natural source: {reason[0]}")
        assert run.returncode == 0, run.stdout
        assert ("changed=0" not in run.stdout) is changed


def test_jars(host: Host) -> None:
    install(tested_kind="jars", artifact_jar_set="spark_connectors", artifact_jars_path="/opt/test/connectors")
    assert host.check_output("ls /opt/test/connectors/*.jar | wc -l") == "14"


def test_python_packages(host: Host) -> None:
    lock = str(ROOT / "locks/cqlsh.txt")
    install(tested_kind="venv", artifact_venv_path="/opt/test/cqlsh", artifact_venv_lock=lock)
    assert host.check_output("/opt/test/cqlsh/bin/cqlsh --version").startswith("cqlsh 6.1.")
