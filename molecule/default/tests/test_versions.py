"""Versions, by the word of what runs."""

from __future__ import annotations

import spark
from sandbox import properties
from stream import Stream
from testinfra.host import Host


def test_java(host: Host) -> None:
    """Every JVM: those of the units, and those that they start."""
    binaries = set(host.check_output("for pid in $(pgrep -x java); do readlink /proc/$pid/exe; done").splitlines())
    assert len(binaries) == 1
    assert 'version "1.8.0_' in host.run("%s -version", binaries.pop()).stderr


def test_kafka(host: Host) -> None:
    run = properties(host, "kafka", "InvocationID")["InvocationID"]
    journal = host.check_output("journalctl --quiet --output=cat _SYSTEMD_INVOCATION_ID=%s", run)
    assert "Kafka version: 3.6.1 " in journal


def test_cassandra(stream: Stream) -> None:
    assert stream.cql("SELECT release_version FROM system.local")[0].release_version == "4.1.3"


def test_spark_master() -> None:
    version = spark.client.get(spark.master()).text.split('<span class="version"')[1].split("</span>")[0]
    assert version.endswith("3.5.1")


def test_spark_job() -> None:
    assert spark.client.get(f"{spark.application()}/api/v1/version").json() == {"spark": "3.5.1"}
