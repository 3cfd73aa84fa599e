"""How rows get into Cassandra: a batch at a time through Spark's connector, and one by one where a batch is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from functools import cache
from itertools import islice
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it

from crypto_stream import messages, store
from crypto_stream.config import Settings
from crypto_stream.tables import DEAD_LETTERS, TABLES, Table
from crypto_stream.transforms import BORN_AT, ORIGIN, WRITTEN_AT

FORMAT = "org.apache.spark.sql.cassandra"
TTL = "ttl_seconds"
# How many statements a task, or whoever writes one by one, has on their way at a time. The connector's own 5 are fewer
# than the coins of a small batch, each of which is a statement.
CONCURRENCY = 50


def look_for_tables(spark: SparkSession, settings: Settings) -> None:
    """Raises when a table is not there, or Cassandra is not. `append` goes by what was seen.

    A write that names a table makes the connector ask Cassandra for its whole schema first, which takes longer than to
    write the rows of a small batch; a view of the table remembers.
    """
    for table in TABLES:
        spark.read.format(FORMAT).options(
            keyspace=settings.cassandra.keyspace,
            table=table.name,
            writetime=WRITTEN_AT,
            ttl=TTL,
            **{
                "spark.cassandra.output.ignoreNulls": str(not table.current).lower(),
                "spark.cassandra.output.concurrent.writes": str(CONCURRENCY),
            },
        ).load().createOrReplaceGlobalTempView(table.name)


def append(rows: DataFrame, table: Table) -> None:
    """Write `living` rows by their keys, all of them or, after an error, some; raises what Spark raises."""
    rows.select(*_written(table)).write.insertInto(f"global_temp.{table.name}")


# Made once: each word to Java takes its time, and batches are many and small.
@cache
def _written(table: Table) -> list[Column]:
    return [F.col(name) for name in (*table.columns, WRITTEN_AT, TTL)]


def living(rows: DataFrame, table: Table, settings: Settings) -> DataFrame:
    """Each row with the seconds that it has left; those that have none are gone already."""
    age = F.floor((F.unix_millis(F.current_timestamp()) - F.col(BORN_AT)) / 1000)
    # Never longer than the table's rows live: the time of a price may be ahead.
    left = F.lit(table.seconds(settings.retention)) - F.greatest(age, F.lit(0))
    return rows.withColumn(TTL, left.cast("int")).where(F.col(TTL) > 0)


def newest(rows: DataFrame, table: Table) -> DataFrame:
    """Of the rows with the same key, the one with the latest write time."""
    key = [*table.partition_key, *table.clustering_key]
    return rows.groupBy(*key).agg(F.max_by(F.struct(*rows.columns), WRITTEN_AT).alias("row")).select("row.*")


def append_one_by_one(rows: DataFrame, table: Table, settings: Settings) -> tuple[int, int]:
    """Write `living` rows one after the other.

    What Cassandra refuses for what it is, so that no repetition helps, becomes a dead letter with Cassandra's reason.
    Returns how many were written and how many refused. Raises what the driver raises when it cannot write at all: no
    node answers, a table is missing, or has not the columns that it must have.
    """
    session = store.open_session(settings.cassandra)
    try:
        return _insert(session, rows.toLocalIterator(), table, settings)
    finally:
        session.cluster.shutdown()


def _insert(session: Any, rows: Iterator[Row], table: Table, settings: Settings) -> tuple[int, int]:
    from cassandra import InvalidRequest
    from cassandra.concurrent import execute_concurrent_with_args

    keyspace = settings.cassandra.keyspace
    # Prepared before any row is looked at: a table that is not what it must be is no fault of a row.
    insert = session.prepare(table.insert(keyspace))
    set_aside = session.prepare(DEAD_LETTERS.insert(keyspace))
    written = refused = 0
    while part := list(islice(rows, 1000)):
        results = execute_concurrent_with_args(
            session,
            insert,
            [_values(row.asDict(), table) for row in part],
            concurrency=CONCURRENCY,
            raise_on_first_error=False,
        )
        for row, (success, outcome) in zip(part, results):
            if success:
                written += 1
            # What is computed from many messages has no one of them to set aside.
            elif isinstance(outcome, InvalidRequest) and set(ORIGIN) <= set(row.asDict()):
                reason = f"Cassandra refused it: {store.explain(outcome)}"
                session.execute(set_aside, _values(_letter(row, reason, settings), DEAD_LETTERS))
                refused += 1
            else:
                raise outcome
    return written, refused


def _values(row: dict[str, Any], table: Table) -> list[Any]:
    """What `Table.insert` takes. Null takes the place of a value only in a table of what is current."""
    from cassandra.query import UNSET_VALUE

    return [
        UNSET_VALUE if row[name] is None and not table.current else _moment(row[name])
        for name in (*table.columns, WRITTEN_AT, TTL)
    ]


def _moment(value: Any) -> Any:
    """Spark's times are in this process' time zone, the driver takes them for UTC."""
    return value.astimezone(timezone.utc) if isinstance(value, datetime) else value


def _letter(row: Row, reason: str, settings: Settings) -> dict[str, Any]:
    came = row.timestamp.astimezone(timezone.utc)
    return {
        "topic": row.topic,
        "day": came.date(),
        "partition": row.partition,
        "offset": row.offset,
        "value": row.value[: messages.MAX_DEAD_LETTER_BYTES],
        "reason": reason,
        "processing_time": row.processing_time,
        WRITTEN_AT: int(came.timestamp() * 1_000_000),
        TTL: DEAD_LETTERS.seconds(settings.retention),
    }
