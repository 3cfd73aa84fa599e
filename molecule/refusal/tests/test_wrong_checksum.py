"""A file that is not what was promised stops the play, and nothing of it is unpacked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sandbox import playbook
from testinfra.host import Host

pytestmark = pytest.mark.disturbs

PLAYBOOK = Path(__file__).parent.parent / "artifact.yml"
FILE = "kafka_2.13-3.6.1.tgz"


@pytest.mark.parametrize("source", ["a directory", "an address", "the natural source"])
def test_stops(host: Host, tmp_path: Path, source: str) -> None:
    (tmp_path / FILE).write_text("not what was promised")
    (tmp_path / f"{FILE}.sha512").write_text(f"{'0' * 128}  {FILE}\n")
    served = "/srv/test/kafka/3.6.1"
    script = 'mkdir -p "$1" && cd "$1" && echo wrong > "$2" && printf "%0128d  $2" 0 > "$2.sha512"'
    host.check_output("sh -c %s sh %s %s", script, served, FILE)
    mirror = {"a directory": str(tmp_path), "an address": f"file://{served}", "the natural source": ""}[source]
    variables = {
        "tested_kind": "archive",
        "artifact_name": "kafka",
        "artifact_version": "3.6.1",
        "artifact_mirror": mirror,
        "artifact_archive_url": "file:///srv/test",
    }
    run = playbook(PLAYBOOK, f"--extra-vars={json.dumps(variables)}")
    output = " ".join(run.stdout.split())
    assert run.returncode != 0
    assert re.search("checksum .*did not match", output)
    assert "nothing was unpacked" in output
    assert host.run("find /opt/kafka -not -type d").stdout == ""
