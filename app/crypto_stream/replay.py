"""`crypto-replay`: read the topics again from some moment on, and repair every table from them.

The rows come from the same transformations and go through the same sinks as those of the stream job, which may go on
meanwhile. What is written has the moment at which the replay began as its write time: it also brings back what was
deleted, and what comes later replaces it. A candle is computed from all of its samples, or not at all: a replay begins
with a day, which is the longest one, and leaves those to the job that still form.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it

from crypto_stream import config, sinks
from crypto_stream.config import Settings
from crypto_stream.messages import CLOCK_TOLERANCE_MS, MIN_TS
from crypto_stream.queries import Query, queries
from crypto_stream.stream_job import PLANNING, first_line, kafka_options
from crypto_stream.tables import CANDLES, DAY_MS, DEAD_LETTERS
from crypto_stream.transforms import BORN_AT, WRITTEN_AT

STATUS_FAILED, STATUS_USAGE = 1, 2
# How many messages one of Spark's tasks reads: the steps in which progress is seen.
MESSAGES_A_TASK = 20_000
REPORT_SECONDS = 5.0
ANSWER_MS = 10_000


class ReplayError(Exception):
    """What was asked for cannot be had; the text says why and what can."""


@dataclass(frozen=True)
class Span:
    """What is repaired: prices of `start` up to, but not with, `stop`; epoch milliseconds."""

    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """Messages of one partition of a topic, by offset; `first_ts` is Kafka's time of the oldest, if some are gone."""

    begin: int
    end: int
    first_ts: int | None = None


# By topic, as `Kafka.topics` knows them, and number.
Parts = dict[str, dict[int, Part]]


def moment(text: str) -> int:
    """A time of the command line, in epoch milliseconds: `2026-11-26`, `2026-11-26T10:30`, with `Z` or `+01:00`; UTC
    where it does not say. Raises `argparse.ArgumentTypeError`.
    """
    try:
        # Python 3.10 does not know Z.
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 2026-11-26 or 2026-11-26T10:30Z") from None
    ts = round((found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp() * 1000)
    if ts < MIN_TS:
        raise argparse.ArgumentTypeError(f"{text!r} is before 2010")
    return ts


def span(since: int, until: int | None, now: int) -> Span:
    """Whole days that hold these times (epoch milliseconds), but none of the future. Raises `ReplayError`."""
    if since > now:
        raise ReplayError(f"--from {said(since)} is ahead of now")
    if until is not None and until <= since:
        raise ReplayError(f"--to {said(until)} is not after --from {said(since)}")
    stop = now if until is None else min(now, -(-until // DAY_MS) * DAY_MS)
    return Span(since // DAY_MS * DAY_MS, stop)


def check_held(parts: Parts, wanted: Span, now: int, names: dict[str, str]) -> None:
    """Raises `ReplayError`, about the topic that lacks most, when one does not hold the beginning of what is wanted."""
    held_since = {
        topic: max((part.first_ts for part in partitions.values() if part.first_ts is not None), default=0)
        for topic, partitions in parts.items()
    }
    topic, oldest = max(held_since.items(), key=lambda item: item[1])
    if oldest <= wanted.start:
        return
    first_day = -(-oldest // DAY_MS) * DAY_MS
    held = (
        f"The first whole day that it holds begins at --from {said(first_day)}."
        if first_day <= now
        else "It holds no whole day."
    )
    raise ReplayError(
        f"{names[topic]} no longer holds {said(wanted.start)}: its oldest message is of {said(oldest)}. {held}"
    )


def said(ts: int) -> str:
    """Epoch milliseconds as the command line takes them."""
    return datetime.fromtimestamp(ts / 1000, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def look(settings: Settings, wanted: Span) -> Parts:
    """Which messages of each topic may have to do with `wanted`: all since its beginning, as one may have come late.

    Raises what the Kafka client raises, and `ReplayError` without a topic.
    """
    from kafka import KafkaConsumer, TopicPartition

    consumer: Any = KafkaConsumer(
        bootstrap_servers=list(settings.kafka.bootstrap_servers),
        client_id="crypto-replay",
        group_id=None,
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        bootstrap_timeout_ms=ANSWER_MS,
        request_timeout_ms=ANSWER_MS,
        metrics_enabled=False,
    )
    try:
        parts: Parts = {}
        for topic, name in settings.kafka.topics.items():
            partitions = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name) or ()]
            if not partitions:
                raise ReplayError(f"there is no topic {name}")
            beginnings, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            # A price may be ahead of Kafka's clock, so it may have come before its time.
            since = consumer.offsets_for_times(dict.fromkeys(partitions, wanted.start - CLOCK_TOLERANCE_MS))
            oldest = consumer.offsets_for_times(dict.fromkeys(partitions, 0))
            parts[topic] = {
                at.partition: Part(
                    begin=ends[at] if since[at] is None else since[at].offset,
                    end=ends[at],
                    first_ts=oldest[at].timestamp if beginnings[at] and oldest[at] is not None else None,
                )
                for at in partitions
            }
        return parts
    finally:
        consumer.close(autocommit=False, timeout_ms=1000)


def read(spark: SparkSession, topic: str, parts: Parts, settings: Settings) -> DataFrame:
    """These messages of a topic, as Kafka's rows."""
    name, partitions = settings.kafka.topics[topic], parts[topic]
    count = sum(part.end - part.begin for part in partitions.values())

    def offsets(which: Callable[[Part], int]) -> str:
        return json.dumps({name: {str(number): which(part) for number, part in partitions.items()}})

    return (
        spark.read.format("kafka")
        .options(**kafka_options(settings))
        .option("subscribe", name)
        .option("startingOffsets", offsets(lambda part: part.begin))
        .option("endingOffsets", offsets(lambda part: part.end))
        .option("minPartitions", max(len(partitions), count // MESSAGES_A_TASK))
        .load()
    )


def repaired(rows: DataFrame, query: Query, wanted: Span, now: int, settings: Settings) -> DataFrame:
    """Those rows of a query that a replay of `wanted` writes, with their write times; `now` in epoch milliseconds."""
    if query.table is CANDLES:
        last = min(closed_by(now, settings), -(-wanted.stop // DAY_MS) * DAY_MS)
        rows = rows.where(F.col(BORN_AT) <= last)
        rows = rows.where(F.unix_millis("start") >= wanted.start)
    elif query.table.current:
        # The newest there is, wherever the span ends: with one write time for all, Cassandra could not tell.
        rows = sinks.newest(rows.where(F.col("ts") >= wanted.start), query.table)
    elif query.table is not DEAD_LETTERS:
        rows = rows.where((F.col("ts") >= wanted.start) & (F.col("ts") < wanted.stop))
    return rows.withColumn(WRITTEN_AT, F.lit(now * 1000))


def closed_by(now: int, settings: Settings) -> int:
    """By when, in epoch milliseconds, a candle must have ended for the stream job to be done with it: the watermark has
    passed its end, and a minute is for the last batch.
    """
    return now - settings.stream_job.candle_lateness_seconds * 1000 - 60_000


@contextmanager
def progress(spark: SparkSession, what: str) -> Iterator[None]:
    """Print now and then how far Spark is with what happens meanwhile."""
    done = threading.Event()
    began = time.monotonic()

    def report() -> None:
        tracker = spark.sparkContext.statusTracker()
        while not done.wait(REPORT_SECONDS):
            stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            if line := how_far(stages, time.monotonic() - began):
                print(f"{what}: {line}", flush=True)

    thread = threading.Thread(target=report, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def how_far(stages: Sequence[Any], seconds: float) -> str:
    """A line about the stages that run, after so many seconds; empty before anything can be said."""
    running = [stage for stage in stages if stage is not None and stage.numTasks]
    if not running or not (ended := sum(stage.numCompletedTasks for stage in running)):
        return ""
    total = sum(stage.numTasks for stage in running)
    return f"{100 * ended // total} % after {seconds:.0f} s, about {seconds * (total - ended) / ended:.0f} s more"


def replay(spark: SparkSession, wanted: Span, now: int, settings: Settings) -> None:
    """Repair all tables; prints what it does. Raises `ReplayError`, and what Kafka, Spark and Cassandra raise."""
    parts = look(settings, wanted)
    check_held(parts, wanted, now, settings.kafka.topics)
    count = sum(part.end - part.begin for part in parts["prices"].values())
    print(f"{said(wanted.start)} to {said(wanted.stop)}: {count:,} messages of {settings.kafka.topic}", flush=True)
    sinks.look_for_tables(spark, settings)
    for query in queries(settings):
        began = time.monotonic()
        raw = {topic: read(spark, topic, parts, settings) for topic in query.topics}
        seen = Observation()
        rows = sinks.living(repaired(query.rows(raw), query, wanted, now, settings), query.table, settings)
        with progress(spark, query.name):
            sinks.append(rows.observe(seen, F.count("*").alias("rows")), query.table)
        print(f"{query.name}: {seen.get['rows']:,} rows in {time.monotonic() - began:.0f} s", flush=True)
    print(
        f"Candles that end after {said(closed_by(now, settings))} still form; the stream job goes on with them.",
        flush=True,
    )


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="crypto-replay",
        description="Read the topics again, and repair every table from them. The stream job may go on meanwhile.",
        epilog="A replay takes whole days of UTC, so that it never begins in the middle of a candle."
        " Exit status: 0 all is repaired, 1 something did not answer, 2 what is asked for cannot be had.",
    )
    parser.add_argument("--from", type=moment, required=True, metavar="TIME", dest="since", help="2026-11-26T10:30Z")
    parser.add_argument("--to", type=moment, metavar="TIME", dest="until", help="as above; until now by default")
    return parser.parse_args(argv)


def main() -> None:
    """The command."""
    options = arguments()
    settings = config.load_or_exit("kafka", "cassandra", "retention", "stream_job")
    now = time.time_ns() // 1_000_000
    try:
        wanted = span(options.since, options.until, now)
    except ReplayError as error:
        print(f"crypto-replay: {error}", file=sys.stderr)
        sys.exit(STATUS_USAGE)
    spark = SparkSession.builder.appName("crypto-replay").config(map=PLANNING).getOrCreate()
    try:
        replay(spark, wanted, now, settings)
    except ReplayError as error:
        print(f"crypto-replay: {error}", file=sys.stderr)
        sys.exit(STATUS_USAGE)
    except Exception as error:  # of Kafka's client, Spark and Cassandra, which share no base class
        print(f"crypto-replay: {first_line(error)}. What it has written is right; run it again.", file=sys.stderr)
        sys.exit(STATUS_FAILED)
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
