"""What a client outside the host finds on 127.0.0.1."""

from __future__ import annotations

import re

import httpx
import spark
from sandbox import port, wait_for
from stream import TOPIC, Stream


def test_kafka_lists_the_topic_and_hands_it_out(stream: Stream) -> None:
    consumer = stream.kafka()
    try:
        assert TOPIC in consumer.topics()
        consumer.subscribe([TOPIC])
        wait_for(lambda: consumer.poll(timeout_ms=1000), "a message through the published port", 60)
    finally:
        consumer.close()


def test_cassandra_is_read(stream: Stream) -> None:
    assert len(stream.cql("SELECT * FROM crypto.prices LIMIT 5")) == 5


def test_spark_master() -> None:
    cluster = spark.cluster()
    assert cluster["status"] == "ALIVE"
    assert cluster["aliveworkers"] == 1
    assert [application["name"] for application in cluster["activeapps"]] == ["crypto-stream"]


def test_pages_of_the_stream_job() -> None:
    """Its jobs with their graph and the streaming queries, with all that such a page loads."""
    application = spark.application()
    job = max(
        entry["jobId"]
        for entry in spark.client.get(f"{application}/api/v1/applications/{application.rpartition('/')[2]}/jobs").json()
    )
    page = spark.client.get(f"{application}/jobs/job/", params={"id": job}).raise_for_status().text
    assert 'class="dot-file"' in page
    assets = re.findall(r'(?:src|href)="(/proxy/[^"]+\.(?:js|css))"', page)
    assert assets
    for asset in assets:
        spark.client.get(f"{spark.master()}{asset}").raise_for_status()
    queries = spark.client.get(f"{application}/StreamingQuery/").raise_for_status().text
    assert "prices" in queries


def test_dashboard_answers() -> None:
    address = f"http://127.0.0.1:{port('DASHBOARD_PORT', 8501)}"
    assert httpx.get(address, timeout=60).raise_for_status().headers["content-type"].startswith("text/html")
    assert httpx.get(f"{address}/_stcore/health").text == "ok"
