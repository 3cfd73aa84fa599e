"""Nothing is read from the archives' own scripts and settings, which are hostile here, and the inventory's values are
in effect.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import spark
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from sandbox import events, port
from stream import Stream
from testinfra.host import Host

HOSTILE_SETTINGS = {
    "/opt/kafka/current/config/server.properties": "hostile.invalid",
    "/opt/cassandra/current/conf/cassandra.yaml": "cluster_name: hostile",
    "/opt/spark/current/conf/spark-defaults.conf": "spark.hostile",
}


@pytest.mark.parametrize("path", HOSTILE_SETTINGS)
def test_the_installed_archives_are_hostile(host: Host, path: str) -> None:
    assert HOSTILE_SETTINGS[path] in host.file(path).content_string


def test_no_script_left_a_trace(host: Host) -> None:
    assert host.check_output("find / -xdev -name 'hostile*' -not -path '/proc/*'") == ""
    assert host.run("find /run /tmp /var/tmp -name 'hostile*'").stdout == ""


def test_no_process_knows_of_them(host: Host) -> None:
    """Command lines, environments and open files of every JVM, executors among them."""
    script = (
        "for pid in $(pgrep -x java); do"
        " cat /proc/$pid/cmdline /proc/$pid/environ | tr '\\0' '\\n'; find /proc/$pid/fd -printf '%l\\n'; done"
    )
    known = host.check_output("sh -c %s", script)
    assert "/etc/spark" in known
    assert "hostile" not in known.lower()
    assert re.findall(r"/opt/(?:kafka|cassandra|spark)/[^:\s]*/(?:s?bin|conf|config)(?=[/:\s]|$)[^:\s]*", known) == []


@pytest.fixture(scope="module")
def broker() -> dict[str, str]:
    """The settings that the broker says it has."""
    admin: Any = KafkaAdminClient(bootstrap_servers=[f"127.0.0.1:{port('KAFKA_PORT', 9092)}"])
    try:
        found = admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")], config_filter="all")
        return {name: str(entry["value"]) for name, entry in found["broker"]["1"].items()}
    finally:
        admin.close()


def test_kafka(broker: dict[str, str]) -> None:
    assert [name for name, value in broker.items() if "hostile" in value] == []
    assert broker["node.id"] == "1"
    assert broker["message.max.bytes"] != "666"
    assert broker["auto.create.topics.enable"] == "false"


def test_cassandra(stream: Stream) -> None:
    (local,) = stream.cql("SELECT cluster_name, data_center, partitioner FROM system.local")
    assert local == ("crypto-stream", "datacenter1", "org.apache.cassandra.dht.Murmur3Partitioner")
    settings = {row.name: row.value for row in stream.cql("SELECT name, value FROM system_views.settings")}
    assert [name for name, value in settings.items() if "hostile" in (value or "")] == []
    assert settings["native_transport_port"] == "9042"


def test_spark() -> None:
    application = spark.application()
    environment = spark.client.get(f"{application}/api/v1/applications/{application.rpartition('/')[2]}/environment")
    assert "hostile" not in environment.text.lower()
    properties = dict(environment.json()["sparkProperties"])
    assert properties["spark.master"] == "spark://127.0.0.1:7077"
    assert properties["spark.app.name"] == "crypto-stream"
    assert properties["spark.sql.shuffle.partitions"] == "1"


def test_values_of_the_inventory_are_in_effect(host: Host, stream: Stream, broker: dict[str, str]) -> None:
    """Those that inventory/group_vars/all.yml changes."""
    assert broker["log.retention.hours"] == "100"
    assert stream.cql("SELECT rack FROM system.local")[0].rack == "rack7"
    *_, before, last = [event["ts"] for event in events(host, "crypto-producer", "page_acknowledged")]
    assert last - before == pytest.approx(5000, abs=1500)
