from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from crypto_stream import stream_job
from crypto_stream.messages import CLOCK_TOLERANCE_MS, MIN_TS, PriceMessage, encode
from pyspark.sql import DataFrame, Row, SparkSession

TS = 1_700_000_000_000
SCHEMA = "value binary, topic string, partition int, offset long"


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[1]")
        .appName("tests")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "1")
        # A JVM that lives for seconds does not earn back what it spends on optimizing compilers and garbage.
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


def good(**changes: Any) -> dict[str, Any]:
    return {"schema_version": 1, "id": "90", "name": "Bitcoin", "price_usd": 1.5, "ts": TS} | changes


def topic(spark: SparkSession, *values: bytes | None) -> DataFrame:
    rows = [Row(value=value, topic="crypto.prices", partition=2, offset=n) for n, value in enumerate(values)]
    return spark.createDataFrame(rows, SCHEMA)


def test_the_schema_is_the_messages_own() -> None:
    names = stream_job.message_schema().fieldNames()
    assert sorted(names) == sorted([*PriceMessage.model_fields, stream_job.CORRUPT])


def test_good_messages_become_rows_of_the_table(spark: SparkSession) -> None:
    full = PriceMessage(id="90", name="Bitcoin", price_usd=64000.5, ts=TS, rank=1, volume24_usd=1.0, symbol="BTC")
    raw = topic(
        spark,
        encode(full),
        encode(PriceMessage(id="80", name='Ether ✓ "quoted"', price_usd=0.0, ts=TS + 1)),
        json.dumps(good(price_usd=3, something_new=[1])).encode(),
    )
    before = time.time()
    rows = stream_job.to_prices(stream_job.decode(raw)).collect()
    assert [(row.id, row.name, row.price_usd, row.ts) for row in rows] == [
        ("90", "Bitcoin", 64000.5, TS),
        ("80", 'Ether ✓ "quoted"', 0.0, TS + 1),
        ("90", "Bitcoin", 3.0, TS),
    ]
    assert rows[0].written_at == TS * 1000
    assert before - 1 <= rows[0].processing_time.timestamp() <= time.time() + 1
    assert set(rows[0].asDict()) == {"id", "name", "price_usd", "ts", "processing_time", "written_at"}
    assert stream_job.to_dead_letters(stream_job.decode(raw)).count() == 0


BAD: list[tuple[bytes | None, str]] = [
    (None, "the message is empty"),
    (b"", "no JSON object of the expected fields and types"),
    (b"not json", "no JSON object of the expected fields and types"),
    (b'{"id": "90", "na', "no JSON object of the expected fields and types"),
    (b"[]", "no JSON object of the expected fields and types"),
    (b"\xff\xfe\x00\x01", "no JSON object of the expected fields and types"),
    (b"null", "no JSON object of the expected fields and types"),
    (b"3", "no JSON object of the expected fields and types"),
    (b"{}", "schema_version is missing"),
    (json.dumps(good(schema_version=2)).encode(), "unknown schema_version 2"),
    (json.dumps(good(schema_version=2, price_usd={"usd": 1})).encode(), "unknown schema_version 2"),
    (json.dumps(good(price_usd="1.5")).encode(), "no JSON object of the expected fields and types"),
    (json.dumps(good(ts="yesterday")).encode(), "no JSON object of the expected fields and types"),
    (json.dumps(good(ts=1.5)).encode(), "no JSON object of the expected fields and types"),
    (json.dumps(good(id=None)).encode(), "id is missing"),
    (json.dumps(good(id="")).encode(), "id is missing"),
    (json.dumps(good(name=None)).encode(), "name is missing"),
    (json.dumps(good(name=" ")).encode(), "name is missing"),
    (json.dumps(good(price_usd=None)).encode(), "price_usd is missing"),
    (json.dumps(good(price_usd=-0.01)).encode(), "price_usd is negative"),
    (json.dumps(good(price_usd=float("nan"))).encode(), "price_usd is not finite"),
    (json.dumps(good(price_usd="NaN")).encode(), "price_usd is not finite"),
    (json.dumps(good(price_usd=float("inf"))).encode(), "price_usd is not finite"),
    (json.dumps(good(price_usd="-Infinity")).encode(), "price_usd is not finite"),
    (
        b'{"schema_version": 1, "id": "90", "name": "B", "price_usd": 1e999, "ts": 1700000000000}',
        "price_usd is not finite",
    ),
    (json.dumps(good(ts=None)).encode(), "ts is missing"),
    (json.dumps(good(ts=MIN_TS - 1)).encode(), f"ts is implausible: {MIN_TS - 1}"),
    (json.dumps(good(ts=-1)).encode(), "ts is implausible: -1"),
    (json.dumps(good(ts=2**62)).encode(), f"ts is implausible: {2**62}"),
    (json.dumps(good(ts=TS // 1000)).encode(), f"ts is implausible: {TS // 1000}"),
]


def test_what_is_no_price_becomes_a_dead_letter_with_its_reason(spark: SparkSession) -> None:
    raw = topic(spark, *(value for value, _ in BAD))
    letters = stream_job.to_dead_letters(stream_job.decode(raw)).collect()
    assert [(letters[n].value, letters[n].reason) for n in range(len(letters))] == BAD
    assert [(row.topic, row.partition, row.offset) for row in letters] == [
        ("crypto.prices", 2, n) for n in range(len(BAD))
    ]
    assert all(row.processing_time is not None for row in letters)
    assert stream_job.to_prices(stream_job.decode(raw)).count() == 0


def test_a_clock_that_runs_a_little_ahead_is_put_up_with(spark: SparkSession) -> None:
    now = time.time_ns() // 1_000_000
    near, far = now + CLOCK_TOLERANCE_MS - 60_000, now + CLOCK_TOLERANCE_MS + 60_000
    decoded = stream_job.decode(topic(spark, *(json.dumps(good(ts=ts)).encode() for ts in (near, far))))
    assert [row.ts for row in stream_job.to_prices(decoded).collect()] == [near]
    assert stream_job.to_dead_letters(decoded).collect()[0].reason == f"ts is implausible: {far}"


def test_every_message_goes_exactly_one_way(spark: SparkSession) -> None:
    values = [value for value, _ in BAD] + [json.dumps(good(id=str(n))).encode() for n in range(5)]
    decoded = stream_job.decode(topic(spark, *values))
    assert stream_job.to_prices(decoded).count() == 5
    assert stream_job.to_dead_letters(decoded).count() == len(BAD)
