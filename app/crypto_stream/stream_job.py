"""The stream job: from the topics into the tables, by the queries of `queries`.

Each query reads its topics and writes its table by itself, with a checkpoint of its own. A batch that is repeated after
a crash writes the same rows again: the keys are the message's own, and the cells carry the time of what they tell as
their write time.

The process lives by its progress. When messages wait and no batch of a query has ended for a while, it ends, whatever
the cause (executors that are gone, a sink that hangs), and systemd starts it anew from its checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tenacity
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it

from crypto_stream import config, log, sinks, store, transforms
from crypto_stream.config import Settings
from crypto_stream.metrics import JobMetrics
from crypto_stream.queries import Query, queries
from crypto_stream.systemd import notify
from crypto_stream.tables import CANDLES, DEAD_LETTERS, Table

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery
    from structlog.stdlib import BoundLogger

HEARTBEAT_SECONDS = 2.0
# How often Kafka is asked for the ends of the topics, and how long it may take to answer.
LOOK_SECONDS = 10.0
ANSWER_SECONDS = 5.0
# How often topics and tables are looked for at the start.
PAUSE_SECONDS = 0.5
# The other queries begin when the first one has written, or after so long: together they would hold it up.
FIRST_SECONDS = 30.0
# The longest pause before a batch is tried again; one that fails for good shall leave the cores to the others.
MAX_PAUSE_SECONDS = 5.0
# While there is no data, how often Spark asks Kafka for some. Its own 10 ms would keep a core of a small host busy.
POLLING_DELAY = "200ms"

# Rules of the optimizer that never find anything in these queries, and would be tried in each batch all the same.
UNUSED_RULES = [
    f"org.apache.spark.sql.{rule}"
    for rule in (
        "catalyst.optimizer.BooleanSimplification",
        "catalyst.optimizer.MergeScalarSubqueries",
        "catalyst.optimizer.NullPropagation",
        "catalyst.optimizer.OptimizeCsvJsonExprs",
        "catalyst.optimizer.OptimizeOneRowRelationSubquery",
        "catalyst.optimizer.PruneFilters",
        "catalyst.optimizer.RemoveRedundantAliases",
        "catalyst.optimizer.ReorderAssociativeOperator",
        "catalyst.optimizer.SimplifyBinaryComparison",
        "catalyst.optimizer.SimplifyCasts",
        "catalyst.optimizer.SimplifyConditionals",
        "catalyst.optimizer.UnwrapCastInBinaryComparison",
        "execution.datasources.PruneFileSourcePartitions",
        "execution.datasources.SchemaPruning",
    )
]

# How queries are planned, a replay's, too.
PLANNING: dict[str, Any] = {
    "spark.sql.session.timeZone": "UTC",
    # What can be concluded of the rules of a message is nothing, and takes the planner ten seconds a batch.
    "spark.sql.constraintPropagation.enabled": "false",
}
# What each of many small batches would pay for.
SESSION = PLANNING | {
    "spark.scheduler.mode": "FAIR",
    "spark.scheduler.allocation.file": Path(__file__).with_name("pools.xml").as_uri(),
    "spark.sql.streaming.pollingDelay": POLLING_DELAY,
    # The usual one starts a process (readlink) for each file of a checkpoint.
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.FileSystemBasedCheckpointFileManager"
    ),
    # Nor has anybody use of a second file with its checksum, which a read would trip over after a power cut.
    "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    # Everything is near on few hosts: a task waits for no better place.
    "spark.locality.wait": "0",
    # A new start goes back by one batch; before each batch the list of those that are kept is looked through.
    "spark.sql.streaming.minBatchesToRetain": "10",
    # To write and compile a program for each batch takes longer than to do without for as few rows; see GENERATED.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    # Without a program, a common part of expressions goes through a cache, which takes longer than to compute it twice.
    "spark.sql.subexpressionElimination.enabled": "false",
    # Nothing that is written is worth another plan while it runs.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.optimizer.excludedRules": ",".join(UNUSED_RULES),
    # For the web page, each plan is told in words.
    "spark.sql.ui.explainMode": "simple",
}
# A query with state has few batches of many rows, and Spark knows most of their program from the batch before.
GENERATED = {
    "spark.sql.codegen.wholeStage": "true",
    "spark.sql.codegen.factoryMode": "FALLBACK",
    "spark.sql.subexpressionElimination.enabled": "true",
}
# Java's classes that a batch names. Each time that Python names one, Java looks for it in every jar.
CLASSES = ("functions", "PythonUtils", "SparkSession", "SparkSession$", "org.apache.spark.sql.Observation")

# Offsets by topic and partition.
Offsets = dict[tuple[str, int], int]
# How many rows of a batch became what.
Rows = dict[str, int]


def keep_classes(spark: SparkSession) -> None:
    """Let Python remember where Java has its classes."""
    for path in CLASSES:
        at: Any = spark._jvm
        for name in path.split("."):
            setattr(at, name, getattr(at, name))
            at = getattr(at, name)


def kafka_options(settings: Settings) -> dict[str, str]:
    """How Spark reads Kafka, in a stream and in a batch. Messages that are gone stop the query, loudly."""
    return {
        "kafka.bootstrap.servers": ",".join(settings.kafka.bootstrap_servers),
        "failOnDataLoss": "true",
        # The consumer asks ahead for messages, and what Spark asks next of it (the topic's ends, in each task) waits
        # until the broker has given up on that: 500 ms by Kafka's default. Nobody asks for messages that are not there.
        "kafka.fetch.max.wait.ms": "0",
    }


def read_topics(spark: SparkSession, query: Query, settings: Settings) -> dict[str, DataFrame]:
    """All of a query's topics, from their beginning or from the checkpoint."""
    names = settings.kafka.topics
    topics = {
        topic: spark.readStream.format("kafka")
        .options(**kafka_options(settings))
        .option("subscribe", names[topic])
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", math.ceil(query.share * settings.stream_job.max_offsets_per_trigger))
        .load()
        for topic in query.topics
    }
    if not query.state:
        return topics
    # In as many tasks as the state has, or its many rows would hold all cores at a time, and prices would wait.
    tasks = int(str(spark.conf.get("spark.sql.shuffle.partitions")))
    return {topic: rows.coalesce(tasks) for topic, rows in topics.items()}


class Seen(Observation):
    """What a batch had in it, value by value.

    PySpark's own `get` walks through a map of Java's to its end, which is an exception; to tell which one, it looks for
    twenty classes in every jar.
    """

    def value(self, name: str) -> Any:
        """Waits for the end of the batch's first action."""
        java: Any = self._jo
        return java.getAsJava()[name]


@cache
def seen_columns(table: Table) -> tuple[Column, ...]:
    """How many rows, and when the newest of their messages came; made once, as in `sinks`."""
    # A candle has no message of its own, but the moment at which it was computed.
    came = F.unix_millis("processing_time" if table is CANDLES else "timestamp")
    return F.count("*").alias("rows"), F.max(came).alias("newest")


class Writer:
    """Writes the batches of one query; what one of them brought is logged, and counted."""

    def __init__(self, query: Query, settings: Settings, metrics: JobMetrics, logger: BoundLogger) -> None:
        self.query = query
        self._settings = settings
        self._metrics = metrics
        self._log = logger.bind(query=query.name)
        self.stopping = threading.Event()
        # Batches wait for it: the query is planned while the tables are still being made.
        self.tables_exist = threading.Event()
        self.wrote = threading.Event()
        self.streaming: StreamingQuery | None = None
        # When Kafka took the newest message that is written, in epoch milliseconds.
        self.newest_ts: int | None = None

    def __call__(self, rows: DataFrame, batch: int) -> None:
        """One batch, again and again until it is written; whether that takes too long, `watch` decides."""
        self.tables_exist.wait()
        began = time.monotonic()
        done: Rows = {}
        if self.query.state and (late := self._late(rows.sparkSession, batch - 1)) is not None:
            done["late"] = self._until_written(late, DEAD_LETTERS, batch)["written"]
        done |= self._until_written(rows, self.query.table, batch)
        seconds = time.monotonic() - began
        self._metrics.written(self.query.name, seconds, done)
        self.wrote.set()
        if any(done.values()):
            self._log.info("batch_written", batch=batch, duration_ms=round(seconds * 1000), **done)

    def _late(self, spark: SparkSession, batch: int) -> DataFrame | None:
        """What the batch before came too late with; None for nothing.

        Spark counts it when that batch has ended. A process that was started since has not heard of it, and looks.
        """
        last = self.streaming.lastProgress if self.streaming else None
        if (
            last
            and last["batchId"] == batch
            and not any(one["numRowsDroppedByWatermark"] for one in last["stateOperators"])
        ):
            return None
        found = span(checkpoint(self.query, self._settings), batch)
        return None if found is None else late_rows(found, spark, self.query, self._settings)

    def _until_written(self, rows: DataFrame, table: Table, batch: int) -> Rows:
        done = self._attempt("batch_failed", self._write, rows, table, batch)
        # Perhaps it failed for a single row: one by one the others get through. Or Cassandra is away: the way one by
        # one is there as soon as it is, the connector's sessions on the executors up to half a minute later.
        pause = PAUSE_SECONDS
        while done is None:
            done = self._attempt("batch_not_written", self._write_carefully, rows, table, batch)
            self.stopping.wait(0 if done else pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        return done

    def _attempt(
        self, event: str, write: Callable[[DataFrame, Table], Rows], rows: DataFrame, table: Table, batch: int
    ) -> Rows | None:
        """None, and a line in the log, when not all could be written. Raises only when asked to stop."""
        try:
            return write(rows, table)
        except Exception as error:
            if self.stopping.is_set():
                raise
            self._log.warning(event, batch=batch, reason=first_line(error))
            return None

    def _write(self, rows: DataFrame, table: Table) -> Rows:
        seen = Seen()
        began = time.time_ns() // 1_000_000
        rows = rows.observe(seen, *seen_columns(table))
        if table.current:
            # Cassandra would find out by itself, row by row. One task needs no shuffle for it.
            rows = sinks.newest(rows.coalesce(1), table)
        sinks.append(rows, table)
        if table is self.query.table:
            # A batch without a row (of messages that are none, say) has seen all until it began.
            self.newest_ts = seen.value("newest") or began
        return {"written": seen.value("rows")}

    def _write_carefully(self, rows: DataFrame, table: Table) -> Rows:
        written, refused = sinks.append_one_by_one(rows, table, self._settings)
        return {"written": written, "refused": refused}


@dataclass
class Running:
    """A query that was started, and how far it is."""

    query: Query
    streaming: StreamingQuery
    writer: Writer
    progress: Progress


def wait_for(what: str, look: Callable[[], object], logger: BoundLogger) -> None:
    """Return when `look` raises nothing. Session and query are made while Kafka, Cassandra and the schema start."""

    def report(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            logger.info("waiting", what=what, reason=first_line(state.outcome.exception() if state.outcome else None))

    tenacity.Retrying(wait=tenacity.wait_fixed(PAUSE_SECONDS), before_sleep=report)(look)


def checkpoint(query: Query, settings: Settings) -> str:
    """Where a query remembers what it has done."""
    return f"{settings.stream_job.checkpoint_dir.rstrip('/')}/{query.name}"


def start(spark: SparkSession, writer: Writer, settings: Settings) -> Running:
    """Start the writer's query."""
    query = writer.query
    # Queries take turns, so that a slow or failing one does not hold up the others.
    spark.sparkContext.setLocalProperty("spark.scheduler.pool", query.name)
    # It keeps the session's settings as they are when it starts.
    own = GENERATED if query.state else {}
    others = {name: str(spark.conf.get(name)) for name in own}
    for name, value in own.items():
        spark.conf.set(name, value)
    streaming = (
        sinks.living(query.rows(read_topics(spark, query, settings)), query.table, settings)
        .writeStream.queryName(query.name)
        .outputMode("update" if query.state else "append")
        .option("checkpointLocation", checkpoint(query, settings))
        .trigger(processingTime=f"{query.trigger_ms} milliseconds")
        .foreachBatch(writer)
        .start()
    )
    for name, value in others.items():
        spark.conf.set(name, value)
    writer.streaming = streaming
    return Running(query, streaming, writer, Progress(time.monotonic()))


@dataclass
class Progress:
    """How far the query is, and for how long it has not got on. Times in monotonic seconds."""

    last_progress: float
    batch: int | None = None
    done: Offsets = field(default_factory=dict)
    waiting_since: float | None = None

    def batch_ended(self, batch: int, done: Offsets, now: float) -> None:
        """The newest batch, and the offsets that it went up to; the same one again is no progress."""
        if (batch, done) != (self.batch, self.done):
            self.batch, self.done, self.last_progress = batch, done, now

    def topics_end(self, ends: Offsets | None, now: float) -> int:
        """Where the topics end, None when Kafka does not say; returns how many messages wait."""
        lag = sum(max(0, end - self.done.get(partition, 0)) for partition, end in (ends or {}).items())
        self.waiting_since = None if not lag else self.waiting_since if self.waiting_since is not None else now
        return lag

    def stalled_seconds(self, now: float) -> float:
        """For how long messages have waited without a batch that ended."""
        return 0 if self.waiting_since is None else now - max(self.last_progress, self.waiting_since)


class Ends:
    """The ends of the topics' partitions, asked for by a client of its own: Spark's may be what hangs."""

    def __init__(self, settings: Settings) -> None:
        self._kafka = settings.kafka
        self._topics = tuple(settings.kafka.topics.values())
        self._consumer: Any = None

    def look(self) -> Offsets:
        """The next offset of each partition. Raises what the client raises, and LookupError without a topic."""
        from kafka import KafkaConsumer, TopicPartition

        try:
            if self._consumer is None:
                self._consumer = KafkaConsumer(
                    bootstrap_servers=list(self._kafka.bootstrap_servers),
                    client_id="crypto-stream-job-progress",
                    group_id=None,
                    enable_auto_commit=False,
                    allow_auto_create_topics=False,
                    bootstrap_timeout_ms=int(ANSWER_SECONDS * 1000),
                    request_timeout_ms=int(ANSWER_SECONDS * 1000),
                    metrics_enabled=False,
                )
            partitions = []
            for topic in self._topics:
                numbers = self._consumer.partitions_for_topic(topic)
                if not numbers:
                    raise LookupError(f"there is no topic {topic}")
                partitions += [TopicPartition(topic, number) for number in numbers]
            ends = self._consumer.end_offsets(partitions)
            return {(partition.topic, partition.partition): int(end) for partition, end in ends.items()}
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=1000)
            self._consumer = None


def done_offsets(progress: dict[str, Any]) -> Offsets:
    """Where the last batch ended, by Spark's own progress report of the query."""
    return {
        (topic, int(partition)): int(offset)
        for source in progress["sources"]
        for topic, partitions in (source["endOffset"] or {}).items()
        for partition, offset in partitions.items()
    }


@dataclass(frozen=True)
class Span:
    """What a batch read: offsets as JSON, None for a topic's beginning, and its watermark in epoch milliseconds."""

    start: str | None
    end: str
    watermark_ms: int


def span(place: str, batch: int) -> Span | None:
    """What a checkpoint knows of a batch; None when that is nothing (any more)."""
    offsets = Path(place, "offsets")
    try:
        # Spark's own: a version, a line about the batch, and one for each source.
        _, about, end = (offsets / str(batch)).read_text().splitlines()
        start = (offsets / str(batch - 1)).read_text().splitlines()[2] if batch else None
    except FileNotFoundError:
        return None
    return Span(start, end, json.loads(about)["batchWatermarkMs"])


def late_rows(found: Span, spark: SparkSession, query: Query, settings: Settings) -> DataFrame:
    """What a batch has left out because it came behind the watermark, as rows of `dead_letters`.

    Spark only counts it. The same offsets are read again, and judged by the watermark that the batch had.
    """
    (topic,) = query.topics
    raw = (
        spark.read.format("kafka")
        .options(**kafka_options(settings))
        # What Kafka no longer holds, nobody can set aside.
        .options(failOnDataLoss="false", subscribe=settings.kafka.topics[topic], endingOffsets=found.end)
        .options(startingOffsets=found.start or "earliest")
        .load()
    )
    watermark = F.timestamp_millis(F.lit(found.watermark_ms))
    return sinks.living(transforms.late_samples({topic: raw}, watermark), DEAD_LETTERS, settings)


def watch(
    running: list[Running],
    ends: Ends,
    settings: Settings,
    metrics: JobMetrics,
    logger: BoundLogger,
) -> None:
    """Tell systemd that all is well as long as the queries get on; return when one of them does not.

    A query that died is not started again here: a new process reads its checkpoint and tries from there, and what
    went wrong with the old one is gone with it.
    """
    next_look = 0.0
    names = settings.kafka.topics
    while all(one.streaming.isActive for one in running):
        now = time.monotonic()
        found: Offsets | None = None
        is_look = now >= next_look
        if is_look:
            next_look = now + LOOK_SECONDS
            # While Kafka is away, nobody can say that anything waits.
            with contextlib.suppress(Exception):
                found = ends.look()
        for one in running:
            if (last := one.streaming.lastProgress) is not None:
                one.progress.batch_ended(last["batchId"], done_offsets(last), now)
            if is_look:
                mine = {names[topic] for topic in one.query.topics}
                lag = one.progress.topics_end(found and {at: end for at, end in found.items() if at[0] in mine}, now)
                newest = one.writer.newest_ts
                metrics.behind(one.query.name, lag, max(0.0, time.time() - newest / 1000) if lag and newest else 0)
            stalled = one.progress.stalled_seconds(now)
            if stalled > settings.stream_job.stall_seconds:
                logger.error(
                    "stalled",
                    query=one.query.name,
                    seconds=round(stalled),
                    batch=one.progress.batch,
                    reason="messages wait and no batch ends",
                )
                return
        notify("WATCHDOG=1")
        time.sleep(HEARTBEAT_SECONDS)
    for one in running:
        if not one.streaming.isActive:
            reason = str(one.streaming.exception())
            logger.error("query_died", query=one.query.name, reason=reason, todo=todo(reason, one.query, settings))


def todo(reason: str, query: Query, settings: Settings) -> str | None:
    """What an operator has to do about a query that died; None where starting it anew is all there is to do."""
    place = checkpoint(query, settings)
    if re.search(r"StateSchemaNotCompatible|STATE_STORE\w*SCHEMA|StateStore.*(schema|format)|[Ss]tate schema", reason):
        return (
            f"What {place} holds is of another version of the job. Move it away, start the job, and run crypto-replay"
            " for the time that the new one has not seen."
        )
    if re.search(r"data may have been lost|aged out|OffsetOutOfRange|were missed", reason):
        return (
            f"Kafka no longer holds messages that this query has not read. Keep the topic longer; to go on with what"
            f" there is, move {place} away."
        )
    return None


def first_line(error: BaseException | None) -> str:
    """What went wrong, in one line; of an error that Java raised, Java's own words about its cause."""
    java: Any = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    text = str(error if java is None else java.toString())
    return (text.strip() or type(error).__name__).splitlines()[0][:500]


class Stop(BaseException):
    """SIGTERM came. Derived from BaseException so that nothing on its way takes it for a fault."""


def _raise_stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stop


def main() -> None:
    """Run until SIGTERM (status 0), or until a query dies or stands still (status 1)."""
    settings = config.load_or_exit("kafka", "cassandra", "retention", "stream_job")
    logger = log.configure("stream_job")
    store.quiet_driver()
    signal.signal(signal.SIGTERM, _raise_stop)
    signal.signal(signal.SIGINT, _raise_stop)
    metrics = JobMetrics()
    metrics.serve(settings.stream_job.metrics_port, logger)
    writers = [Writer(query, settings, metrics, logger) for query in queries(settings)]
    spark: SparkSession | None = None
    try:
        spark = SparkSession.builder.appName("crypto-stream").config(map=SESSION).getOrCreate()
        keep_classes(spark)
        ends = Ends(settings)
        wait_for("the topics", ends.look, logger)
        first, *others = writers
        running = [start(spark, first, settings)]
        wait_for("the tables", lambda: sinks.look_for_tables(spark, settings), logger)
        for writer in writers:
            writer.tables_exist.set()
        notify("READY=1", "STATUS=the queries are running")
        first.wrote.wait(FIRST_SECONDS)
        for writer in others:
            running.append(start(spark, writer, settings))
            # On a slow host, all of them together would take longer than systemd waits for a sign.
            notify("WATCHDOG=1")
        logger.info("started", queries=[one.query.name for one in running])
        watch(running, ends, settings, metrics, logger)
    except Stop:
        notify("STOPPING=1")
        logger.info("stopping")
        for writer in writers:
            writer.stopping.set()
        if spark is not None:
            with contextlib.suppress(Exception):  # the JVM has got the same signal, and ends by itself
                for active in spark.streams.active:
                    active.stop()
                spark.stop()
        return
    # Whatever hangs must not keep the process from ending; the JVM, its parent, ends its session by itself.
    sys.stdout.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
