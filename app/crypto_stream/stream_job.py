"""The stream job: from the topic into `prices`, and what is no price into `dead_letters`.

Two queries read the topic, each with a checkpoint of its own, rather than one `foreachBatch` that writes both tables.
A price then takes the shortest way, one Spark job without caching and without a call back into Python, and a fault of
one table does not hold up the other. Reading twice costs little: some hundred small messages each half minute, from
the broker's page cache. The second query looks every few seconds only, so it does not compete for the two cores of a
small host when prices arrive, and both batches are bounded by `max_offsets_per_trigger`.

A batch that is repeated after a crash writes the same rows again: the keys are the message's own, and the cells carry
the time of the poll as their write time. The parsing below has no Python UDF, so executors need no Python at all.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Any, get_args

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it
from pyspark.sql.types import DataType, DoubleType, LongType, StringType, StructField, StructType

from crypto_stream import config, log
from crypto_stream.config import Settings
from crypto_stream.messages import CLOCK_TOLERANCE_MS, MIN_TS, SCHEMA_VERSION, PriceMessage
from crypto_stream.systemd import notify

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery
    from pyspark.sql.streaming.readwriter import DataStreamWriter
    from structlog.stdlib import BoundLogger

HEARTBEAT_SECONDS = 2.0
# While there is no data, how often Spark asks Kafka for some. Its own 10 ms would keep a core of a small host busy.
POLLING_DELAY = "200ms"
CORRUPT = "_corrupt"
SPARK_TYPES: dict[Any, DataType] = {str: StringType(), int: LongType(), float: DoubleType()}


def message_schema() -> StructType:
    """`PriceMessage` as Spark's schema, with a column for what does not fit into it."""
    fields = [StructField("schema_version", LongType())]
    for name, info in PriceMessage.model_fields.items():
        if name != "schema_version":
            kinds = {info.annotation, *get_args(info.annotation)} & SPARK_TYPES.keys()  # of `int | None` it is `int`
            fields.append(StructField(name, SPARK_TYPES[kinds.pop()]))
    return StructType([*fields, StructField(CORRUPT, StringType())])


def decode(raw: DataFrame) -> DataFrame:
    """Kafka's rows (`value`, `topic`, `partition`, `offset`) plus `message` (a struct) and `reason`.

    `reason` is null for a good message; otherwise it says what is wrong, and `message` must not be used.
    """
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT}
    parsed = F.from_json(F.col("value").cast("string"), message_schema(), options)
    # By way of explode, because Spark would put the parsing of a plain column into every place that uses it: thirty
    # times for each message.
    decoded = raw.select("*", F.explode(F.array(parsed)).alias("message"))
    return decoded.withColumn("reason", _reason())


def _reason() -> Column:
    """The first rule that a message breaks. The order matters: later rules rely on earlier ones."""
    message = F.col("message")
    version = message["schema_version"]
    price = message["price_usd"]
    ts = message["ts"]
    latest = F.unix_millis(F.current_timestamp()) + F.lit(CLOCK_TOLERANCE_MS)

    def is_empty(column: Column) -> Column:
        return column.isNull() | (F.trim(column) == "")

    return (
        F.when(F.col("value").isNull(), "the message is empty")
        .when(version.isNotNull() & (version != SCHEMA_VERSION), F.concat(F.lit("unknown schema_version "), version))
        .when(message.isNull() | message[CORRUPT].isNotNull(), "no JSON object of the expected fields and types")
        .when(version.isNull(), "schema_version is missing")
        .when(is_empty(message["id"]), "id is missing")
        .when(is_empty(message["name"]), "name is missing")
        .when(price.isNull(), "price_usd is missing")
        .when(F.isnan(price) | (F.abs(price) == float("inf")), "price_usd is not finite")
        .when(price < 0, "price_usd is negative")
        .when(ts.isNull(), "ts is missing")
        .when((ts < MIN_TS) | (ts > latest), F.concat(F.lit("ts is implausible: "), ts))
    )


def to_prices(decoded: DataFrame) -> DataFrame:
    """Good messages as rows of `prices`, plus `written_at`: the write time of the cells, in microseconds.

    The poll's own time as write time keeps a replay of old messages from replacing anything newer.
    """
    message = F.col("message")
    return decoded.where(F.col("reason").isNull()).select(
        message["id"].alias("id"),
        message["name"].alias("name"),
        message["price_usd"].alias("price_usd"),
        message["ts"].alias("ts"),
        F.current_timestamp().alias("processing_time"),
        (message["ts"] * 1000).alias("written_at"),
    )


def to_dead_letters(decoded: DataFrame) -> DataFrame:
    """Bad messages as rows of `dead_letters`, found again by topic, partition and offset."""
    return decoded.where(F.col("reason").isNotNull()).select(
        "topic", "partition", "offset", "value", "reason", F.current_timestamp().alias("processing_time")
    )


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


def to_cassandra(
    rows: DataFrame, table: str, settings: Settings, trigger_ms: int, options: dict[str, str]
) -> DataStreamWriter:
    """A query, not started yet, that appends rows to a table."""
    return (
        rows.writeStream.queryName(table)
        .format("org.apache.spark.sql.cassandra")
        .outputMode("append")
        .option("keyspace", settings.cassandra.keyspace)
        .option("table", table)
        .option("checkpointLocation", f"{settings.stream_job.checkpoint_dir.rstrip('/')}/{table}")
        .option("spark.cassandra.output.ignoreNulls", "true")
        .options(**options)
        .trigger(processingTime=f"{trigger_ms} milliseconds")
    )


def start(spark: SparkSession, settings: Settings) -> list[StreamingQuery]:
    """Start both queries, prices first."""
    job = settings.stream_job
    decoded = decode(read_topic(spark, settings))
    return [
        to_cassandra(to_prices(decoded), "prices", settings, job.trigger_ms, {"writetime": "written_at"}).start(),
        to_cassandra(to_dead_letters(decoded), "dead_letters", settings, job.dead_letter_trigger_ms, {}).start(),
    ]


class Progress:
    """One log line for each batch that brought something."""

    def __init__(self, logger: BoundLogger) -> None:
        self._log = logger
        self._seen: dict[str, int] = {}

    def report(self, query: StreamingQuery) -> None:
        """Log what is new since the last call. Batches between two calls are summed up by the last one's line."""
        progress: dict[str, Any] | None = query.lastProgress
        if not progress or not progress["numInputRows"]:
            return
        name, batch = str(progress["name"]), int(progress["batchId"])
        if self._seen.get(name) == batch:
            return
        self._seen[name] = batch
        self._log.info(
            "batch_written",
            query=name,
            batch=batch,
            rows=progress["numInputRows"],
            duration_ms=progress["durationMs"].get("triggerExecution"),
        )


def watch(queries: list[StreamingQuery], logger: BoundLogger) -> int:
    """Tell systemd that all is well as long as all queries run; returns the exit status of the process.

    A query that died is not started again here: a new process reads its checkpoint and tries from there, and what
    went wrong with the old one is gone with it.
    """
    progress = Progress(logger)
    while all(query.isActive for query in queries):
        notify("WATCHDOG=1")
        for query in queries:
            progress.report(query)
        time.sleep(HEARTBEAT_SECONDS)
    for query in queries:
        if not query.isActive:
            logger.error("query_died", query=query.name, reason=str(query.exception()))
    return 1


class Stop(BaseException):
    """SIGTERM came. Derived from BaseException so that nothing on its way takes it for a fault."""


def _raise_stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stop


def main() -> int:
    """Run until SIGTERM (status 0) or until a query dies (status 1)."""
    settings = config.load_or_exit()
    logger = log.configure("stream_job")
    signal.signal(signal.SIGTERM, _raise_stop)
    signal.signal(signal.SIGINT, _raise_stop)
    spark: SparkSession | None = None
    try:
        spark = (
            SparkSession.builder.appName("crypto-stream")
            .config("spark.sql.streaming.pollingDelay", POLLING_DELAY)
            .getOrCreate()
        )
        queries = start(spark, settings)
        notify("READY=1", "STATUS=all queries are running")
        logger.info("started", queries=[query.name for query in queries])
        return watch(queries, logger)
    except Stop:
        notify("STOPPING=1")
        logger.info("stopping")
        if spark is not None:
            for query in spark.streams.active:
                query.stop()
        return 0
    finally:
        if spark is not None:
            spark.stop()


if __name__ == "__main__":
    sys.exit(main())
