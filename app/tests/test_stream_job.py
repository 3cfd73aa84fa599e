from __future__ import annotations

import threading
import time
from collections.abc import Iterator, MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from crypto_stream import sinks, stream_job
from crypto_stream.config import Settings
from crypto_stream.metrics import JobMetrics, read
from crypto_stream.stream_job import Progress, Writer, done_offsets, wait_for, watch
from kafka.errors import KafkaTimeoutError
from prometheus_client import generate_latest

LogLines = list[MutableMapping[str, Any]]
LOGGER = structlog.stdlib.get_logger()


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with structlog.testing.capture_logs() as captured:
        yield captured


# ---- progress


def test_messages_that_wait_without_a_batch_are_a_stall() -> None:
    progress = Progress(100)
    progress.batch_ended(7, {0: 10, 1: 5}, 110)
    assert progress.topic_ends({0: 10, 1: 8}, 120) == 3
    assert progress.stalled_seconds(150) == 30
    progress.topic_ends({0: 10, 1: 9}, 160)
    assert progress.stalled_seconds(250) == 130


def test_nothing_to_do_is_no_stall() -> None:
    progress = Progress(0)
    progress.batch_ended(7, {0: 10}, 10)
    assert progress.topic_ends({0: 10}, 1000) == 0
    assert progress.stalled_seconds(5000) == 0


def test_a_batch_that_ends_begins_the_time_anew_and_the_same_one_does_not() -> None:
    progress = Progress(0)
    progress.batch_ended(7, {0: 1}, 0)
    progress.topic_ends({0: 10}, 10)
    progress.batch_ended(7, {0: 1}, 90)
    assert progress.stalled_seconds(100) == 90
    progress.batch_ended(8, {0: 5}, 100)
    assert progress.stalled_seconds(150) == 50


def test_before_the_first_batch_all_of_the_topic_waits() -> None:
    progress = Progress(0)
    assert progress.topic_ends({0: 3, 1: 4}, 5) == 7
    assert progress.stalled_seconds(130) == 125


def test_while_kafka_is_away_nobody_can_say_that_anything_waits() -> None:
    progress = Progress(0)
    progress.topic_ends({0: 3}, 5)
    assert progress.topic_ends(None, 20) == 0
    assert progress.stalled_seconds(500) == 0
    progress.topic_ends({0: 3}, 510)
    assert progress.stalled_seconds(520) == 10


@pytest.mark.parametrize(
    ("end", "offsets"),
    [({"crypto.prices": {"0": 5, "2": 7}}, {0: 5, 2: 7}), ({"other": {"0": 5}}, {}), (None, {})],
)
def test_offsets_of_sparks_progress(end: Any, offsets: dict[int, int]) -> None:
    assert done_offsets({"sources": [{"endOffset": end}]}, "crypto.prices") == offsets


# ---- the watch over the query


class FakeQuery:
    """A query that runs for so many looks, and ends a batch at those listed."""

    def __init__(self, looks: int, batches: dict[int, int]) -> None:
        self.name = "prices"
        self._looks = looks
        self._batches = batches
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
        return {"batchId": self._batch, "sources": [{"endOffset": {"crypto.prices": {"0": self._batch}}}]}

    def exception(self) -> str:
        return "boom"


def watched(
    monkeypatch: pytest.MonkeyPatch, query: FakeQuery, ends: dict[int, int] | None, stall: float = 120
) -> tuple[list[str], JobMetrics]:
    """Watch a query, with a clock of ten seconds a look; returns what systemd heard."""
    clock = iter(range(0, 10_000_000, 10))
    told: list[str] = []
    monkeypatch.setattr(stream_job, "notify", lambda *states: told.extend(states))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def look() -> dict[int, int]:
        if ends is None:
            raise KafkaTimeoutError("away")
        return ends

    settings, metrics = Settings(stream_job={"stall_seconds": stall}), JobMetrics()
    writer = Writer(settings, metrics, LOGGER)
    watch(query, writer, SimpleNamespace(ends=look), settings, metrics, LOGGER)  # type: ignore[arg-type]
    return told, metrics


def test_a_query_that_gets_on_is_watched_until_it_dies(monkeypatch: pytest.MonkeyPatch, lines: LogLines) -> None:
    told, metrics = watched(monkeypatch, FakeQuery(100, {look: look for look in range(1, 100, 5)}), {0: 1000})
    assert len(told) == 100
    assert [(line["event"], line.get("reason")) for line in lines] == [("query_died", "boom")]
    assert read(generate_latest(metrics.registry).decode())["crypto_job_lag_records"] == 1000 - 96


def test_a_query_that_stands_still_while_messages_wait_ends_the_watch(
    monkeypatch: pytest.MonkeyPatch, lines: LogLines
) -> None:
    told, _ = watched(monkeypatch, FakeQuery(1000, {1: 5}), {0: 6})
    assert 10 <= len(told) <= 14
    (line,) = lines
    assert (line["event"], line["batch"]) == ("stalled", 5)
    assert line["seconds"] > 120


@pytest.mark.parametrize("ends", [{0: 5}, None])
def test_a_query_without_work_or_without_kafka_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, lines: LogLines, ends: dict[int, int] | None
) -> None:
    told, _ = watched(monkeypatch, FakeQuery(500, {1: 5}), ends)
    assert len(told) == 500
    assert [line["event"] for line in lines] == ["query_died"]


# ---- batches


class FakeCache:
    """The connector's sessions, as the JVM holds them."""

    def __init__(self, *sessions: str) -> None:
        self.sessions = list(sessions)
        self.closed: list[str] = []

    def values(self) -> FakeCache:
        return self

    def iterator(self) -> FakeCache:
        self._left = list(self.sessions)
        return self

    def hasNext(self) -> bool:  # noqa: N802 - Java's
        return bool(self._left)

    def next(self) -> Any:
        session = self._left.pop(0)
        return SimpleNamespace(forceCloseAsync=lambda: self.closed.append(session))

    def clear(self) -> None:
        self.sessions.clear()


def fake_spark(cache: FakeCache) -> Any:
    companion = SimpleNamespace(
        **{"MODULE$": SimpleNamespace(sessionCache=lambda: SimpleNamespace(cache=lambda: cache))}
    )
    cql = SimpleNamespace(**{"CassandraConnector$": companion})
    datastax = SimpleNamespace(spark=SimpleNamespace(connector=SimpleNamespace(cql=cql)))
    return SimpleNamespace(_jvm=SimpleNamespace(com=SimpleNamespace(datastax=datastax)))


class FakeFrame:
    """What `Writer` does with a DataFrame, without Spark."""

    def __init__(self, rows: int, bad: int, newest: int | None = 1_700_000_000_000) -> None:
        self.found = {"all": rows, "bad": bad, "newest": newest}
        self.cache = FakeCache("s0")
        self.sparkSession = fake_spark(self.cache)

    def observe(self, observation: Any, *_: object) -> FakeFrame:
        observation.get = self.found
        return self

    def where(self, _: object) -> FakeFrame:
        return self

    def count(self) -> int:
        return self.found["bad"] or 0


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """The tables that batches went to, with their options."""
    written: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(stream_job, "Observation", SimpleNamespace)
    monkeypatch.setattr(
        stream_job, "F", SimpleNamespace(**dict.fromkeys(("count", "max", "unix_millis", "col"), _column))
    )
    monkeypatch.setattr(stream_job, "to_prices", lambda frame: frame)
    monkeypatch.setattr(stream_job, "to_dead_letters", lambda frame: frame)
    monkeypatch.setattr(sinks, "append", lambda _, table, __, **options: written.append((table, options)))
    return written


def _column(*_: object) -> Any:
    return SimpleNamespace(alias=lambda _: None, isNotNull=lambda: None)


def writer(metrics: JobMetrics | None = None) -> Writer:
    made = Writer(Settings(), metrics or JobMetrics(), LOGGER)
    made.tables_exist.set()
    return made


def test_a_batch_of_prices_is_one_write_with_the_prices_own_time(
    written: list[tuple[str, dict[str, str]]], lines: LogLines
) -> None:
    metrics = JobMetrics()
    write = writer(metrics)
    write(FakeFrame(100, 0), 7)  # type: ignore[arg-type]
    assert written == [("prices", {"writetime": "written_at"})]
    (line,) = lines
    assert (line["event"], line["batch"], line["price"], line["dead_letter"]) == ("batch_written", 7, 100, 0)
    assert write.newest_ts == 1_700_000_000_000
    assert read(generate_latest(metrics.registry).decode())["crypto_job_rows_total{price}"] == 100


def test_dead_letters_are_written_only_where_there_are_some(
    written: list[tuple[str, dict[str, str]]], lines: LogLines
) -> None:
    frame = FakeFrame(100, 3)
    writer()(frame, 7)  # type: ignore[arg-type]
    assert written == [("prices", {"writetime": "written_at"}), ("dead_letters", {})]
    assert frame.cache.closed == []
    assert (lines[0]["price"], lines[0]["dead_letter"]) == (97, 3)


def test_a_batch_that_fails_is_written_one_by_one(
    written: list[tuple[str, dict[str, str]]], lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, table: str, *__: object, **options: str) -> None:
        if table == "prices":
            raise OSError("Failed to write statements\nat line 2")
        written.append((table, options))

    monkeypatch.setattr(sinks, "append", refuse)
    monkeypatch.setattr(sinks, "append_one_by_one", lambda *_: (97, 1))
    writer()(FakeFrame(100, 2), 7)  # type: ignore[arg-type]
    failed, done = lines
    assert (failed["event"], failed["reason"]) == ("batch_failed", "Failed to write statements")
    assert (done["price"], done["dead_letter"], done["refused"]) == (97, 2, 1)
    assert written == [("dead_letters", {})]


def test_a_batch_that_cannot_be_written_at_all_is_tried_again_until_it_can(
    written: list[tuple[str, dict[str, str]]], lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_job, "PAUSE_SECONDS", 0)
    outcomes = iter([OSError("not one"), OSError("still none"), None])
    tries: list[str] = []

    def away(*_: object, **__: object) -> None:
        tries.append("connector")
        raise OSError("no node answers")

    def one_by_one(*_: object) -> tuple[int, int]:
        tries.append("driver")
        if (error := next(outcomes)) is not None:
            raise error
        return 100, 0

    monkeypatch.setattr(sinks, "append", away)
    monkeypatch.setattr(sinks, "append_one_by_one", one_by_one)
    frame = FakeFrame(100, 0)
    writer()(frame, 7)  # type: ignore[arg-type]
    assert [(line["event"], line.get("reason")) for line in lines] == [
        ("batch_failed", "no node answers"),
        ("batch_not_written", "not one"),
        ("batch_not_written", "still none"),
        ("batch_written", None),
    ]
    # The connector is asked once: while Cassandra is away it waits for minutes.
    assert tries == ["connector", "driver", "driver", "driver"]
    # And the next batch gets a session of its own: this one would never end a refresh of the schema again.
    assert (frame.cache.closed, frame.cache.sessions) == (["s0"], [])


def test_a_stop_ends_the_tries(
    written: list[tuple[str, dict[str, str]]], lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError("no node answers")

    monkeypatch.setattr(sinks, "append", away)
    monkeypatch.setattr(sinks, "append_one_by_one", lambda *_: pytest.fail("there is no time for that"))
    stopping = writer()
    stopping.stopping.set()
    with pytest.raises(OSError, match="no node answers"):
        stopping(FakeFrame(100, 0), 8)  # type: ignore[arg-type]


def test_a_batch_waits_for_the_tables(written: list[tuple[str, dict[str, str]]], lines: LogLines) -> None:
    early = Writer(Settings(), JobMetrics(), LOGGER)
    thread = threading.Thread(target=early, args=(FakeFrame(1, 0), 0), daemon=True)
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


def test_the_topic_is_read_from_its_beginning_and_gaps_stop_the_job() -> None:
    calls: dict[str, Any] = {}
    settings = Settings(kafka={"bootstrap_servers": ["a:1", "b:2"]}, stream_job={"max_offsets_per_trigger": 5})
    stream_job.read_topic(SimpleNamespace(readStream=Recorder(calls)), settings)  # type: ignore[arg-type]
    assert calls["kafka.bootstrap.servers"] == "a:1,b:2"
    assert calls["subscribe"] == "crypto.prices"
    assert calls["startingOffsets"] == "earliest"
    assert calls["failOnDataLoss"] == "true"
    assert calls["maxOffsetsPerTrigger"] == 5


def test_the_query_keeps_its_checkpoint_and_writes_by_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}
    monkeypatch.setattr(stream_job, "read_topic", lambda *_: None)
    monkeypatch.setattr(stream_job, "decode", lambda _: Recorder(calls))
    write = writer()
    stream_job.start(None, Settings(stream_job={"checkpoint_dir": "/x/", "trigger_ms": 9}), write)  # type: ignore[arg-type]
    assert calls["checkpointLocation"] == "/x/prices"
    assert calls["foreachBatch"] == (write,)
    assert calls["trigger"] == {"processingTime": "9 milliseconds"}
    assert "start" in calls


def test_rows_are_appended_without_tombstones() -> None:
    calls: dict[str, Any] = {}

    class Frame:
        write = Recorder(calls)

    sinks.append(Frame(), "prices", Settings().cassandra, writetime="written_at")  # type: ignore[arg-type]
    assert calls["mode"] == ("append",)
    assert calls["options"] == {
        "keyspace": "crypto",
        "table": "prices",
        "spark.cassandra.output.ignoreNulls": "true",
        "writetime": "written_at",
    }
    assert "save" in calls
