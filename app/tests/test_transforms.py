from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from crypto_stream import stream_job, tables, transforms
from crypto_stream.config import Settings
from crypto_stream.messages import (
    CLOCK_TOLERANCE_MS,
    MAX_DEAD_LETTER_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_TEXT_CHARS,
    MAX_TS,
    MIN_TS,
    MarketMessage,
    MessageError,
    PriceMessage,
    encode,
    encode_rejected,
    parse,
)
from crypto_stream.queries import queries
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracle import Candle, Key, Sample, candles
from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it

TS = 1_700_000_000_000
SCHEMA = "value binary, topic string, partition int, offset long, timestamp timestamp"


def good(**changes: Any) -> dict[str, Any]:
    return {"schema_version": 1, "id": "90", "name": "Bitcoin", "price_usd": 1.5, "ts": TS} | changes


def topic(spark: SparkSession, *values: bytes | None, appended_ts: int = TS) -> DataFrame:
    moment = datetime.fromtimestamp(appended_ts / 1000, tz=timezone.utc)
    rows = [
        Row(value=value, topic="crypto.prices", partition=2, offset=n, timestamp=moment)
        for n, value in enumerate(values)
    ]
    return spark.createDataFrame(rows, SCHEMA)


def letters(raw: DataFrame, **others: DataFrame) -> DataFrame:
    """The dead letters of one topic, the others being empty."""
    return transforms.dead_letters({"prices": raw, "market": raw.limit(0), "rejected": raw.limit(0)} | others)


def verdicts(spark: SparkSession, *values: bytes | None) -> list[str | None]:
    """Spark's reason for each, None for a price."""
    return [row.reason for row in transforms.decode(topic(spark, *values)).select("reason").collect()]


def verdict(value: bytes | None) -> str | None:
    """Python's."""
    try:
        parse(PriceMessage, value, TS)
    except MessageError as error:
        return str(error)
    return None


def test_the_schema_is_the_messages_own() -> None:
    names = transforms.message_schema(PriceMessage).fieldNames()
    assert sorted(names) == sorted([*PriceMessage.model_fields, transforms.CORRUPT])


def test_good_messages_become_rows_of_the_table(spark: SparkSession) -> None:
    full = PriceMessage(id="90", name="Bitcoin", price_usd=64000.5, ts=TS, rank=1, volume24_usd=1.0, symbol="BTC")
    raw = topic(
        spark,
        encode(full),
        encode(PriceMessage(id="80", name='Ether ✓ "quoted"', price_usd=0.0, ts=TS + 1)),
        json.dumps(good(price_usd=3, something_new="x")).encode(),
    )
    before = time.time()
    rows = transforms.prices({"prices": raw}).collect()
    assert [(row.id, row.name, row.price_usd, row.ts) for row in rows] == [
        ("90", "Bitcoin", 64000.5, TS),
        ("80", 'Ether ✓ "quoted"', 0.0, TS + 1),
        ("90", "Bitcoin", 3.0, TS),
    ]
    assert rows[0].written_at == TS * 1000
    assert before - 1 <= rows[0].processing_time.timestamp() <= time.time() + 1
    assert set(rows[0].asDict()) == {*tables.PRICES.columns, *transforms.ORIGIN, "written_at", "born_at"}
    assert letters(raw).count() == 0


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
    found = letters(raw).collect()
    assert [(row.value, row.reason) for row in found] == BAD
    assert [(row.topic, row.partition, row.offset) for row in found] == [
        ("crypto.prices", 2, n) for n in range(len(BAD))
    ]
    assert all(row.processing_time is not None for row in found)
    assert {str(row.day) for row in found} == {"2023-11-14"}
    assert {(row.written_at, row.born_at) for row in found} == {(TS * 1000, TS)}
    assert transforms.prices({"prices": raw}).count() == 0


def test_how_far_ahead_a_price_may_be_is_judged_by_kafkas_clock_so_a_replay_decides_the_same(
    spark: SparkSession,
) -> None:
    near, far = TS + CLOCK_TOLERANCE_MS, TS + CLOCK_TOLERANCE_MS + 1
    values = [json.dumps(good(ts=ts)).encode() for ts in (near, far)]
    assert verdicts(spark, *values) == [None, f"ts is ahead of Kafka's clock: {far}"]
    assert [verdict(value) for value in values] == [None, f"ts is ahead of Kafka's clock: {far}"]


def test_a_dead_letter_of_any_size_fits_into_cassandra(spark: SparkSession) -> None:
    (letter,) = letters(topic(spark, b"x" * (MAX_DEAD_LETTER_BYTES + 10))).collect()
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


@st.composite
def nearly_plain(draw: st.DrawFn) -> bytes:
    """As the producer writes it, but for a value or two."""
    fields = json.loads(encode(PriceMessage(**good())))
    values = {name: draw(scalars) if draw(st.integers(0, 9)) == 0 else json.dumps(fields[name]) for name in fields}
    text = "{" + ",".join(f'"{name}":{value}' for name, value in values.items()) + "}"
    return text.encode(errors="surrogatepass")


messages = st.one_of(
    nearly_prices(),
    nearly_plain(),
    st.binary(max_size=50),
    st.text(max_size=50).map(lambda text: text.encode(errors="surrogatepass")),
    st.builds(
        lambda value, at, byte: value[:at] + byte + value[at:],
        st.one_of(nearly_prices(), nearly_plain()),
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
    rows = transforms.prices({"prices": topic(spark, *values)}).collect()
    parsed = [parse(PriceMessage, value, TS) for value in values if verdict(value) is None]
    assert [(row.id, row.name, row.price_usd, row.ts) for row in rows] == [
        (message.id, message.name, message.price_usd, message.ts) for message in parsed
    ]


def test_every_message_goes_exactly_one_way(spark: SparkSession) -> None:
    values = [value for value, _ in BAD] + [json.dumps(good(id=str(n))).encode() for n in range(5)]
    raw = topic(spark, *values)
    assert transforms.prices({"prices": raw}).count() == 5
    assert letters(raw).count() == len(BAD)


# ---- the other tables


def test_a_price_becomes_a_row_of_the_board(spark: SparkSession) -> None:
    full = PriceMessage(
        id="90",
        symbol="BTC",
        name="Bitcoin",
        rank=1,
        price_usd=64000.5,
        volume24_usd=2.5,
        market_cap_usd=3.5,
        percent_change_1h=-0.1,
        percent_change_24h=0.2,
        percent_change_7d=0.3,
        ts=TS - 5,
    )
    bare = PriceMessage(id="80", name="Ether", price_usd=1.0, ts=TS + 60_000)
    first, second = transforms.latest_prices({"prices": topic(spark, encode(full), encode(bare))}).collect()
    values = full.model_dump(exclude={"schema_version"})
    assert {name: first[name] for name in values} == values
    assert set(first.asDict()) == {*tables.LATEST_PRICES.columns, *transforms.ORIGIN, "written_at", "born_at"}
    assert (first.board, first.written_at) == (tables.BOARD, (TS - 5) * 1000)
    # A price of the future gives way to the next one that Kafka takes.
    assert (second.ts, second.written_at) == (TS + 60_000, TS * 1000)
    assert (second["rank"], second.symbol, second.market_cap_usd) == (None, None, None)


def test_the_market_becomes_a_row(spark: SparkSession) -> None:
    market = MarketMessage(ts=TS, total_mcap_usd=1.5, total_volume_usd=2.5, btc_d=50.5, coins_count=14000, rising=5)
    raw = topic(spark, encode(market), b"{}")
    (row,) = transforms.market_global({"market": raw}).collect()
    values = market.model_dump(exclude={"schema_version"})
    assert {name: row[name] for name in values} == values
    assert row.month == "2023-11"
    assert set(row.asDict()) == {*tables.MARKET_GLOBAL.columns, *transforms.ORIGIN, "written_at", "born_at"}
    (letter,) = letters(raw.limit(0), market=raw).collect()
    assert (letter.value, letter.reason) == (b"{}", "schema_version is missing")


def test_what_the_producer_rejected_is_a_dead_letter_with_its_reason(spark: SparkSession) -> None:
    raw = topic(spark, encode_rejected({"id": ""}, "id: no text", TS), b"no json")
    found = letters(raw.limit(0), rejected=raw).collect()
    assert [row.reason for row in found] == [
        "the producer rejected it: id: no text",
        "the producer rejected it: it does not say why",
    ]


def test_what_came_too_late_for_its_candles_is_told_apart(spark: SparkSession) -> None:
    values = [json.dumps(good(ts=ts)).encode() for ts in (TS - 1, TS, TS + 1)]
    watermark = datetime.fromtimestamp(TS / 1000, tz=timezone.utc)
    late = transforms.late_samples({"prices": topic(spark, *values, appended_ts=TS + 5)}, F.lit(watermark)).collect()
    assert [row.offset for row in late] == [0, 1]
    assert "2023-11-14 22:13:20" in late[0].reason


# ---- candles, against plain Python


def candles_of(rows: list[Row]) -> dict[Key, Candle]:
    found = {
        (row.id, row.interval, round(row.start.timestamp() * 1000)): Candle(
            row.open, row.high, row.low, row.close, row.samples, row.volume24_usd
        )
        for row in rows
    }
    assert len(found) == len(rows)
    return found


def as_messages(samples: list[Sample]) -> list[bytes]:
    return [
        encode(PriceMessage(id=coin, name="x", price_usd=price, ts=ts, volume24_usd=volume))
        for coin, ts, price, volume in samples
    ]


# Around midnight, around the ends of minutes and quarters, far apart, and all of it more than once.
MIDNIGHT = 1_700_006_400_000
moments = st.sampled_from([MIDNIGHT, MIDNIGHT - 900_000, MIDNIGHT + 60_000, MIDNIGHT + 7_200_000]).flatmap(
    lambda moment: st.integers(moment - 90_000, moment + 90_000) | st.integers(moment - 2, moment + 2)
)
# One price for each coin and moment: of two that contradict each other, either may be the first.
samples = st.lists(
    st.tuples(st.sampled_from(["90", "80"]), moments).map(
        lambda key: Sample(*key, float(hash(key) % 1000), None if key[1] % 3 == 0 else float(key[1] % 7))
    ),
    min_size=1,
    max_size=60,
)


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples, st.randoms())
def test_candles_are_those_that_plain_python_computes(spark: SparkSession, found: list[Sample], random: Any) -> None:
    again = found + random.sample(found, len(found) // 2)
    random.shuffle(again)
    raw = topic(spark, *as_messages(again), b"no price", appended_ts=MIDNIGHT + DAY)
    rows = transforms.candles({"prices": raw}, 600).collect()
    assert candles_of(rows) == candles(found)
    for row in rows:
        start = round(row.start.timestamp() * 1000)
        assert row.month == time.strftime("%Y-%m", time.gmtime(start / 1000))
        assert row.written_at == start * 1000 + row.samples
        assert row.born_at == round(row.end.timestamp() * 1000)


DAY = 86_400_000


def test_candles_of_a_stream_grow_batch_by_batch_and_what_is_late_is_left_out_and_counted(
    spark: SparkSession, tmp_path: Path
) -> None:
    spark.conf.set("spark.sql.streaming.forceDeleteTempCheckpointLocation", "true")
    table: dict[Key, Candle] = {}
    changed: list[set[Key]] = []

    def write(rows: DataFrame, _: int) -> None:
        found = candles_of(rows.collect())
        changed.append(set(found))
        table.update(found)

    source = tmp_path / "topic"
    source.mkdir()
    stream = spark.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1).parquet(f"{source}/*")
    query = (
        transforms.candles({"prices": stream}, 60)
        .writeStream.outputMode("update")
        .option("checkpointLocation", str(tmp_path / "checkpoint"))
        .foreachBatch(write)
        .start()
    )

    def batch(*samples: Sample) -> int:
        """Put these into the stream; returns how many Spark has left out."""
        newest = max(ts for _, ts, *_ in samples)
        raw = topic(spark, *as_messages(list(samples)), appended_ts=min(newest, TS + 600_000))
        raw.coalesce(1).write.parquet(str(source / f"{len(list(source.iterdir())):03}"))
        changed.clear()
        query.processAllAvailable()
        return sum(
            operator["numRowsDroppedByWatermark"]
            for progress in query.recentProgress[-2:]
            if progress["numInputRows"]
            for operator in progress["stateOperators"]
        )

    try:
        first = [
            Sample("90", TS, 1.0, 5.0),
            Sample("90", TS + 10_000, 3.0, None),
            Sample("90", TS + 10_000, 3.0, None),
        ]
        assert batch(*first) == 0
        # Out of order, and one of the batch before once more.
        second = [Sample("90", TS + 10_000, 3.0, None), Sample("90", TS + 5_000, 0.5, 6.0)]
        assert batch(*second) == 0
        assert table == candles(first + second)
        third = [Sample("90", TS + 200_000, 9.0, 7.0)]
        assert batch(*third) == 0
        assert {name for _, name, _ in set().union(*changed)} == {"1m", "15m", "1h", "1d"}
        # The watermark is at 140 s: the first is too late, and is in no candle.
        fourth = [Sample("90", TS + 139_000, 100.0, 1.0), Sample("90", TS + 210_000, 8.0, 8.0)]
        assert batch(*fourth) == 1
        in_time = first + second + third + fourth[1:]
        assert table == candles(in_time)
        # A price of the future does not make the next one late.
        fifth = [Sample("90", TS + 3_000_000, 8.0, 8.0)]
        batch(*fifth)
        sixth = [Sample("90", TS + 590_000, 7.0, 9.0)]
        assert batch(*sixth) == 0
        assert table == candles(in_time + fifth + sixth)
    finally:
        query.stop()


def test_what_spark_says_of_state_of_another_version_is_understood(spark: SparkSession, tmp_path: Path) -> None:
    """The job tells an operator what to do by Spark's own words."""
    raw = topic(spark, *as_messages([Sample("90", TS, 1.0, 5.0)]), appended_ts=TS)
    raw.coalesce(1).write.parquet(str(tmp_path / "topic"))
    stream = spark.readStream.schema(SCHEMA).parquet(str(tmp_path / "topic"))
    of_today = transforms.candles({"prices": stream}, 60)

    def run(rows: DataFrame) -> str:
        query = (
            rows.writeStream.outputMode("update")
            .option("checkpointLocation", str(tmp_path / "checkpoint"))
            .foreachBatch(lambda batch, _: batch.write.format("noop").mode("append").save())
            .start()
        )
        try:
            query.processAllAvailable()
        except StreamingQueryException as error:
            return str(error)
        finally:
            query.stop()
        return ""

    assert run(of_today) == ""
    raw.withColumn("offset", F.lit(1)).coalesce(1).write.mode("append").parquet(str(tmp_path / "topic"))
    once = transforms.samples({"prices": stream}).withWatermark("event_time", "60 seconds")
    other = once.dropDuplicatesWithinWatermark(["id", "ts"]).groupBy("id").agg(F.count("event_time"))
    said = stream_job.todo(run(other), queries(Settings())[2], Settings())
    assert said is not None
    assert "/checkpoints/candles holds is of another version" in said
