from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator, MutableMapping
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import structlog
from crypto_stream import sinks, stream_job
from crypto_stream.config import Settings
from crypto_stream.metrics import JobMetrics, read
from crypto_stream.queries import Query, queries
from crypto_stream.stream_job import Offsets, Progress, Running, Span, Writer, done_offsets, span, wait_for, watch
from crypto_stream.tables import TABLES, Table
from crypto_stream.transforms import BORN_AT, Topics
from kafka.errors import KafkaTimeoutError
from prometheus_client import generate_latest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it

LogLines = list[MutableMapping[str, Any]]
LOGGER = structlog.stdlib.get_logger()


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with structlog.testing.capture_logs() as captured:
        yield captured


# ---- progress


def at(*offsets: int) -> Offsets:
    """Offsets of the first partitions of the topic of prices."""
    return {("crypto.prices", partition): offset for partition, offset in enumerate(offsets)}


def test_messages_that_wait_without_a_batch_are_a_stall() -> None:
    progress = Progress(100)
    progress.batch_ended(7, at(10, 5), 110)
    assert progress.topics_end(at(10, 8), 120) == 3
    assert progress.stalled_seconds(150) == 30
    progress.topics_end(at(10, 9), 160)
    assert progress.stalled_seconds(250) == 130


def test_nothing_to_do_is_no_stall() -> None:
    progress = Progress(0)
    progress.batch_ended(7, at(10), 10)
    assert progress.topics_end(at(10), 1000) == 0
    assert progress.stalled_seconds(5000) == 0


def test_a_batch_that_ends_begins_the_time_anew_and_the_same_one_does_not() -> None:
    progress = Progress(0)
    progress.batch_ended(7, at(1), 0)
    progress.topics_end(at(10), 10)
    progress.batch_ended(7, at(1), 90)
    assert progress.stalled_seconds(100) == 90
    progress.batch_ended(8, at(5), 100)
    assert progress.stalled_seconds(150) == 50


def test_before_the_first_batch_all_of_the_topic_waits() -> None:
    progress = Progress(0)
    assert progress.topics_end(at(3, 4), 5) == 7
    assert progress.stalled_seconds(130) == 125


def test_while_kafka_is_away_nobody_can_say_that_anything_waits() -> None:
    progress = Progress(0)
    progress.topics_end(at(3), 5)
    assert progress.topics_end(None, 20) == 0
    assert progress.stalled_seconds(500) == 0
    progress.topics_end(at(3), 510)
    assert progress.stalled_seconds(520) == 10


def test_offsets_of_sparks_progress() -> None:
    ends = [{"crypto.prices": {"0": 5, "2": 7}}, {"other": {"0": 9}}, None]
    found = done_offsets({"sources": [{"endOffset": end} for end in ends]})
    assert found == {("crypto.prices", 0): 5, ("crypto.prices", 2): 7, ("other", 0): 9}


# ---- the watch over the query


class FakeQuery:
    """A query that runs for so many looks, and ends a batch at those listed."""

    def __init__(self, looks: int, batches: dict[int, int], late: int = 0) -> None:
        self._looks = looks
        self._batches = batches
        self._late = late
        self._now = 0
        self._batch = -1

    @property
    def isActive(self) -> bool:  # noqa: N802
        self._now += 1
        return self._now <= self._looks

    @property
    def lastProgress(self) -> dict[str, Any] | None:  # noqa: N802
        self._batch = self._batches.get(self._now, self._batch)
        if self._batch < 0:
            return None
        offset = {"crypto.prices": {"0": self._batch}}
        return {
            "batchId": self._batch,
            "sources": [{"startOffset": None, "endOffset": offset}],
            "eventTime": {"watermark": "2026-01-01T00:00:00.000Z"},
            "stateOperators": [{"numRowsDroppedByWatermark": self._late}],
        }

    def exception(self) -> str:
        return "boom"


PRICES, LATEST_PRICES, CANDLES, MARKET_GLOBAL, DEAD_LETTERS = queries(Settings())


def watched(
    monkeypatch: pytest.MonkeyPatch,
    streaming: FakeQuery,
    ends: Offsets | None,
    stall: float = 120,
    query: Query = PRICES,
) -> tuple[list[str], JobMetrics, Running]:
    """Watch a query, with a clock of ten seconds a look; returns what systemd heard."""
    clock = iter(range(0, 10_000_000, 10))
    told: list[str] = []
    monkeypatch.setattr(stream_job, "notify", lambda *states: told.extend(states))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def look() -> Offsets:
        if ends is None:
            raise KafkaTimeoutError("away")
        return ends

    settings, metrics = Settings(stream_job={"stall_seconds": stall}), JobMetrics()
    writer = Writer(query, settings, metrics, LOGGER)
    running = Running(query, streaming, writer, Progress(time.monotonic()))  # type: ignore[arg-type]
    watch([running], SimpleNamespace(look=look), settings, metrics, LOGGER)  # type: ignore[arg-type]
    return told, metrics, running


def test_a_query_that_gets_on_is_watched_until_it_dies(monkeypatch: pytest.MonkeyPatch, lines: LogLines) -> None:
    streaming = FakeQuery(200, {look: look for look in range(1, 200, 5)})
    told, metrics, _ = watched(monkeypatch, streaming, at(1000))
    assert len(told) == 200
    assert [(line["event"], line.get("query"), line.get("reason")) for line in lines] == [
        ("query_died", "prices", "boom")
    ]
    assert read(generate_latest(metrics.registry).decode())["crypto_job_lag_records{prices}"] == 1000 - 196


def test_a_query_that_stands_still_while_messages_wait_ends_the_watch(
    monkeypatch: pytest.MonkeyPatch, lines: LogLines
) -> None:
    told, *_ = watched(monkeypatch, FakeQuery(1000, {1: 5}), at(6))
    assert 10 <= len(told) <= 14
    (line,) = lines
    assert (line["event"], line["query"], line["batch"]) == ("stalled", "prices", 5)
    assert line["seconds"] > 120


@pytest.mark.parametrize("ends", [at(5), {("crypto.global", 0): 9}, None])
def test_a_query_without_work_or_without_kafka_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, lines: LogLines, ends: Offsets | None
) -> None:
    told, *_ = watched(monkeypatch, FakeQuery(500, {1: 5}), ends)
    assert len(told) == 500
    assert [line["event"] for line in lines] == ["query_died"]


# ---- batches


class FakeFrame:
    """What `Writer` does with a DataFrame, without Spark."""

    def __init__(self, rows: int, newest: int | None = 1_700_000_000_000) -> None:
        self.found = {"rows": rows, "newest": newest}
        self.sparkSession: Any = None

    def observe(self, observation: Any, *_: object) -> FakeFrame:
        observation.value = self.found.get
        return self


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that batches went to."""
    written: list[str] = []
    monkeypatch.setattr(stream_job, "Seen", SimpleNamespace)
    monkeypatch.setattr(stream_job, "seen_columns", lambda _: ())
    monkeypatch.setattr(sinks, "append", lambda _, table: written.append(table.name))
    return written


def writer(metrics: JobMetrics | None = None, query: Query = PRICES) -> Writer:
    made = Writer(query, Settings(), metrics or JobMetrics(), LOGGER)
    made.tables_exist.set()
    return made


def test_a_batch_is_one_write_into_the_querys_table(written: list[str], lines: LogLines) -> None:
    metrics = JobMetrics()
    write = writer(metrics)
    write(FakeFrame(100), 7)  # type: ignore[arg-type]
    assert written == ["prices"]
    (line,) = lines
    assert (line["event"], line["query"], line["batch"], line["written"]) == ("batch_written", "prices", 7, 100)
    assert write.newest_ts == 1_700_000_000_000
    assert write.wrote.is_set()
    found = read(generate_latest(metrics.registry).decode())
    assert found["crypto_job_rows_total{written,prices}"] == 100
    assert found["crypto_job_batches_total{prices}"] == 1


def test_an_empty_batch_is_no_news_but_is_up_to_date(written: list[str], lines: LogLines) -> None:
    write = writer()
    write(FakeFrame(0, None), 7)  # type: ignore[arg-type]
    assert lines == []
    assert write.newest_ts == pytest.approx(time.time() * 1000, abs=60_000)


def test_of_a_batch_only_the_newest_price_of_each_coin_goes_on_the_board(
    monkeypatch: pytest.MonkeyPatch, spark: SparkSession
) -> None:
    came = datetime(2026, 1, 1, tzinfo=timezone.utc)
    said = [("all", "90", 1, 5.0), ("all", "80", 2, 7.0), ("all", "90", 3, 6.0)]
    rows = spark.createDataFrame(
        [(*one, came) for one in said],
        "board string, id string, written_at long, price_usd double, timestamp timestamp",
    ).repartition(2)
    boards: list[dict[str, float]] = []

    def append(rows: DataFrame, *_: object) -> None:
        # Two tasks would need a shuffle between them and what finds the newest.
        assert rows.rdd.getNumPartitions() == 1
        boards.append({row.id: row.price_usd for row in rows.collect()})

    monkeypatch.setattr(sinks, "append", append)
    metrics = JobMetrics()
    write = writer(metrics, LATEST_PRICES)
    write(rows, 7)
    assert boards == [{"90": 6.0, "80": 7.0}]
    assert write.newest_ts == came.timestamp() * 1000
    # All that were read are dealt with.
    assert read(generate_latest(metrics.registry).decode())["crypto_job_rows_total{written,latest_prices}"] == 3


def test_the_rules_that_are_left_out_are_sparks_own_and_may_be(spark: SparkSession) -> None:
    """Spark takes whatever name there is, and keeps a rule that it needs."""
    state: Any = spark._jsparkSession.sessionState()
    needed = state.optimizer().nonExcludableRules().mkString(" ").split()
    for rule in stream_job.UNUSED_RULES:
        assert spark._jvm.java.lang.Class.forName(f"{rule}$"), rule  # type: ignore[union-attr]
        assert rule not in needed


def checkpoint_with(folder: Path, *watermarks: int) -> Settings:
    """The checkpoint of the candles, of batches that each read another message."""
    offsets = folder / "candles/offsets"
    offsets.mkdir(parents=True)
    for batch, watermark in enumerate(watermarks):
        about = {"batchWatermarkMs": watermark, "batchTimestampMs": 1_700_000_000_000, "conf": {}}
        lines = ["v1", json.dumps(about), json.dumps({"crypto.prices": {"0": batch + 1}})]
        (offsets / str(batch)).write_text("\n".join(lines))
    return Settings(stream_job={"checkpoint_dir": str(folder)})


def test_the_offsets_of_a_batch_are_those_of_its_checkpoint(tmp_path: Path) -> None:
    settings = checkpoint_with(tmp_path, 0, 5000)
    place = stream_job.checkpoint(CANDLES, settings)
    assert span(place, 0) == Span(None, '{"crypto.prices": {"0": 1}}', 0)
    assert span(place, 1) == Span('{"crypto.prices": {"0": 1}}', '{"crypto.prices": {"0": 2}}', 5000)
    assert span(place, 2) is None
    assert span(place, -1) is None


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        # Spark has counted, some or none.
        (FakeQuery(9, {0: 1}, late=3), ["dead_letters", "candles"]),
        (FakeQuery(9, {0: 1}), ["candles"]),
        # Of an older batch.
        (FakeQuery(9, {0: 0}), ["dead_letters", "candles"]),
        # It was a process before this one that saw the end of the batch.
        (FakeQuery(9, {}), ["dead_letters", "candles"]),
        (None, ["dead_letters", "candles"]),
    ],
)
def test_what_came_too_late_is_set_aside_with_the_next_batch(
    ended: FakeQuery | None,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    written: list[str],
    lines: LogLines,
) -> None:
    asked: list[Span] = []

    def late_rows(found: Span, *_: object) -> FakeFrame:
        asked.append(found)
        return FakeFrame(3)

    monkeypatch.setattr(stream_job, "late_rows", late_rows)
    metrics = JobMetrics()
    write = Writer(CANDLES, checkpoint_with(tmp_path, 0, 5000), metrics, LOGGER)
    write.tables_exist.set()
    write.streaming = ended  # type: ignore[assignment]
    write(FakeFrame(5), 2)  # type: ignore[arg-type]
    assert written == expected
    assert [found.watermark_ms for found in asked] == [5000] * (len(expected) - 1)
    counted = read(generate_latest(metrics.registry).decode()).get("crypto_job_rows_total{late,candles}", 0)
    assert counted == 3 * len(asked)


def test_before_the_first_batch_there_was_none(tmp_path: Path, written: list[str]) -> None:
    write = Writer(CANDLES, Settings(stream_job={"checkpoint_dir": str(tmp_path)}), JobMetrics(), LOGGER)
    write.tables_exist.set()
    write(FakeFrame(5), 0)  # type: ignore[arg-type]
    assert written == ["candles"]


def test_a_batch_that_fails_is_written_one_by_one(
    written: list[str], lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Failed to write statements\nat line 2")

    monkeypatch.setattr(sinks, "append", refuse)
    monkeypatch.setattr(sinks, "append_one_by_one", lambda *_: (97, 1))
    writer()(FakeFrame(98), 7)  # type: ignore[arg-type]
    failed, done = lines
    assert (failed["event"], failed["reason"]) == ("batch_failed", "Failed to write statements")
    assert (done["written"], done["refused"]) == (97, 1)


def test_a_batch_that_cannot_be_written_at_all_is_tried_again_until_it_can(
    written: list[str], lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_job, "PAUSE_SECONDS", 0)
    outcomes = iter([OSError("not one"), OSError("still none"), None])
    tries: list[str] = []

    def away(*_: object) -> None:
        tries.append("connector")
        raise OSError("no node answers")

    def one_by_one(*_: object) -> tuple[int, int]:
        tries.append("driver")
        if (error := next(outcomes)) is not None:
            raise error
        return 100, 0

    monkeypatch.setattr(sinks, "append", away)
    monkeypatch.setattr(sinks, "append_one_by_one", one_by_one)
    writer()(FakeFrame(100), 7)  # type: ignore[arg-type]
    assert [(line["event"], line.get("reason")) for line in lines] == [
        ("batch_failed", "no node answers"),
        ("batch_not_written", "not one"),
        ("batch_not_written", "still none"),
        ("batch_written", None),
    ]
    # The connector is asked once: its sessions are back later than Cassandra is.
    assert tries == ["connector", "driver", "driver", "driver"]


def test_a_stop_ends_the_tries(written: list[str], lines: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OSError("no node answers")

    monkeypatch.setattr(sinks, "append", away)
    monkeypatch.setattr(sinks, "append_one_by_one", lambda *_: pytest.fail("there is no time for that"))
    stopping = writer()
    stopping.stopping.set()
    with pytest.raises(OSError, match="no node answers"):
        stopping(FakeFrame(100), 8)  # type: ignore[arg-type]


def test_a_batch_waits_for_the_tables(written: list[str], lines: LogLines) -> None:
    early = Writer(PRICES, Settings(), JobMetrics(), LOGGER)
    thread = threading.Thread(target=early, args=(FakeFrame(1), 0), daemon=True)
    thread.start()
    thread.join(0.2)
    assert written == []
    early.tables_exist.set()
    thread.join(10)
    assert len(written) == 1


def test_what_is_not_there_yet_is_waited_for_and_named_once(lines: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_job, "PAUSE_SECONDS", 0)
    outcomes = iter([LookupError("there is no topic x\nmore"), LookupError("y"), None])

    def look() -> None:
        if (error := next(outcomes)) is not None:
            raise error

    wait_for("the topic", look, LOGGER)
    assert [(line["event"], line["what"], line["reason"]) for line in lines] == [
        ("waiting", "the topic", "there is no topic x")
    ]


# ---- what is asked of Spark


class Recorder:
    """Takes any chain of calls and remembers their arguments."""

    def __init__(self, calls: dict[str, Any]) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        if name in ("readStream", "writeStream"):
            return self

        def call(*arguments: Any, **named: Any) -> Recorder:
            if name == "option":
                self._calls[arguments[0]] = arguments[1]
            else:
                self._calls[name] = arguments or named
            return self

        return call


def test_topics_are_read_from_their_beginning_and_gaps_stop_the_job() -> None:
    calls: dict[str, Any] = {}
    settings = Settings(kafka={"bootstrap_servers": ["a:1", "b:2"]}, stream_job={"max_offsets_per_trigger": 5})
    spark = SimpleNamespace(readStream=Recorder(calls))
    assert set(stream_job.read_topics(spark, MARKET_GLOBAL, settings)) == {"market"}  # type: ignore[arg-type]
    assert calls["options"]["kafka.bootstrap.servers"] == "a:1,b:2"
    assert calls["options"]["failOnDataLoss"] == "true"
    assert calls["subscribe"] == "crypto.global"
    assert calls["startingOffsets"] == "earliest"
    assert calls["maxOffsetsPerTrigger"] == 5
    stream_job.read_topics(spark, dataclasses.replace(MARKET_GLOBAL, share=0.5), settings)  # type: ignore[arg-type]
    assert calls["maxOffsetsPerTrigger"] == 3
    assert "coalesce" not in calls


def test_what_has_state_is_read_in_as_many_tasks_as_the_state_has() -> None:
    calls: dict[str, Any] = {}
    conf = {"spark.sql.shuffle.partitions": "3"}
    spark = SimpleNamespace(readStream=Recorder(calls), conf=conf)
    stream_job.read_topics(spark, CANDLES, Settings())  # type: ignore[arg-type]
    assert calls["coalesce"] == (3,)


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize(("query", "mode"), [(PRICES, "append"), (CANDLES, "update")])
def test_a_query_keeps_its_checkpoint_and_writes_by_batches(
    monkeypatch: pytest.MonkeyPatch, query: Query, mode: str
) -> None:
    calls: dict[str, Any] = {}
    monkeypatch.setattr(stream_job, "read_topics", lambda *_: None)
    plain = dataclasses.replace(query, rows=lambda _: Recorder(calls), trigger_ms=9)  # type: ignore[arg-type,return-value]
    write = writer(query=plain)
    pools: list[tuple[str, str]] = []
    context = SimpleNamespace(setLocalProperty=lambda *pair: pools.append(pair))
    conf = SimpleNamespace(get=lambda _: "", set=lambda *_: None)
    spark = SimpleNamespace(sparkContext=context, conf=conf)
    stream_job.start(spark, write, Settings(stream_job={"checkpoint_dir": "/x/"}))  # type: ignore[arg-type]
    assert pools == [("spark.scheduler.pool", query.name)]
    assert calls["checkpointLocation"] == f"/x/{query.name}"
    assert calls["outputMode"] == (mode,)
    assert calls["foreachBatch"] == (write,)
    assert calls["trigger"] == {"processingTime": "9 milliseconds"}
    assert "start" in calls


@pytest.mark.parametrize(("query", "wanted"), [(PRICES, stream_job.SESSION), (CANDLES, stream_job.GENERATED)])
def test_only_batches_of_a_query_with_state_have_generated_code(
    spark: SparkSession, tmp_path: Path, query: Query, wanted: dict[str, str]
) -> None:
    found: list[dict[str, str | None]] = []
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one").write_text("a line\n")

    class Looking(Writer):
        def __call__(self, rows: DataFrame, _: int) -> None:
            found.append({name: rows.sparkSession.conf.get(name) for name in stream_job.GENERATED})

    def rows(_: Topics) -> DataFrame:
        return spark.readStream.text(str(tmp_path / "in")).withColumn(BORN_AT, F.lit(0))

    looking = Looking(
        dataclasses.replace(query, topics=(), rows=rows),
        Settings(stream_job={"checkpoint_dir": str(tmp_path)}),
        JobMetrics(),
        LOGGER,
    )
    running = stream_job.start(spark, looking, looking._settings)
    assert all(spark.conf.get(name) == stream_job.SESSION[name] for name in stream_job.GENERATED)
    try:
        running.streaming.processAllAvailable()
    finally:
        running.streaming.stop()
    assert found
    assert all(one == {name: wanted[name] for name in one} for one in found)


def test_the_pools_are_those_of_the_queries() -> None:
    """Spark takes a name that it does not know for a pool like any other."""
    file = urlsplit(stream_job.SESSION["spark.scheduler.allocation.file"]).path
    named = [pool.get("name") for pool in ElementTree.parse(file).iter("pool")]
    assert named
    assert set(named) <= {query.name for query in queries(Settings())}


def test_each_query_has_a_table_and_a_checkpoint_of_its_own() -> None:
    all_of_them = queries(Settings())
    assert [query.table for query in all_of_them] == list(TABLES)
    assert len({stream_job.checkpoint(query, Settings()) for query in all_of_them}) == len(TABLES)


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("[STATE_STORE_KEY_SCHEMA_NOT_COMPATIBLE] ...", "crypto-replay"),
        (
            "org.apache.spark.sql.execution.streaming.state.StateSchemaNotCompatible: Provided schema ...",
            "crypto-replay",
        ),
        (
            "Some data may have been lost because they are not available in Kafka any more",
            "Keep the topic longer",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_with_what_to_do(reason: str, word: str) -> None:
    said = stream_job.todo(reason, CANDLES, Settings())
    assert said is not None
    assert word in said
    assert "/var/lib/crypto-stream/checkpoints/candles" in said


def test_where_starting_anew_is_all_there_is_to_do_nothing_is_said() -> None:
    assert stream_job.todo("Job aborted: no executor", CANDLES, Settings()) is None


@pytest.mark.parametrize("table", TABLES, ids=[table.name for table in TABLES])
def test_rows_are_appended_with_their_own_times_to_what_was_seen_of_the_table(
    monkeypatch: pytest.MonkeyPatch, table: Table
) -> None:
    calls: dict[str, Any] = {}
    monkeypatch.setattr(sinks, "TABLES", [table])
    sinks.look_for_tables(SimpleNamespace(read=Recorder(calls)), Settings())  # type: ignore[arg-type]
    assert calls["format"] == (sinks.FORMAT,)
    assert calls["options"] == {
        "keyspace": "crypto",
        "table": table.name,
        # Null counts where the newest word does; elsewhere it would be a tombstone for nothing.
        "spark.cassandra.output.ignoreNulls": "false" if table.name == "latest_prices" else "true",
        "spark.cassandra.output.concurrent.writes": "50",
        "writetime": "written_at",
        "ttl": "ttl_seconds",
    }
    assert calls["createOrReplaceGlobalTempView"] == (table.name,)

    class Frame:
        write = Recorder(calls)

        def select(self, *columns: str) -> Frame:
            calls["select"] = columns
            return self

    monkeypatch.setattr(sinks, "_written", lambda table: (*table.columns, "written_at", "ttl_seconds"))
    sinks.append(Frame(), table)  # type: ignore[arg-type]
    assert calls["select"] == (*table.columns, "written_at", "ttl_seconds")
    assert calls["insertInto"] == (f"global_temp.{table.name}",)


def test_what_is_said_of_an_error_of_javas_is_its_cause() -> None:
    def java(text: str, cause: Any = None) -> Any:
        return SimpleNamespace(toString=lambda: text, getCause=lambda: cause)

    error = OSError("Exception thrown in awaitResult:")
    error._origin = java("awaitResult", java("Job aborted", java("mkdir failed\nat ...")))  # type: ignore[attr-defined]
    assert stream_job.first_line(error) == "mkdir failed"
    assert stream_job.first_line(OSError("plain\nmore")) == "plain"
    assert stream_job.first_line(OSError()) == "OSError"
