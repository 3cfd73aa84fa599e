"""The stream job: from the topic into `prices`, and what is no price into `dead_letters`.

One query reads the topic. Each batch is one Spark job, which writes the prices and counts by the way what is none; only
where there is some, a second job writes the dead letters. A batch that is repeated after a crash writes the same rows
again: the keys are the message's own, and the cells carry the time of the price as their write time.

The process lives by its progress. When messages wait and no batch has ended for a while, it ends, whatever the cause
(executors that are gone, a sink that hangs), and systemd starts it anew from its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tenacity
from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it

from crypto_stream import config, log, sinks, store
from crypto_stream.config import Settings
from crypto_stream.metrics import JobMetrics
from crypto_stream.prices import decode, to_dead_letters, to_prices
from crypto_stream.systemd import notify

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery
    from structlog.stdlib import BoundLogger

QUERY = "prices"
HEARTBEAT_SECONDS = 2.0
# How often Kafka is asked for the end of the topic, and how long it may take to answer.
LOOK_SECONDS = 10.0
ANSWER_SECONDS = 5.0
# How often topic and tables are looked for at the start.
PAUSE_SECONDS = 0.5
# While there is no data, how often Spark asks Kafka for some. Its own 10 ms would keep a core of a small host busy.
POLLING_DELAY = "200ms"

# Offsets by partition.
Offsets = dict[int, int]
# How many messages of a batch became what.
Rows = dict[str, int]


def read_topic(spark: SparkSession, settings: Settings) -> DataFrame:
    """All of the topic, from its beginning or from the checkpoint. Messages that are gone stop the job, loudly."""
    return (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", ",".join(settings.kafka.bootstrap_servers))
        .option("subscribe", settings.kafka.topic)
        .option("startingOffsets", "earliest")
        .option("failOnDataLoss", "true")
        # The consumer asks ahead of the next batch, which then waits for the broker to give up on that request: 500 ms
        # by Kafka's default, once for each partition that a core reads.
        .option("kafka.fetch.max.wait.ms", 20)
        .option("maxOffsetsPerTrigger", settings.stream_job.max_offsets_per_trigger)
        .load()
    )


class Writer:
    """Writes batches; what one of them brought is logged, and counted."""

    def __init__(self, settings: Settings, metrics: JobMetrics, logger: BoundLogger) -> None:
        self._cassandra = settings.cassandra
        self._metrics = metrics
        self._log = logger
        self.stopping = threading.Event()
        # Batches wait for it: the query is planned while the tables are still being made.
        self.tables_exist = threading.Event()
        # When Kafka took the newest message that is written, in epoch milliseconds.
        self.newest_ts: int | None = None

    def __call__(self, decoded: DataFrame, batch: int) -> None:
        """One batch of `decode`, again and again until it is written; whether that takes too long, `watch` decides."""
        self.tables_exist.wait()
        began = time.monotonic()
        rows = self._attempt("batch_failed", self._write, decoded, batch)
        if rows is None:
            sinks.forget_sessions(decoded.sparkSession)
        # Perhaps it failed for a single row: one by one the others get through. Or Cassandra is away: the connector,
        # asked again meanwhile, would wait for minutes, and the way one by one is there as soon as Cassandra is.
        while rows is None:
            rows = self._attempt("batch_not_written", self._write_carefully, decoded, batch)
            self.stopping.wait(0 if rows else PAUSE_SECONDS)
        seconds = time.monotonic() - began
        self._metrics.written(seconds, rows)
        self._log.info("batch_written", batch=batch, duration_ms=round(seconds * 1000), **rows)

    def _attempt(self, event: str, write: Callable[[DataFrame], Rows], decoded: DataFrame, batch: int) -> Rows | None:
        """None, and a line in the log, when not all could be written. Raises only when asked to stop."""
        try:
            return write(decoded)
        except Exception as error:
            if self.stopping.is_set():
                raise
            self._log.warning(event, batch=batch, reason=_first_line(error))
            return None

    def _write(self, decoded: DataFrame) -> Rows:
        seen = Observation()
        counted = decoded.observe(
            seen,
            F.count("*").alias("all"),
            F.count("reason").alias("bad"),
            F.max(F.unix_millis("timestamp")).alias("newest"),
        )
        sinks.append(to_prices(counted), "prices", self._cassandra, writetime="written_at")
        found = seen.get
        if found["bad"]:
            self._set_aside(decoded)
        self.newest_ts = found["newest"]
        return {"price": found["all"] - found["bad"], "dead_letter": found["bad"], "refused": 0}

    def _write_carefully(self, decoded: DataFrame) -> Rows:
        written, refused = sinks.append_one_by_one(decoded, self._cassandra)
        bad = decoded.where(F.col("reason").isNotNull()).count()
        if bad:
            self._set_aside(decoded)
        return {"price": written, "dead_letter": bad, "refused": refused}

    def _set_aside(self, decoded: DataFrame) -> None:
        sinks.append(to_dead_letters(decoded), "dead_letters", self._cassandra)


def look_for_tables(spark: SparkSession, settings: Settings) -> None:
    """Raises when a table is not there, or Cassandra is not. By the way, the connector gets ready in this process."""
    for table in ("prices", "dead_letters"):
        options = {"keyspace": settings.cassandra.keyspace, "table": table}
        spark.read.format(sinks.FORMAT).options(**options).load()


def wait_for(what: str, look: Callable[[], object], logger: BoundLogger) -> None:
    """Return when `look` raises nothing. Session and query are made while Kafka, Cassandra and the schema start."""

    def report(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            logger.info("waiting", what=what, reason=_first_line(state.outcome.exception() if state.outcome else None))

    tenacity.Retrying(wait=tenacity.wait_fixed(PAUSE_SECONDS), before_sleep=report)(look)


def start(spark: SparkSession, settings: Settings, writer: Callable[[DataFrame, int], None]) -> StreamingQuery:
    """Start the query."""
    job = settings.stream_job
    return (
        decode(read_topic(spark, settings))
        .writeStream.queryName(QUERY)
        .option("checkpointLocation", f"{job.checkpoint_dir.rstrip('/')}/{QUERY}")
        .trigger(processingTime=f"{job.trigger_ms} milliseconds")
        .foreachBatch(writer)
        .start()
    )


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

    def topic_ends(self, ends: Offsets | None, now: float) -> int:
        """Where the topic ends, None when Kafka does not say; returns how many messages wait."""
        lag = sum(max(0, end - self.done.get(partition, 0)) for partition, end in (ends or {}).items())
        self.waiting_since = None if not lag else self.waiting_since if self.waiting_since is not None else now
        return lag

    def stalled_seconds(self, now: float) -> float:
        """For how long messages have waited without a batch that ended."""
        return 0 if self.waiting_since is None else now - max(self.last_progress, self.waiting_since)


class Topic:
    """The ends of the topic's partitions, asked for by a client of its own: Spark's may be what hangs."""

    def __init__(self, settings: Settings) -> None:
        self._kafka = settings.kafka
        self._consumer: Any = None

    def ends(self) -> Offsets:
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
            numbers = self._consumer.partitions_for_topic(self._kafka.topic)
            if not numbers:
                raise LookupError(f"there is no topic {self._kafka.topic}")
            ends = self._consumer.end_offsets([TopicPartition(self._kafka.topic, number) for number in numbers])
            return {partition.partition: int(end) for partition, end in ends.items()}
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=1000)
            self._consumer = None


def done_offsets(progress: dict[str, Any], topic: str) -> Offsets:
    """Where the last batch ended, by Spark's own progress report of the query."""
    ends = (progress["sources"][0]["endOffset"] or {}).get(topic, {})
    return {int(partition): int(offset) for partition, offset in ends.items()}


def watch(
    query: StreamingQuery, writer: Writer, topic: Topic, settings: Settings, metrics: JobMetrics, logger: BoundLogger
) -> None:
    """Tell systemd that all is well as long as the query gets on; return when it does not.

    A query that died is not started again here: a new process reads its checkpoint and tries from there, and what
    went wrong with the old one is gone with it.
    """
    progress = Progress(time.monotonic())
    next_look = 0.0
    while query.isActive:
        now = time.monotonic()
        if (last := query.lastProgress) is not None:
            progress.batch_ended(last["batchId"], done_offsets(last, settings.kafka.topic), now)
        if now >= next_look:
            try:
                ends: Offsets | None = topic.ends()
            except Exception:  # while Kafka is away, nobody can say that anything waits
                ends = None
            lag = progress.topic_ends(ends, now)
            behind = time.time() - writer.newest_ts / 1000 if lag and writer.newest_ts else 0
            metrics.behind(lag, max(0.0, behind))
            next_look = now + LOOK_SECONDS
        stalled = progress.stalled_seconds(now)
        if stalled > settings.stream_job.stall_seconds:
            logger.error(
                "stalled", seconds=round(stalled), batch=progress.batch, reason="messages wait and no batch ends"
            )
            return
        notify("WATCHDOG=1")
        time.sleep(HEARTBEAT_SECONDS)
    logger.error("query_died", query=query.name, reason=str(query.exception()))


def _first_line(error: BaseException | None) -> str:
    """What went wrong, in one line; of an error that Java raised, Java's own words."""
    text = str(error.java_exception.toString()) if isinstance(error, Py4JJavaError) else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0][:500]


class Stop(BaseException):
    """SIGTERM came. Derived from BaseException so that nothing on its way takes it for a fault."""


def _raise_stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stop


def main() -> None:
    """Run until SIGTERM (status 0), or until the query dies or stands still (status 1)."""
    settings = config.load_or_exit("kafka", "cassandra", "stream_job")
    logger = log.configure("stream_job")
    store.quiet_driver()
    signal.signal(signal.SIGTERM, _raise_stop)
    signal.signal(signal.SIGINT, _raise_stop)
    metrics = JobMetrics()
    metrics.serve(settings.stream_job.metrics_port, logger)
    writer = Writer(settings, metrics, logger)
    spark: SparkSession | None = None
    try:
        spark = (
            SparkSession.builder.appName("crypto-stream")
            .config("spark.sql.streaming.pollingDelay", POLLING_DELAY)
            .getOrCreate()
        )
        topic = Topic(settings)
        wait_for("the topic", topic.ends, logger)
        query = start(spark, settings, writer)
        wait_for("the tables", lambda: look_for_tables(spark, settings), logger)
        writer.tables_exist.set()
        notify("READY=1", "STATUS=the query is running")
        logger.info("started", query=query.name)
        watch(query, writer, topic, settings, metrics, logger)
    except Stop:
        notify("STOPPING=1")
        logger.info("stopping")
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
