"""What is in the image, and what a container of it does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox import ROOT, SANDBOX, playbook, podman, port, power_cut, wait_for

IMAGE = "localhost/crypto-stream:test"
NAME = "crypto-molecule-image"


def run(*arguments: str) -> None:
    """A container in place of one that is ended the hard way: as the README runs it, with its data in a volume."""
    # At once: given time, it may end by itself at the moment when podman (4.3) kills it, which is an error then.
    podman("rm", "--force", "--ignore", "--time", "0", NAME)
    podman(
        *("--runtime", SANDBOX["sandbox_runtime"], "run", "--detach", "--name", NAME, "--memory", "4g", "--cpus", "2"),
        *(f"--ulimit={limit}" for limit in SANDBOX["sandbox_ulimits"]),
        *("--publish", f"127.0.0.1:{port('DASHBOARD_PORT', 8501)}:8501", "--volume", f"{NAME}:/var/lib"),
        *(*arguments, IMAGE),
    )


def inside(command: str) -> str:
    return podman("exec", NAME, "sh", "-c", command)


def flows() -> bool:
    return inside("crypto-check | tail -n 1") == "Data flows."


def rows() -> int:
    return int(inside("cqlsh -e 'SELECT COUNT(*) FROM crypto.prices'").split()[2])


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """The image's files."""
    yield Path(podman("image", "mount", IMAGE))
    podman("image", "unmount", IMAGE)


@pytest.fixture(scope="module")
def _cleared() -> Iterator[None]:
    podman("volume", "rm", "--force", NAME)
    yield
    podman("rm", "--force", "--ignore", "--time", "0", NAME)
    podman("volume", "rm", "--force", NAME)


def test_nothing_of_one_host_is_inside(root: Path) -> None:
    assert (root / "etc/machine-id").read_text() == ""
    ours = sorted(path.name for path in (root / "var/lib").iterdir())
    assert {"cassandra", "kafka", "spark", "crypto-stream", "crypto-producer"}.isdisjoint(ours)
    for folder in ("home", "var/cache", "var/log", "var/lib/apt/lists", "tmp", "var/tmp", "run"):
        assert sorted(path.name for path in (root / folder).iterdir()) == [], folder
    for gone in ("etc/ssh", "usr/sbin/sshd", "root/.ssh", "usr/local/share/ca-certificates/control-node.crt"):
        assert not (root / gone).exists()
    assert "ops:" not in (root / "etc/passwd").read_text()
    assert "ops" not in [path.name for path in (root / "etc/sudoers.d").iterdir()]
    left = [path.name for folder in (root / "opt").iterdir() for path in folder.iterdir() if path.suffix]
    assert [name for name in left if name.endswith((".download", ".wheels", ".tmp"))] == []


def test_it_is_as_large_as_the_readme_says() -> None:
    size = int(podman("image", "inspect", "--format={{.Size}}", IMAGE)) / 1e9
    assert f"The image takes {size:.1f} GB" in (ROOT / "README.md").read_text()


def test_without_room_nothing_is_begun() -> None:
    run = playbook(ROOT / "playbooks/image.yml", "--extra-vars=image_room_gb=999999")
    assert run.returncode != 0
    expected = "GB left, and making the image takes image_room_gb, 999999 GB; podman system prune"
    assert expected in " ".join(run.stdout.split())
    assert "changed=0" in run.stdout


@pytest.mark.usefixtures("_cleared")
class TestContainer:
    """In this order, on one volume."""

    def test_a_wrong_market_is_named(self) -> None:
        run("--env=MARKET=bitcoin")
        wait_for(lambda: podman("inspect", "--format={{.State.Status}}", NAME) == "exited", "its end", 60)
        assert podman("inspect", "--format={{.State.ExitCode}}", NAME) == "78"
        said = subprocess.run(["podman", "logs", NAME], check=True, capture_output=True, text=True).stderr
        assert said.strip() == "MARKET is 'bitcoin'; it takes coinlore or simulator."

    def test_data_flows_with_the_simulator(self) -> None:
        run()
        wait_for(flows, "data flowing", 300)
        assert inside("systemctl is-system-running") == "running"
        assert inside("systemctl is-active crypto-simulator") == "active"
        assert inside("cat /etc/machine-id") != ""

    def test_another_container_goes_on_with_its_data(self) -> None:
        before, cluster = rows(), inside("grep cluster.id /var/lib/kafka/data/meta.properties")
        podman("stop", "--time", "120", NAME)
        assert podman("inspect", "--format={{.State.ExitCode}}", NAME) in ("0", "130")
        run()
        wait_for(flows, "data flowing", 300)
        assert inside("grep cluster.id /var/lib/kafka/data/meta.properties") == cluster
        assert rows() >= before > 0
        # What is installed is the image's, not the volume's.
        assert inside("dpkg --get-selections | grep -c '^openjdk-8-jre-headless'") == "1"

    def test_it_starts_again(self) -> None:
        power_cut(NAME)
        wait_for(flows, "data flowing", 300)

    def test_prices_of_coinlore(self) -> None:
        run("--env=MARKET=coinlore")
        wait_for(lambda: inside("systemctl is-active crypto-producer") == "active", "the producer", 300)
        assert 'api_url = "https://api.coinlore.net/api"' in inside("cat /etc/crypto-stream/market.toml")
        assert inside("systemctl is-active crypto-simulator || true") == "inactive"
