"""The image on a host: as much of one as a container can be that runs podman itself."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sandbox import ROOT, SANDBOX, connect, playbook, podman, port, wait_for
from testinfra.host import Host

NAME = "crypto-molecule-image-host"
OTHER = "localhost/crypto-stream:of-another-machine"
# What podman needs inside a container: nothing of this is so on a server.
INSIDE_A_CONTAINER = {
    "containers.conf": f"""\
[containers]
default_ulimits = {SANDBOX["sandbox_ulimits"]}
[engine]
runtime = "{SANDBOX["sandbox_runtime"]}"
[network]
default_subnet = "10.89.7.0/24"
""",
    "storage.conf": """\
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
""",
}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host is in the group `image`, and in none of the stack's."""
    folder = tmp_path_factory.mktemp("inventory")
    sandbox = ROOT / "inventories/sandbox"
    (host,) = yaml.safe_load((sandbox / "hosts.yml").read_text())["all"]["hosts"].values()
    (folder / "hosts.yml").write_text(yaml.safe_dump({"image": {"hosts": {"box": host}}}))
    (folder / "group_vars").symlink_to(sandbox / "group_vars")
    return folder


def provide(state: str) -> None:
    variables = {
        "sandbox_name": NAME,
        "sandbox_state": state,
        "sandbox_ssh_port": port("SSH_PORT", 2222),
        "sandbox_publish": [f"127.0.0.1:{port('SSH_PORT', 2222)}:22"],
    }
    run = playbook(ROOT / "playbooks/sandbox.yml", f"--extra-vars={json.dumps(variables)}")
    assert run.returncode == 0, run.stdout


@pytest.fixture(scope="module")
def box() -> Iterator[Host]:
    provide("absent")
    provide("present")
    box = connect(sudo=True)
    packages = "podman runc netavark aardvark-dns catatonit iptables"
    box.check_output(f"apt-get update && apt-get install -y --no-install-recommends {packages}")
    for name, text in INSIDE_A_CONTAINER.items():
        box.check_output("mkdir -p /etc/containers && printf %%s %s > /etc/containers/%s", text, name)
    yield box
    provide("absent")


def deploy(inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return playbook(
        ROOT / "playbooks/image_deploy.yml", "--extra-vars=image_market=simulator", *arguments, instead=inventory
    )


def test_wrong_input_is_named_and_changes_nothing(box: Host, inventory: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "files.tar", "w") as files:
        files.add(ROOT / "LICENSE", "LICENSE")
    podman("import", "--arch", "riscv64", str(tmp_path / "files.tar"), OTHER)
    for variables, expected in {
        "image_name=localhost/none:0": "box: there is no image localhost/none:0 on the control node; make image",
        f"image_name={OTHER}": f"box: the image {OTHER} is for riscv64, and this host is ",
        "image_market=bitcoin": "image_market must be one of: coinlore, simulator, got: bitcoin",
    }.items():
        run = deploy(inventory, f"--extra-vars={variables}")
        assert run.returncode != 0
        assert expected in " ".join(run.stdout.split())
        assert "changed=0" in run.stdout
    podman("rmi", OTHER)


def test_check_mode_says_what_would_be_done(box: Host, inventory: Path) -> None:
    run = deploy(inventory, "--check", "--diff")
    assert run.returncode == 0, run.stdout
    assert "would be copied to this host" in run.stdout
    assert "MARKET=simulator localhost/crypto-stream:test" in run.stdout
    assert not box.file("/etc/systemd/system/crypto-stream.service").exists


def test_a_port_that_is_taken_is_named(box: Host, inventory: Path) -> None:
    box.check_output("systemd-run --unit=other python3 -m http.server 8501")
    run = deploy(inventory)
    box.check_output("systemctl stop other")
    assert run.returncode != 0
    assert "The container does not start on box. The last of journalctl -u crypto-stream:" in run.stdout
    assert "address already in use" in run.stdout
    # It has been brought, and goes on to try.
    assert "localhost/crypto-stream:test" in box.check_output("podman images --format '{{.Repository}}:{{.Tag}}'")
    assert box.service("crypto-stream").is_enabled


@pytest.fixture
def _nested() -> None:
    """Where this is no test, a server is one: there, podman is in no container."""
    if podman("info", "--format={{.Host.CgroupsVersion}}") == "v1":
        pytest.skip("with control groups of version 1, systemd does not run in a container that is in a container")


@pytest.mark.usefixtures("_nested")
def test_it_runs_as_a_unit(box: Host, inventory: Path) -> None:
    run = deploy(inventory)
    assert run.returncode == 0, run.stdout
    assert box.service("crypto-stream").is_enabled
    assert box.check_output("podman exec crypto-stream crypto-check | tail -n 1") == "Data flows."


@pytest.mark.usefixtures("_nested")
@pytest.mark.parametrize("mode", [(), ("--check",)])
def test_again_changes_nothing(box: Host, inventory: Path, mode: tuple[str, ...]) -> None:
    run = deploy(inventory, *mode)
    assert run.returncode == 0, run.stdout
    assert "changed=0" in run.stdout


@pytest.mark.usefixtures("_nested")
def test_it_comes_back_with_the_host_and_its_data(box: Host) -> None:
    cluster = "podman exec crypto-stream grep cluster.id /var/lib/kafka/data/meta.properties"
    before = box.check_output(cluster)
    podman("stop", "--time", "120", NAME)
    podman("start", NAME)
    wait_for(lambda: connect(sudo=True).check_output(cluster) == before, "the container", 300)
    flows = "podman exec crypto-stream crypto-check | tail -n 1"
    wait_for(lambda: connect(sudo=True).check_output(flows) == "Data flows.", "data flowing", 300)
