from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from crypto_stream import prices
from crypto_stream.messages import (
    CLOCK_TOLERANCE_MS,
    MAX_DEAD_LETTER_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_TEXT_CHARS,
    MAX_TS,
    MIN_TS,
    MessageError,
    PriceMessage,
    encode,
    parse,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, Row, SparkSession

TS = 1_700_000_000_000
SCHEMA = "value binary, topic string, partition int, offset long, timestamp timestamp"


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[1]")
        .appName("tests")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "1")
        .config("spark.default.parallelism", "1")
        # A JVM that lives for seconds does not earn back what it spends on optimizing compilers and garbage. The stack
        # is that of the executors.
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xss512k")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


def good(**changes: Any) -> dict[str, Any]:
    return {"schema_version": 1, "id": "90", "name": "Bitcoin", "price_usd": 1.5, "ts": TS} | changes


def topic(spark: SparkSession, *values: bytes | None, appended_ts: int = TS) -> DataFrame:
    moment = datetime.fromtimestamp(appended_ts / 1000, tz=timezone.utc)
    rows = [
        Row(value=value, topic="crypto.prices", partition=2, offset=n, timestamp=moment)
        for n, value in enumerate(values)
    ]
    return spark.createDataFrame(rows, SCHEMA)


def verdicts(spark: SparkSession, *values: bytes | None) -> list[str | None]:
    """Spark's reason for each, None for a price."""
    return [row.reason for row in prices.decode(topic(spark, *values)).select("reason").collect()]


def verdict(value: bytes | None) -> str | None:
    """Python's."""
    try:
        parse(value, TS)
    except MessageError as error:
        return str(error)
    return None


def test_the_schema_is_the_messages_own() -> None:
    names = prices.message_schema().fieldNames()
    assert sorted(names) == sorted([*PriceMessage.model_fields, prices.CORRUPT])


def test_good_messages_become_rows_of_the_table(spark: SparkSession) -> None:
    full = PriceMessage(id="90", name="Bitcoin", price_usd=64000.5, ts=TS, rank=1, volume24_usd=1.0, symbol="BTC")
    raw = topic(
        spark,
        encode(full),
        encode(PriceMessage(id="80", name='Ether ✓ "quoted"', price_usd=0.0, ts=TS + 1)),
        json.dumps(good(price_usd=3, something_new="x")).encode(),
    )
    before = time.time()
    rows = prices.to_prices(prices.decode(raw)).collect()
    assert [(row.id, row.name, row.price_usd, row.ts) for row in rows] == [
        ("90", "Bitcoin", 64000.5, TS),
        ("80", 'Ether ✓ "quoted"', 0.0, TS + 1),
        ("90", "Bitcoin", 3.0, TS),
    ]
    assert rows[0].written_at == TS * 1000
    assert before - 1 <= rows[0].processing_time.timestamp() <= time.time() + 1
    assert set(rows[0].asDict()) == {"id", "name", "price_usd", "ts", "processing_time", "written_at"}
    assert prices.to_dead_letters(prices.decode(raw)).count() == 0


FLAT = "the message is no flat JSON object"
TYPE = "a field has a value of another type"
BAD: list[tuple[bytes | None, str]] = [
    (None, "the message is empty"),
    (b"", "the message is empty"),
    (b"not json", FLAT),
    (b'{"id": "90", "na', FLAT),
    (b"[]", FLAT),
    (b"\xff\xfe\x00\x01", "the message is no UTF-8"),
    (json.dumps(good(name="x")).encode()[:-3] + b'\xff"}', "the message is no UTF-8"),
    (b"null", FLAT),
    (b"3", FLAT),
    (b"{}", "schema_version is missing"),
    (json.dumps(good()).encode() * 2, FLAT),
    (json.dumps(good()).encode() + b"rubbish", FLAT),
    (json.dumps(good()).encode() + b"\xe2\x80\xa8", FLAT),
    (json.dumps(good(id={"a": 1})).encode(), FLAT),
    (json.dumps(good(name=[1])).encode(), FLAT),
    (json.dumps(good(something_new={"a": 1})).encode(), FLAT),
    (json.dumps(good(name="\ud800")).encode(), FLAT),
    (json.dumps(good(price_usd=10**400)).encode(), FLAT),
    (b"[" * 30_000, FLAT),
    (b"{" + b'"a":1,' * 9_000 + b'"b":1}', "a field is there twice"),
    (json.dumps(good(schema_version=2)).encode(), "unknown schema_version 2"),
    (json.dumps(good(schema_version=2, price_usd="1")).encode(), "unknown schema_version 2"),
    (json.dumps(good()).encode()[:-1] + b', "id": "80"}', "a field is there twice"),
    (json.dumps(good(price_usd="1.5")).encode(), TYPE),
    (json.dumps(good(price_usd="NaN")).encode(), TYPE),
    (json.dumps(good(price_usd=True)).encode(), TYPE),
    (json.dumps(good(ts="yesterday")).encode(), TYPE),
    (json.dumps(good(ts=1.5)).encode(), TYPE),
    (json.dumps(good(ts=10**30)).encode(), TYPE),
    (json.dumps(good(id=90)).encode(), TYPE),
    (json.dumps(good(name=True)).encode(), TYPE),
    (json.dumps(good(symbol=1)).encode(), TYPE),
    (json.dumps(good()).encode().replace(b'"id"', b'"\\u0069d"'), TYPE),
    (json.dumps(good(id=None)).encode(), "id is missing"),
    (json.dumps(good(id="")).encode(), "id is blank"),
    (json.dumps(good(id="x" * (MAX_TEXT_CHARS + 1))).encode(), f"id has more than {MAX_TEXT_CHARS} characters"),
    (
        json.dumps(good(id="x" * 70_000)).encode(),
        f"the message has {len(json.dumps(good(id='x' * 70_000)))} bytes, more than {MAX_MESSAGE_BYTES}",
    ),
    (json.dumps(good(name=None)).encode(), "name is missing"),
    (json.dumps(good(name=" \u00a0")).encode(), "name is blank"),
    (json.dumps(good(name="a\x1b[2J")).encode(), "name holds control characters"),
    (json.dumps(good(name="a\u202eb")).encode(), "name holds control characters"),
    (json.dumps(good(price_usd=None)).encode(), "price_usd is missing"),
    (json.dumps(good(price_usd=-0.01)).encode(), "price_usd is below 0: -0.01"),
    (json.dumps(good(price_usd=float("nan"))).encode(), FLAT),
    (json.dumps(good()).encode().replace(b"1.5", b"1e999"), "price_usd is not finite"),
    (json.dumps(good(ts=None)).encode(), "ts is missing"),
    (json.dumps(good(ts=MIN_TS - 1)).encode(), f"ts is below {MIN_TS}: {MIN_TS - 1}"),
    (json.dumps(good(ts=MAX_TS + 1)).encode(), f"ts is above {MAX_TS}: {MAX_TS + 1}"),
    (json.dumps(good(rank=0)).encode(), "rank is below 1: 0"),
    (json.dumps(good(volume24_usd=-1)).encode(), "volume24_usd is below 0: -1.0"),
]


def test_what_is_no_price_becomes_a_dead_letter_with_its_reason(spark: SparkSession) -> None:
    raw = topic(spark, *(value for value, _ in BAD))
    letters = prices.to_dead_letters(prices.decode(raw)).collect()
    assert [(letters[n].value, letters[n].reason) for n in range(len(letters))] == BAD
    assert [(row.topic, row.partition, row.offset) for row in letters] == [
        ("crypto.prices", 2, n) for n in range(len(BAD))
    ]
    assert all(row.processing_time is not None for row in letters)
    assert prices.to_prices(prices.decode(raw)).count() == 0


def test_how_far_ahead_a_price_may_be_is_judged_by_kafkas_clock_so_a_replay_decides_the_same(
    spark: SparkSession,
) -> None:
    near, far = TS + CLOCK_TOLERANCE_MS, TS + CLOCK_TOLERANCE_MS + 1
    values = [json.dumps(good(ts=ts)).encode() for ts in (near, far)]
    assert verdicts(spark, *values) == [None, f"ts is ahead of Kafka's clock: {far}"]
    assert [verdict(value) for value in values] == [None, f"ts is ahead of Kafka's clock: {far}"]


def test_a_dead_letter_of_any_size_fits_into_cassandra(spark: SparkSession) -> None:
    decoded = prices.decode(topic(spark, b"x" * (MAX_DEAD_LETTER_BYTES + 10)))
    (letter,) = prices.to_dead_letters(decoded).collect()
    assert len(letter.value) == MAX_DEAD_LETTER_BYTES
    assert str(MAX_DEAD_LETTER_BYTES + 10) in letter.reason


def test_python_finds_the_same_verdict_on_every_example(spark: SparkSession) -> None:
    for value, reason in BAD:
        assert verdict(value) is not None, reason


# Pieces that parsers disagree about, put together into objects that are nearly prices.
VALUES = r"""
1  1.5  -1  0  -0  01  1e3  1E+3  1e999  1e-999  .5  1.  +1  NaN  Infinity  true  null  tru  "90"  "x"  ""  "NaN"  []
{}  [1]  {"a":1}  'x'  9223372036854775808  1700000000000.0  1700001000000
/**/1  "\ud83d\ude00"  "\ud800"  "\udc00\ud800"
"\u0000"  "\u001b[2J"  "\\"  "\""  "\x"  "\\ud800"  "a\"  "a","id":"b"  "a"},{"id":"b"
"""
scalars = st.sampled_from(
    [
        *VALUES.split(),
        str(10**39),
        str(10**60),
        "0." + "1" * 50,
        str(TS),
        "1 2",
        '"a" "b"',
        "\u00a01",
        "",
        '" "',
        '"\n"',
    ]
) | st.sampled_from(["\t", "\x7f", "\u2028", "\u202e", "\ufffd", "\U0001f600" * 500, "x" * 501]).map(
    lambda text: f'"{text}"'
)
names = st.sampled_from([*PriceMessage.model_fields, "other", "ID", r"\u0069d", "i d", ""])
space = st.sampled_from(["", "", "", " ", "\n", "\t ", "\u00a0", "\x0b"])
GOOD_FIELDS = {name: json.dumps(value) for name, value in good().items()}


@st.composite
def nearly_prices(draw: st.DrawFn) -> bytes:
    fields = [(name, draw(scalars) if draw(st.integers(0, 9)) == 0 else value) for name, value in GOOD_FIELDS.items()]
    fields += draw(st.lists(st.tuples(names, scalars), max_size=2))
    pairs = ",".join(f'{draw(space)}"{name}"{draw(space)}:{draw(space)}{value}' for name, value in fields)
    ending = draw(st.sampled_from(["", "", "", "", " ", "}", "]", "x", "{}", "\u2028", "\n", "\x00", ","]))
    text = draw(space) + "{" + pairs + draw(space) + "}" + ending
    return text.encode(errors="surrogatepass")


messages = st.one_of(
    nearly_prices(),
    nearly_prices(),
    st.binary(max_size=50),
    st.text(max_size=50).map(lambda text: text.encode(errors="surrogatepass")),
    st.builds(
        lambda value, at, byte: value[:at] + byte + value[at:],
        nearly_prices(),
        st.integers(0, 80),
        st.binary(max_size=2),
    ),
)


@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(messages, min_size=1, max_size=200))
def test_spark_and_python_find_the_same_verdict_on_any_bytes(spark: SparkSession, values: list[bytes]) -> None:
    found = [(value, reason is None) for value, reason in zip(values, verdicts(spark, *values), strict=True)]
    expected = [(value, verdict(value) is None) for value in values]
    assert found == expected
    rows = prices.to_prices(prices.decode(topic(spark, *values))).collect()
    parsed = [parse(value, TS) for value in values if verdict(value) is None]
    assert [(row.id, row.name, row.price_usd, row.ts) for row in rows] == [
        (message.id, message.name, message.price_usd, message.ts) for message in parsed
    ]


def test_every_message_goes_exactly_one_way(spark: SparkSession) -> None:
    values = [value for value, _ in BAD] + [json.dumps(good(id=str(n))).encode() for n in range(5)]
    decoded = prices.decode(topic(spark, *values))
    assert prices.to_prices(decoded).count() == 5
    assert prices.to_dead_letters(decoded).count() == len(BAD)
