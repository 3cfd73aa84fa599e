"""The whole stack on an instance: a container stands where moto says that the instance is, and is reached as one."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cloud import ADDRESSES, Cloud
from sandbox import CACHE, ROOT, SSH_OPTIONS, podman, wait_for

HOST = "crypto-molecule-ec2"
KEY = CACHE / "ssh/id_ed25519"
LOGIN = """
id ubuntu 2> /dev/null || useradd --create-home --shell /bin/bash ubuntu
install -d -o ubuntu -g ubuntu -m 700 ~ubuntu/.ssh
install -o ubuntu -g ubuntu -m 600 ~ops/.ssh/authorized_keys ~ubuntu/.ssh/authorized_keys
echo 'ubuntu ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ubuntu
"""
# The first boot of an image of a cloud: cloud-init is busy for a while, and then somebody has apt's lock.
FIRST_BOOT = """
apt-get update && apt-get install -y --no-install-recommends cloud-init
install -d /var/lib/cloud/seed/nocloud
echo 'instance-id: i-first-boot' > /var/lib/cloud/seed/nocloud/meta-data
cat > /var/lib/cloud/seed/nocloud/user-data <<'END'
#cloud-config
apt: {preserve_sources_list: true}
locale: false
ssh_deletekeys: false
users: []
runcmd:
  - sleep 20
  - touch /boot-is-over
  - systemd-run --unit=somebody /usr/local/bin/hold-lock
END
cat > /usr/local/bin/hold-lock <<'END'
#!/usr/bin/python3
import fcntl, pathlib, time
with open("/var/lib/dpkg/lock-frontend", "w") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    time.sleep(40)
    pathlib.Path("/lock-is-free").touch()
END
chmod +x /usr/local/bin/hold-lock
"""


def provide(*arguments: str) -> None:
    """Make the container, or remove it."""
    variables: dict[str, Any] = {
        "sandbox_name": HOST,
        "sandbox_ssh_port": 22025,
        "sandbox_publish": ["127.0.0.1:22025:22", f"{ADDRESSES[0]}:22:22"],
    }
    subprocess.run(
        [
            *("ansible-playbook", "--inventory=inventories/sandbox", f"--extra-vars={json.dumps(variables)}"),
            *(*arguments, "playbooks/sandbox.yml"),
        ],
        cwd=ROOT,
        check=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def instance(cloud: Cloud) -> Iterator[None]:
    """One instance, where a host answers."""
    absent = "--extra-vars=sandbox_state=absent"
    provide(absent)
    provide()
    podman("exec", HOST, "sh", "-ec", LOGIN + FIRST_BOOT)
    podman("restart", "--time", "30", HOST)
    run = cloud.playbook(ec2_public_key_file=f"{KEY}.pub", _ec2_ssh_port=22)
    assert run.returncode == 0, run.stdout
    yield
    run = cloud.playbook(ec2_state="absent")
    provide(absent)
    assert run.returncode == 0, run.stdout


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this machine lacks and AWS has: releases, Ubuntu's JDK 8, and CoinLore."""
    folder = tmp_path_factory.mktemp("here")
    values = yaml.safe_load((ROOT / "inventories/sandbox/group_vars/all.yml").read_text())
    names = ("java_apt_repository", "sandbox_sid", "sandbox_cache", "artifact_mirror", "cassandra_max_map_count")
    kept = {name: values[name] for name in names}
    # The next container at this address has another key.
    others = {
        "app_coinlore_url": "http://127.0.0.1:8090/api",
        "ansible_ssh_extra_args": "-o UserKnownHostsFile=/dev/null",
    }
    (folder / "group_vars").mkdir()
    (folder / "group_vars/all.yml").write_text(yaml.safe_dump(kept | others))
    (folder / "hosts.yml").write_text("all: {children: {simulator: {hosts: {crypto-stream-1: }}}}\n")
    return folder


def site(cloud: Cloud, here: Path) -> subprocess.CompletedProcess[str]:
    """site.yml on the instances that the inventory finds, as a user runs it."""
    return cloud.run(
        *("ansible-playbook", "--inventory=inventories/ec2", f"--inventory={here}", f"--private-key={KEY}"),
        "playbooks/site.yml",
        timeout=1200,
    )


def on_instance(command: str) -> subprocess.CompletedProcess[str]:
    """A command in a shell of the user who logs in to an instance."""
    options = [f"-o{name}={value}" for name, value in SSH_OPTIONS.items()]
    return subprocess.run(
        ["ssh", "-i", str(KEY), *options, f"ubuntu@{ADDRESSES[0]}", command],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )


def flows() -> bool:
    return on_instance("crypto-check").returncode == 0


@pytest.mark.usefixtures("instance")
class TestStack:
    """In this order."""

    def test_it_is_installed_and_data_flows(self, cloud: Cloud, here: Path) -> None:
        run = site(cloud, here)
        assert run.returncode == 0, run.stdout
        wait_for(flows, "data flowing", 300)

    def test_it_waited_for_the_first_boot_and_for_the_lock(self) -> None:
        moments = on_instance(
            "stat --format %Y /boot-is-over /etc/systemd/journald.conf.d/crypto-stream.conf"
            " /lock-is-free /var/lib/dpkg/info/openjdk-8-jre-headless:*.list"
        ).stdout.split()
        boot, first_change, lock, package = map(int, moments)
        assert boot <= first_change
        assert lock <= package

    def test_again_changes_nothing(self, cloud: Cloud, here: Path) -> None:
        run = site(cloud, here)
        assert run.returncode == 0, run.stdout
        assert re.search(r"^crypto-stream-1 .* changed=0 ", run.stdout, re.MULTILINE), run.stdout

    def test_it_is_stopped_and_started(self) -> None:
        """By the commands of the README, as the user of the instance."""
        stopped = on_instance("sudo systemctl stop crypto-stack.target; systemctl is-active crypto-stack.target")
        assert stopped.stdout.strip() == "inactive"
        script = (
            "systemctl list-units --no-legend --state=active,deactivating 'crypto-*' 'spark-*' kafka cassandra | wc -l"
        )
        wait_for(lambda: on_instance(script).stdout.strip() == "0", "everything stopped", 300)
        assert on_instance("sudo systemctl start crypto-stack.target").returncode == 0
        wait_for(flows, "data flowing again", 300)

    def test_only_the_dashboard_and_ssh_listen_outside(self) -> None:
        listening = on_instance("ss --no-header --tcp --listening --numeric | awk '{print $4}'").stdout.split()
        outside = {address for address in listening if not address.startswith(("127.", "[::1]"))}
        assert {address.rsplit(":", 1)[1] for address in outside} == {"22", "8501"}
