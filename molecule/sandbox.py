"""The host under test: where it is, how to run something on it, and how to wait for it.

Where it is comes from the variables that inventories/sandbox reads, too. With none of them set it is the sandbox.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import testinfra
import yaml
from testinfra.host import Host

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("CRYPTO_STREAM_CACHE") or Path.home() / ".cache/crypto-stream")
CONTAINER = os.environ.get("SANDBOX_NAME") or "crypto-sandbox"
PAUSE_SECONDS = 0.2
# How containers are run: its runtime and limits.
SANDBOX = yaml.safe_load((ROOT / "roles/sandbox/defaults/main.yml").read_text())

# Every unit of the stack and the user it runs as.
JVM_UNITS = {
    **({"zookeeper": "zookeeper"} if os.environ.get("KAFKA_MODE") == "zookeeper" else {}),
    "kafka": "kafka",
    "cassandra": "cassandra",
    "spark-master": "spark",
    "spark-worker": "spark",
    "crypto-stream-job": "crypto-stream",
}
PYTHON_UNITS = {
    "crypto-schema": "crypto-stream",
    "crypto-simulator": "crypto-stream",
    "crypto-producer": "crypto-stream",
    "crypto-dashboard": "crypto-stream",
}
UNITS = JVM_UNITS | PYTHON_UNITS
TARGET = "crypto-stack.target"

Found = TypeVar("Found")


def port(variable: str, default: int) -> int:
    """A port on 127.0.0.1."""
    return int(os.environ.get(variable) or default)


def wait_for(condition: Callable[[], Found], what: str, limit: float) -> Found:
    """The first true value of a condition. What raises is not there yet: it is tried again until the limit."""
    deadline = time.monotonic() + limit
    while True:
        try:
            if value := condition():
                return value
            seen: object = value
        except Exception as error:
            seen = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {limit:.0f} s; the last look brought {seen!r}")
        time.sleep(PAUSE_SECONDS)


# A login takes longer than most commands: they share one, which a host that has lost its power does not keep.
SSH_OPTIONS = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "LogLevel": "ERROR",
    "ControlMaster": "auto",
    "ControlPersist": "60s",
    "ControlPath": f"{CACHE}/ssh/%r-%h-%p",
    "ServerAliveInterval": "2",
}


def connect(*, sudo: bool) -> Host:
    """The host over ssh, as the user that Ansible logs in as, too."""
    return testinfra.get_host(
        f"ssh://ops@127.0.0.1:{port('SSH_PORT', 2222)}",
        ssh_identity_file=str(CACHE / "ssh/id_ed25519"),
        ssh_extra_args=" ".join(f"-o {name}={value}" for name, value in SSH_OPTIONS.items()),
        sudo=sudo,
    )


def properties(host: Host, unit: str, *names: str) -> dict[str, str]:
    """What systemd says is in effect for a unit."""
    output = host.check_output("systemctl show --property=%s %s", ",".join(names), unit)
    return dict(line.split("=", 1) for line in output.splitlines())


# Processes that are not the main one of a unit, by what finds them and not the shell that looks for them.
CHILDREN = {
    "executor": "[C]oarseGrainedExecutorBackend",
    "crypto-stream-job (Python)": r"[c]rypto_stream[^ ]*/stream_job\.py$",
}


def process(host: Host, name: str) -> str:
    """The process id of a unit's main process, or of one of CHILDREN."""
    if name not in CHILDREN:
        return properties(host, name, "MainPID")["MainPID"]
    # The newest, since the JVM that starts the Python child has its name in its own command line, too.
    found = host.check_output("pgrep --newest --full -- %s", CHILDREN[name]).split()
    return found[0]


def states(host: Host) -> dict[str, str]:
    """ActiveState of every unit of the stack."""
    output = host.check_output("systemctl show --property=ActiveState --value " + " ".join(UNITS))
    return dict(zip(UNITS, output.split(), strict=True))


def events(host: Host, unit: str, name: str, since: float = 0) -> list[dict[str, Any]]:
    """What a Python service logged under this name, from a moment in epoch seconds on."""
    output = host.check_output("journalctl --quiet --output=cat --unit=%s --since=@%s", unit, f"{since:.3f}")
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


def podman(*arguments: str) -> str:
    """A command of podman, as root; what it complains of is shown with the test that fails."""
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    run = subprocess.run([*sudo, "podman", *arguments], check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    return run.stdout.strip()


def power_cut(name: str) -> None:
    """Kill a container and start it again. Before podman has cleaned up, it would start on a network that goes away."""
    podman("kill", name)
    wait_for(lambda: podman("inspect", "--format={{.State.Status}}", name) == "exited", f"the end of {name}", 60)
    podman("start", name)


def playbook(path: Path | str, *arguments: str, instead: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the project on the inventories that molecule uses; both outputs are in stdout.

    `instead` is an inventory in place of the sandbox's.
    """
    scenario = os.environ.get("MOLECULE_SCENARIO_DIRECTORY")
    inventories = [instead or ROOT / "inventories/sandbox", *([Path(scenario) / "inventory"] if scenario else [])]
    return subprocess.run(
        ["ansible-playbook", *(f"--inventory={inventory}" for inventory in inventories), *arguments, str(path)],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
