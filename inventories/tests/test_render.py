"""Every file of every role, rendered for each inventory: the same everywhere but for what is written down here."""

from __future__ import annotations

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from pathlib import Path
from typing import TypeAlias

import pytest
import tomllib
import yaml
from crypto_stream import config

ROOT = Path(__file__).resolve().parents[2]
Files: TypeAlias = dict[str, str]
SETTINGS = ("DASHBOARD_PORT", "SPARK_UI_PORT", "KAFKA_PORT", "CQL_PORT", "SSH_PORT", "MARKET", "KAFKA_MODE")


def groups_of_ec2() -> list[str]:
    """The groups of an instance without a tag that says others."""
    (key,) = yaml.safe_load((ROOT / "inventories/ec2/aws_ec2.yml").read_text())["keyed_groups"]
    return re.findall(r"[a-z_]+", re.findall(r"default\('([^']*)'", key["key"])[0])


def sources(name: str, folder: Path) -> list[Path]:
    """What Ansible reads for an inventory; what Vagrant and AWS would say of the host is written down in `folder`."""
    folder.mkdir()
    if name == "sandbox":
        return [ROOT / "inventories/sandbox"]
    if name == "apart":
        first = ("kafka_controller", "producer")
        members = {group: {"hosts": {"one" if group in first else "other": {}}} for group in groups_of_ec2()}
        (folder / "hosts.json").write_text(json.dumps({"all": {"children": members}}))
        return [folder]
    if name == "vagrant":
        (folder / "vagrant_ansible_inventory").write_text("crypto-vm ansible_host=127.0.0.1 ansible_port=2200\n")
        return [folder, ROOT / "inventories/vagrant"]
    if name == "ec2":
        (folder / "group_vars").symlink_to(ROOT / "inventories/ec2/group_vars")
        instance = {"hosts": {"crypto-stream-1": {"ansible_host": "198.51.100.20", "common_address": "10.0.0.5"}}}
        everything = dict.fromkeys([*groups_of_ec2(), "aws_ec2"], instance)
        (folder / "hosts.json").write_text(json.dumps({"all": {"children": everything}}))
        return [folder]
    return [ROOT / f"inventories/sample/{name}.yml"]


def render(name: str, folder: Path, *arguments: str) -> dict[str, Files]:
    """The files of each host of an inventory, by path."""
    templates = sorted(str(path) for path in ROOT.glob("roles/*/templates/**/*.j2"))
    variables = {"render_to": str(folder / f"{name}.json"), "render_files": templates}
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    run = subprocess.run(
        [
            *("ansible-playbook", str(ROOT / "inventories/tests/render.yml"), "--tags=render", "--skip-tags=always"),
            *(f"--inventory={source}" for source in sources(name, folder / name)),
            *(f"--extra-vars=@{file}" for file in sorted(ROOT.glob("playbooks/group_vars/all/*.yml"))),
            f"--extra-vars={json.dumps(variables)}",
            *arguments,
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rendered: dict[str, Files] = json.loads((folder / f"{name}.json").read_text())
    return rendered


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Files]]:
    """All inventories, two at a time."""
    folder = tmp_path_factory.mktemp("render")
    names = ["one", "three", "sandbox", "vagrant", "ec2"]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda name: render(name, folder), names), strict=True))


def differences(one: Files, other: Files) -> dict[str, list[str]]:
    """What the second host's files have that the first one's have not, and the other way round, by path."""
    found = {}
    for path in sorted(one.keys() | other.keys()):
        if one.get(path) != other.get(path):
            lines = unified_diff(one.get(path, "").splitlines(), other.get(path, "").splitlines(), n=0, lineterm="")
            found[path] = [line for line in lines if not re.match(r"---|\+\+\+|@@", line)]
    return found


# Every public variable that a file shows, another value, and the line that it makes there.
ALTERNATIVE: dict[str, tuple[object, str, str]] = {
    "app_prices_days": (7, "/etc/crypto-stream/retention.toml", "prices_days = 7"),
    "app_candles_days": (77, "/etc/crypto-stream/retention.toml", "candles_days = 77"),
    "app_market_global_days": (77, "/etc/crypto-stream/retention.toml", "market_global_days = 77"),
    "app_dead_letters_days": (7, "/etc/crypto-stream/retention.toml", "dead_letters_days = 7"),
    "app_coinlore_url": (
        "https://example.org/api",
        "/etc/crypto-stream/market.toml",
        'api_url = "https://example.org/api"',
    ),
    "app_topic_partitions": (6, "/etc/crypto-stream/kafka.toml", "partitions = 6"),
    "app_topic_retention_hours": (7, "/etc/crypto-stream/kafka.toml", "retention_hours = 7"),
    "app_topic_retention_bytes": (7777777, "/etc/crypto-stream/kafka.toml", "retention_bytes = 7777777"),
    "app_stale_after_seconds": (777, "/etc/crypto-stream/freshness.toml", "stale_after_seconds = 777"),
    "cassandra_cluster_name": ("another", "/etc/cassandra/cassandra.yaml", 'cluster_name: "another"'),
    "cassandra_datacenter": ("dc7", "/etc/cassandra/cassandra-rackdc.properties", "dc=dc7"),
    "cassandra_rack": ("rack7", "/etc/cassandra/cassandra-rackdc.properties", "rack=rack7"),
    "cassandra_heap_size": ("600m", "/etc/cassandra/cassandra.env", "MAX_HEAP_SIZE=600m"),
    "cassandra_memory_max": ("1300M", "/etc/systemd/system/cassandra.service", "MemoryMax=1300M"),
    "cassandra_max_map_count": (777777, "/etc/sysctl.d/cassandra.conf", "vm.max_map_count = 777777"),
    "cassandra_rpc_address": ("0.0.0.0", "/etc/cassandra/cassandra.yaml", 'rpc_address: "0.0.0.0"'),
    "cassandra_broadcast_rpc_address": (
        "10.7.7.7",
        "/etc/cassandra/cassandra.yaml",
        'broadcast_rpc_address: "10.7.7.7"',
    ),
    "common_journal_max_size": ("77M", "/etc/systemd/journald.conf.d/crypto-stream.conf", "SystemMaxUse=77M"),
    "dashboard_address": ("127.0.0.1", "/etc/systemd/system/crypto-dashboard.service", "--server.address 127.0.0.1 "),
    "dashboard_port": (8777, "/etc/systemd/system/crypto-dashboard.service", "--server.port 8777 "),
    "dashboard_metrics_port": (9777, "/etc/crypto-stream/dashboard.toml", "metrics_port = 9777"),
    "dashboard_refresh_seconds": (7, "/etc/crypto-stream/dashboard.toml", "refresh_seconds = 7"),
    "java_home": ("/opt/java7", "/etc/systemd/system/kafka.service", "ExecStart=/opt/java7/bin/java "),
    "java_apt_repository": (
        {"uris": ["https://example.org"], "suites": ["x"], "components": ["main"], "signed_by": "/k"},
        "/etc/apt/sources.list.d/crypto-stream-java.sources",
        "URIs: https://example.org",
    ),
    "cassandra_version": ("4.1.7", "/etc/systemd/system/cassandra.service", "data-version /var/lib/cassandra 4.1.7\n"),
    "kafka_version": ("3.6.2", "/etc/systemd/system/kafka.service", "data-version /var/lib/kafka 3.6.2\n"),
    "kafka_heap_size": ("300m", "/etc/kafka/kafka.env", "-Xmx300m"),
    "kafka_memory_max": ("700M", "/etc/systemd/system/kafka.service", "MemoryMax=700M"),
    "kafka_listen_address": ("0.0.0.0", "/etc/kafka/server.properties", "EXTERNAL://0.0.0.0:9777"),
    "kafka_port": (9777, "/etc/kafka/server.properties", "EXTERNAL://0.0.0.0:9777"),
    "kafka_advertised_host": ("k.example.org", "/etc/kafka/server.properties", "EXTERNAL://k.example.org:19777"),
    "kafka_advertised_port": (19777, "/etc/kafka/server.properties", "EXTERNAL://k.example.org:19777"),
    "kafka_cluster_id": ("B" * 22, "/usr/local/libexec/crypto-stream/kafka-format", f"wanted='{'B' * 22}'"),
    "kafka_retention_hours": (77, "/etc/kafka/server.properties", "log.retention.hours=77"),
    "kafka_retention_bytes": (7777777, "/etc/kafka/server.properties", "log.retention.bytes=7777777"),
    "producer_coins": (["90", "80"], "/etc/crypto-stream/producer.toml", 'coins = ["90", "80"]'),
    "producer_interval_seconds": (77, "/etc/crypto-stream/producer.toml", "interval_seconds = 77"),
    "producer_outbox_hours": (77, "/etc/crypto-stream/producer.toml", "outbox_hours = 77"),
    "producer_outbox_bytes": (7777777, "/etc/crypto-stream/producer.toml", "outbox_bytes = 7777777"),
    "producer_metrics_port": (9771, "/etc/crypto-stream/producer.toml", "metrics_port = 9771"),
    "spark_daemon_memory": ("177m", "/etc/spark/spark.env", "SPARK_DAEMON_MEMORY=177m"),
    "spark_ui_address": ("0.0.0.0", "/etc/spark/spark.env", "PYSPARK_PYTHON=/opt/crypto-stream/venv/bin/python\n$"),
    "spark_worker_cores": (7, "/etc/systemd/system/spark-worker.service", "--cores 7 "),
    "spark_worker_memory": ("777m", "/etc/systemd/system/spark-worker.service", "--memory 777m "),
    "spark_worker_memory_max": ("1777M", "/etc/systemd/system/spark-worker.service", "MemoryMax=1777M"),
    "spark_master_ui_port": (8771, "/etc/systemd/system/spark-master.service", "--webui-port 8771\n"),
    "spark_worker_ui_port": (8772, "/etc/systemd/system/spark-worker.service", "--webui-port 8772 "),
    "spark_worker_cleanup_hours": (
        7,
        "/etc/spark/spark-defaults.conf",
        "spark.worker.cleanup.appDataTtl           25200",
    ),
    "stream_job_driver_memory": ("577m", "/etc/systemd/system/crypto-stream-job.service", "SPARK_DRIVER_MEMORY=577m"),
    "stream_job_executor_memory": (
        "477m",
        "/etc/systemd/system/crypto-stream-job.service",
        "spark.executor.memory=477m ",
    ),
    "stream_job_memory_max": ("1777M", "/etc/systemd/system/crypto-stream-job.service", "MemoryMax=1777M"),
    "stream_job_cores": (7, "/etc/systemd/system/crypto-stream-job.service", "spark.cores.max=7 "),
    "stream_job_shuffle_partitions": (
        7,
        "/etc/systemd/system/crypto-stream-job.service",
        "spark.sql.shuffle.partitions=7 ",
    ),
    "stream_job_checkpoint_dir": (
        "/var/lib/crypto-stream/seven",
        "/etc/crypto-stream/stream_job.toml",
        'checkpoint_dir = "/var/lib/crypto-stream/seven"',
    ),
    "stream_job_candle_lateness_seconds": (
        77,
        "/etc/crypto-stream/stream_job.toml",
        "candle_lateness_seconds = 77",
    ),
    "stream_job_stall_seconds": (77, "/etc/crypto-stream/stream_job.toml", "stall_seconds = 77"),
    "stream_job_metrics_port": (9772, "/etc/crypto-stream/stream_job.toml", "metrics_port = 9772"),
    "stream_job_max_offsets_per_trigger": (77, "/etc/crypto-stream/stream_job.toml", "max_offsets_per_trigger = 77"),
}
# Those that make no line of a file: what is installed, who a node is, and what another inventory's test shows.
ELSEWHERE = {
    *("artifact_mirror", "artifact_archive_url", "artifact_checksums", "java_package", "app_market", "spark_version"),
    # test_kafka_by_zookeeper, and its scenario.
    *("kafka_mode", "zookeeper_heap_size", "zookeeper_memory_max"),
    *("kafka_node_id", "cassandra_seeds", "common_address"),
    # Scenario refusal.
    "stream_job_checkpoint_shared",
    *("simulator_coins", "simulator_seed", "simulator_refresh_seconds"),
}


def test_every_public_variable_has_its_effect(rendered: dict[str, dict[str, Files]], tmp_path: Path) -> None:
    public = set()
    for role in ROOT.glob("roles/*/meta/argument_specs.yml"):
        if role.parent.parent.name not in ("sandbox", "mirror", "ec2"):
            specs = yaml.safe_load(role.read_text())["argument_specs"]
            public |= set((specs.get("preflight") or {}).get("options") or {})
    assert public == ALTERNATIVE.keys() | ELSEWHERE
    (reference,) = rendered["one"].values()
    values = tmp_path / "values.json"
    values.write_text(json.dumps({name: value for name, (value, _, _) in ALTERNATIVE.items()}))
    (files,) = render("one", tmp_path, f"--extra-vars=@{values}").values()
    missing = [name for name, (_, path, line) in ALTERNATIVE.items() if not shown(files[path], line)]
    assert missing == []
    already = [name for name, (_, path, line) in ALTERNATIVE.items() if shown(reference.get(path, ""), line)]
    assert already == []


def shown(text: str, line: str) -> bool:
    """Whether a text has this line, or ends with it where there is a $ behind it."""
    return text.endswith(line[:-1]) if line.endswith("\n$") else line in text


OPEN_PORTS = {
    "/etc/cassandra/cassandra.yaml": ['-rpc_address: "127.0.0.1"', '+rpc_address: "0.0.0.0"'],
    "/etc/kafka/server.properties": [
        "-listeners=INTERNAL://127.0.0.1:9094,EXTERNAL://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
        "+listeners=INTERNAL://127.0.0.1:9094,EXTERNAL://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093",
    ],
    "/etc/spark/spark.env": [
        "-# Pages only: whatever else listens is told where by itself.",
        "-SPARK_LOCAL_IP=127.0.0.1",
    ],
}
# All that an inventory may make of one host that the sample of one host of one's own does not.
DECLARED: dict[str, dict[str, list[str]]] = {
    "ec2": {},
    "vagrant": OPEN_PORTS,
    "sandbox": OPEN_PORTS
    | {
        "/etc/crypto-stream/market.toml": [
            '-api_url = "https://api.coinlore.net/api"  # app_coinlore_url',
            '+api_url = "http://127.0.0.1:8090/api"  # app_coinlore_url',
        ],
        "/etc/sysctl.d/cassandra.conf": ["-# Ansible managed", "-vm.max_map_count = 1048576"],
        "/etc/systemd/journald.conf.d/crypto-stream.conf": ["-SystemMaxUse=500M", "+SystemMaxUse=64M"],
    },
}
# Files that only hosts of a simulator have.
MORE = {"sandbox": {"/etc/crypto-stream/simulator.toml", "/etc/systemd/system/crypto-simulator.service"}}


@pytest.mark.parametrize("name", ["sandbox", "vagrant", "ec2"])
def test_one_host_is_the_same_everywhere(rendered: dict[str, dict[str, Files]], name: str) -> None:
    (reference,) = rendered["one"].values()
    (files,) = rendered[name].values()
    assert len(reference) > 30
    more = MORE.get(name, set())
    assert more <= files.keys()
    common = {path: text for path, text in files.items() if path not in more}
    assert differences(reference, common) == DECLARED[name]


def setting(text: str, name: str) -> str:
    """The value of a line NAME=VALUE or NAME: VALUE."""
    match = re.search(rf"^\s*(?:- )?{re.escape(name)}\s*[=:]\s*(.*?)\s*(?:  # .*)?$", text, flags=re.MULTILINE)
    assert match, f"no {name} in\n{text}"
    return match[1].strip('"')


ADDRESSES = {"market1": "10.0.0.11", "market2": "10.0.0.12", "market3": "10.0.0.13"}


def test_three_hosts_are_one_kafka(rendered: dict[str, dict[str, Files]]) -> None:
    properties = {host: files["/etc/kafka/server.properties"] for host, files in rendered["three"].items()}
    assert {host: setting(text, "node.id") for host, text in properties.items()} == {
        "market1": "1",
        "market2": "2",
        "market3": "3",
    }
    for host, text in properties.items():
        assert setting(text, "controller.quorum.voters") == "1@10.0.0.11:9093,2@10.0.0.12:9093,3@10.0.0.13:9093"
        address = ADDRESSES[host]
        assert setting(text, "advertised.listeners") == f"INTERNAL://{address}:9094,EXTERNAL://{address}:9092"
        assert setting(text, "default.replication.factor") == setting(text, "offsets.topic.replication.factor") == "3"
        assert setting(text, "min.insync.replicas") == "2"
    scripts = {files["/usr/local/libexec/crypto-stream/kafka-format"] for files in rendered["three"].values()}
    assert len(scripts) == 1
    assert "wanted='x0Xr2kqfQ8mV3JY0bVw1aA'" in scripts.pop()


def test_what_hosts_of_one_piece_have(tmp_path: Path) -> None:
    files = render("apart", tmp_path, "--extra-vars=producer_interval_seconds=120")
    # A controller without a broker is ready when it answers as one.
    ready = "ExecStartPost=/usr/local/libexec/crypto-stream/wait-ready --pid $MAINPID kafka "
    assert f"{ready}one:9093\n" in files["one"]["/etc/systemd/system/kafka.service"]
    assert f"{ready}other:9094\n" in files["other"]["/etc/systemd/system/kafka.service"]
    # Three polls of the producer, wherever it is, say every host's check when prices are old.
    for host in ("one", "other"):
        assert setting(files[host]["/etc/crypto-stream/freshness.toml"], "stale_after_seconds") == "360"


@pytest.mark.parametrize(("coins", "seconds"), [(14_000, 420), (["90", "80"], 90), (100, 90)])
def test_prices_are_not_old_while_a_long_poll_goes_on(tmp_path: Path, coins: object, seconds: int) -> None:
    files = render("apart", tmp_path, f"--extra-vars={json.dumps({'producer_coins': coins})}")
    assert setting(files["other"]["/etc/crypto-stream/freshness.toml"], "stale_after_seconds") == str(seconds)


def test_three_hosts_are_one_cassandra(rendered: dict[str, dict[str, Files]]) -> None:
    for host, files in rendered["three"].items():
        text = files["/etc/cassandra/cassandra.yaml"]
        assert setting(text, "seeds") == "10.0.0.11"
        for name in ("listen_address", "rpc_address", "broadcast_rpc_address"):
            assert setting(text, name) == ADDRESSES[host]
        assert setting(text, "allocate_tokens_for_local_replication_factor") == "3"
    application = rendered["three"]["market1"]["/etc/crypto-stream/cassandra.toml"]
    assert json.loads(setting(application, "contact_points")) == list(ADDRESSES.values())
    assert "'NetworkTopologyStrategy', 'replication_factor': 3" in application


def test_three_hosts_are_one_spark(rendered: dict[str, dict[str, Files]]) -> None:
    units = {
        host: {Path(path).name for path in files if path.endswith(".service")}
        for host, files in rendered["three"].items()
    }
    assert [host for host, names in units.items() if "spark-master.service" in names] == ["market1"]
    assert [host for host, names in units.items() if "crypto-stream-job.service" in names] == ["market1"]
    assert all("spark-worker.service" in names for names in units.values())
    for files in rendered["three"].values():
        assert "spark://10.0.0.11:7077" in files["/etc/systemd/system/spark-worker.service"]
        # Pages ask nobody who they are.
        assert setting(files["/etc/spark/spark.env"], "SPARK_LOCAL_IP") == "127.0.0.1"


def test_nothing_of_a_cluster_is_told_to_come_to_localhost(rendered: dict[str, dict[str, Files]]) -> None:
    for files in rendered["three"].values():
        for path in (
            "/etc/crypto-stream/kafka.toml",
            "/etc/crypto-stream/cassandra.toml",
            "/etc/spark/spark-defaults.conf",
        ):
            assert "127.0.0.1" not in files.get(path, "")
            assert "localhost" not in files.get(path, "")


def test_kafka_by_zookeeper(tmp_path: Path) -> None:
    """Nothing of Kafka's own controllers is left, and the same inventory is enough."""
    (files,) = render("sandbox", tmp_path, "--extra-vars=kafka_mode=zookeeper zookeeper_heap_size=77m").values()
    properties = files["/etc/kafka/server.properties"]
    assert setting(properties, "zookeeper.connect") == "127.0.0.1:2181"
    assert setting(properties, "broker.id") == "1"
    assert not re.search(r"^(process.roles|node.id|controller\.)", properties, flags=re.MULTILINE)
    assert "9093" not in properties
    assert "After=network-online.target zookeeper.service\n" in files["/etc/systemd/system/kafka.service"]
    assert setting(files["/etc/zookeeper/zoo.cfg"], "clientPortAddress") == "127.0.0.1"
    assert "-Xmx77m" in files["/etc/zookeeper/zookeeper.env"]


def test_the_application_and_the_roles_have_the_same_defaults(rendered: dict[str, dict[str, Files]]) -> None:
    """A host's files say them all; who runs the application without them shall not get others."""
    (files,) = rendered["sandbox"].values()
    defaults = config.Settings().model_dump()
    compared = 0
    for path, text in files.items():
        if path.startswith("/etc/crypto-stream/") and path != "/etc/crypto-stream/market.toml":
            for section, values in tomllib.loads(text).items():
                for key in re.findall(r"^(\w+) = .*  # \w+$", text, flags=re.MULTILINE):
                    assert values[key] == defaults[section][key], (section, key)
                    compared += 1
    assert compared > 15


def script(files: Files, name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the hosts' small programs here, on data in a folder of the test."""
    text = files[f"/usr/local/libexec/crypto-stream/{name}"].replace("/var/lib/kafka", str(folder))
    return subprocess.run(["sh", "-c", text, name, *arguments], capture_output=True, text=True, check=False)


def test_data_of_another_cluster_is_refused(rendered: dict[str, dict[str, Files]], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    meta = tmp_path / "data/meta.properties"
    files = rendered["three"]["market1"]
    meta.write_text("cluster.id=x0Xr2kqfQ8mV3JY0bVw1aA\nversion=1\nnode.id=1\n")
    assert script(files, "kafka-format", tmp_path).returncode == 0
    meta.write_text("cluster.id=AAAAAAAAAAAAAAAAAAAAAA\nversion=1\nnode.id=1\n")
    refused = script(files, "kafka-format", tmp_path)
    assert refused.returncode == 1
    assert (
        "is of the cluster AAAAAAAAAAAAAAAAAAAAAA, and this host is set up for x0Xr2kqfQ8mV3JY0bVw1aA."
        in refused.stderr
    )
    meta.write_text("cluster.id=x0Xr2kqfQ8mV3JY0bVw1aA\nversion=0\nbroker.id=1\n")
    refused = script(files, "kafka-format", tmp_path)
    assert refused.returncode == 1
    assert "was made in the mode zookeeper, and this host is set up for kraft." in refused.stderr
    # A host that makes its own takes what it has.
    meta.write_text("cluster.id=AAAAAAAAAAAAAAAAAAAAAA\nversion=1\nnode.id=1\n")
    (one,) = rendered["one"].values()
    assert script(one, "kafka-format", tmp_path).returncode == 0


def test_data_of_a_newer_release_is_refused(rendered: dict[str, dict[str, Files]], tmp_path: Path) -> None:
    (files,) = rendered["one"].values()
    # The first, one that is newer, and back to it.
    for version in ("3.6.1", "3.10.0", "3.10.2", "3.10.1"):
        assert script(files, "data-version", tmp_path, str(tmp_path), version).returncode == 0
        assert (tmp_path / "version").read_text().strip() == version
    refused = script(files, "data-version", tmp_path, str(tmp_path), "3.6.1")
    assert refused.returncode == 1
    assert (
        f"The data in {tmp_path} was written by 3.10.1, which is newer than 3.6.1: install that again."
        in refused.stderr
    )
    assert (tmp_path / "version").read_text().strip() == "3.10.1"
