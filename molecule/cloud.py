"""A server that answers like EC2, two addresses where ssh seems to answer, and the playbook and inventory on them."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from sandbox import ROOT, wait_for

REGION = "eu-central-1"
ADDRESSES = ["127.0.0.10", "127.0.0.11"]
CANONICAL = "099720109477"
JAMMY = "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server"
NEWEST = "ami-00000000000000002"
# The images of this EC2: the newest by Canonical is neither the first nor the last, and somebody else's is newer.
IMAGES = [
    ("ami-00000000000000001", f"{JAMMY}-20250101", CANONICAL, "2025-01-01"),
    (NEWEST, f"{JAMMY}-20260101", CANONICAL, "2026-01-01"),
    (
        "ami-00000000000000003",
        "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20260301",
        CANONICAL,
        "2026-03-01",
    ),
    ("ami-00000000000000004", f"{JAMMY}-20260401", "123456789012", "2026-04-01"),
]


class Greeting(socketserver.BaseRequestHandler):
    """What one sees of sshd before one logs in."""

    def handle(self) -> None:
        self.request.sendall(b"SSH-2.0-OpenSSH_8.9p1 Ubuntu-3\r\n")


@dataclass
class Cloud:
    """An EC2 of one's own."""

    endpoint: str
    ssh_port: int
    directory: Path
    subnet: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def api(self) -> Any:
        return boto3.client(
            "ec2",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def variables(self) -> dict[str, Any]:
        """What every run is told."""
        return {
            "ec2_allowed_from": "203.0.113.7",
            "ec2_public_key_file": str(self.directory / "key.pub"),
            "ec2_subnet_id": self.subnet,
            "ec2_private_addresses": ADDRESSES,
            "_ec2_ssh_port": self.ssh_port,
        }

    def run(
        self, *command: str, environment: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run it in a user's environment, of which only what is given here speaks of AWS."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return subprocess.run(
            command,
            cwd=ROOT,
            env=mine | self.environment | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )

    def playbook(
        self, *arguments: str, environment: dict[str, str] | None = None, **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        given = json.dumps(self.variables() | variables)
        return self.run(
            "ansible-playbook",
            "--inventory=localhost,",
            f"--extra-vars={given}",
            *arguments,
            "playbooks/ec2.yml",
            environment=environment,
        )

    def inventory(self) -> dict[str, Any]:
        script = "ansible-inventory --inventory=inventories/ec2 --list 2>/dev/null"
        run = self.run("sh", "-c", script)
        assert run.returncode == 0, run.stdout
        # What comes from the API is wrapped, so that it is never taken for a template.
        inventory: dict[str, Any] = json.loads(run.stdout, object_hook=lambda item: item.get("__ansible_unsafe", item))
        return inventory

    def instances(self, *states: str) -> list[dict[str, Any]]:
        filters = [{"Name": "instance-state-name", "Values": list(states or ["pending", "running"])}]
        reservations = self.api.describe_instances(Filters=filters)["Reservations"]
        return [instance for reservation in reservations for instance in reservation["Instances"]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def ssh_port() -> Iterator[int]:
    """Where something greets like sshd, at every address of the loopback interface."""
    with socketserver.ThreadingTCPServer(("0.0.0.0", 0), Greeting) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="session")
def cloud(ssh_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    directory = tmp_path_factory.mktemp("ec2")
    images = [
        {
            "ami_id": ami,
            "name": name,
            "owner_id": owner,
            "creation_date": f"{date}T00:00:00.000Z",
            "architecture": "x86_64",
            "root_device_type": "ebs",
            "virtualization_type": "hvm",
        }
        for ami, name, owner, date in IMAGES
    ]
    (directory / "images.json").write_text(json.dumps(images))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "key"], check=True)

    port = free_port()
    with (directory / "moto.log").open("w") as log:
        server = subprocess.Popen(
            ["moto_server", "-H", "127.0.0.1", "-p", str(port)],
            env=os.environ
            | {"MOTO_AMIS_PATH": str(directory / "images.json"), "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        cloud = Cloud(f"http://127.0.0.1:{port}", ssh_port, directory)
        cloud.environment = {
            "ANSIBLE_FORCE_COLOR": "0",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": cloud.endpoint,
            "AWS_CONFIG_FILE": str(directory / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(directory / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        }
        wait_for(lambda: urlopen(f"{cloud.endpoint}/moto-api/data.json").status == 200, "moto's server", 30)
        network = cloud.api.create_vpc(CidrBlock="127.0.0.0/16")["Vpc"]["VpcId"]
        cloud.subnet = cloud.api.create_subnet(VpcId=network, CidrBlock="127.0.0.0/24")["Subnet"]["SubnetId"]
        yield cloud
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=20)
