"""How rows get into Cassandra: a batch at a time through Spark's connector, and one by one where a batch is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timezone
from itertools import islice
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - what everybody calls it

from crypto_stream import store
from crypto_stream.config import Cassandra
from crypto_stream.prices import price_columns

FORMAT = "org.apache.spark.sql.cassandra"
POSITION = ("topic", "partition", "offset")
# How many rows are on their way at a time when they go one by one.
CONCURRENCY = 50


def append(rows: DataFrame, table: str, cassandra: Cassandra, **options: str) -> None:
    """Write rows by their keys, all of them or, after an error, some; raises what Spark raises."""
    rows.write.format(FORMAT).mode("append").options(
        keyspace=cassandra.keyspace, table=table, **{"spark.cassandra.output.ignoreNulls": "true"}, **options
    ).save()


def forget_sessions(spark: SparkSession) -> None:
    """Let the connector connect anew, after a write that failed.

    The Java driver (4.18) never ends a refresh of the schema again once one has failed because Cassandra was away, and
    the connector asks for one before each write: with the same session, the next write would wait for ever.
    """
    jvm: Any = spark._jvm
    companion = getattr(jvm.com.datastax.spark.connector.cql, "CassandraConnector$")
    # Its own evictCache leaves sessions that are still counted as in use.
    cache = getattr(companion, "MODULE$").sessionCache().cache()
    sessions = cache.values().iterator()
    while sessions.hasNext():
        sessions.next().forceCloseAsync()
    cache.clear()


def append_one_by_one(decoded: DataFrame, cassandra: Cassandra) -> tuple[int, int]:
    """Write the prices of `decoded` (see `prices.decode`) one after the other.

    What Cassandra refuses for what it is, so that no repetition helps, becomes a dead letter with Cassandra's reason.
    Returns how many were written and how many refused. Raises what the driver raises when it cannot write at all: no
    node answers, a table is missing, or has not the columns that it must have.
    """
    rows = decoded.where(F.col("reason").isNull()).select(*POSITION, "value", *price_columns())
    session = store.open_session(cassandra)
    try:
        return _insert(session, cassandra.keyspace, rows.toLocalIterator())
    finally:
        session.cluster.shutdown()


def _insert(session: Any, keyspace: str, rows: Iterator[Row]) -> tuple[int, int]:
    from cassandra import InvalidRequest
    from cassandra.concurrent import execute_concurrent_with_args

    # Prepared before any row is looked at: a table that is not what it must be is no fault of a row.
    price = session.prepare(
        f"INSERT INTO {keyspace}.prices (id, name, price_usd, ts, processing_time) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - a plain name
        " USING TIMESTAMP ?"
    )
    dead_letter = session.prepare(
        f"INSERT INTO {keyspace}.dead_letters (topic, partition, offset, value, reason, processing_time)"  # noqa: S608
        " VALUES (?, ?, ?, ?, ?, ?)"
    )
    written = refused = 0
    while part := list(islice(rows, 1000)):
        # Spark's times are in this process' time zone, the driver takes them for UTC.
        times = [row.processing_time.astimezone(timezone.utc) for row in part]
        values = [(row.id, row.name, row.price_usd, row.ts, moment, row.written_at) for row, moment in zip(part, times)]
        results = execute_concurrent_with_args(
            session, price, values, concurrency=CONCURRENCY, raise_on_first_error=False
        )
        for row, moment, (success, outcome) in zip(part, times, results):
            if success:
                written += 1
            elif isinstance(outcome, InvalidRequest):
                reason = f"Cassandra refused it: {store.explain(outcome)}"
                session.execute(dead_letter, (*(row[name] for name in POSITION), row.value, reason, moment))
                refused += 1
            else:
                raise outcome
    return written, refused
