"""The module that writes files, run as Ansible runs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def write(files: dict[Path, str], *options: str, **arguments: Any) -> dict[str, Any]:
    """The result of the module on this machine, as the user that runs the tests."""
    me = {"owner": str(os.getuid()), "group": str(os.getgid())}
    parameters = {"files": {str(path): content for path, content in files.items()}} | me | arguments
    run = subprocess.run(
        ["ansible", "localhost", "-m", "host_files", "-a", json.dumps(parameters), *options],
        env=os.environ
        | {"ANSIBLE_LIBRARY": str(ROOT / "roles/common/library"), "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"}
        | {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.oneline", "ANSIBLE_LOCALHOST_WARNING": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    result: dict[str, Any] = json.loads(run.stdout[run.stdout.index("{") :].splitlines()[0])
    return result


@pytest.fixture
def two(tmp_path: Path) -> dict[Path, str]:
    return {tmp_path / "etc/one": "1\n", tmp_path / "etc/two": "#!/bin/sh\n"}


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o7777)


def test_writes_once(two: dict[Path, str]) -> None:
    result = write(two)
    assert (result["changed"], result["paths"]) == (True, [str(path) for path in two])
    assert {path: path.read_text() for path in two} == two
    assert [mode(path) for path in two] == ["0o644", "0o755"]
    again = write(two)
    assert (again["changed"], again["paths"]) == (False, [])


def test_one_that_is_wrong_leaves_all_as_they_were(two: dict[Path, str]) -> None:
    write(two)
    one, other = two
    result = write({one: "good\n", other: "bad\n"}, validate="grep -q good %s")
    assert result["paths"] == []
    assert f"{other} would be wrong, and nothing was written" in result["msg"]
    assert {path: path.read_text() for path in two} == two


def test_one_that_has_no_place_leaves_all_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = write({tmp_path / "one": "1\n", tmp_path / "file/below": "2\n"})
    assert f"file/below cannot be written, and nothing was: {tmp_path}/file is no folder" in result["msg"]
    assert not (tmp_path / "one").exists()


def test_mode_is_kept(two: dict[Path, str]) -> None:
    write(two, mode="0600")
    assert [mode(path) for path in two] == ["0o600", "0o600"]
    first = next(iter(two))
    first.chmod(0o644)
    result = write(two, mode="0600")
    assert result["paths"] == [str(first)]
    assert [mode(path) for path in two] == ["0o600", "0o600"]


def test_check_mode_writes_nothing(two: dict[Path, str]) -> None:
    result = write(two, "--check")
    assert (result["changed"], result["paths"]) == (True, [str(path) for path in two])
    assert not any(path.exists() for path in two)
