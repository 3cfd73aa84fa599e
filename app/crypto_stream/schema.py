"""Creates what producer and stream job expect: topics, keyspace and tables. A oneshot job that may run any time.

What exists stays as it is, except that topics get the retention of the settings. It waits for Kafka and Cassandra, at
most `schema_setup.wait_seconds`, and returns only when all of it can be used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import tenacity
from structlog.stdlib import BoundLogger

from crypto_stream import config, log
from crypto_stream.config import Cassandra, Kafka, Settings

# The columns and the key of `prices` are given; the stream job depends on every one of both tables.
KEYSPACE = "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}"
TABLES = {
    "prices": """
        CREATE TABLE IF NOT EXISTS {keyspace}.prices (
            id TEXT,
            name TEXT,
            price_usd DOUBLE,
            ts BIGINT,
            processing_time TIMESTAMP,
            PRIMARY KEY (id, ts)
        ) WITH CLUSTERING ORDER BY (ts DESC)""",
    "dead_letters": """
        CREATE TABLE IF NOT EXISTS {keyspace}.dead_letters (
            topic TEXT,
            partition INT,
            offset BIGINT,
            value BLOB,
            reason TEXT,
            processing_time TIMESTAMP,
            PRIMARY KEY ((topic, partition), offset)
        )""",
}
PAUSE_SECONDS = 0.5


class NotReadyError(Exception):
    """Something was created but cannot be used yet."""


def topic_configs(kafka: Kafka) -> dict[str, str]:
    """What a topic is given beyond the broker's defaults."""
    return {
        "retention.ms": str(kafka.retention_hours * 3_600_000),
        # By the broker's clock, whatever the clock of a producer says: how far ahead a price is, and what is too old.
        "message.timestamp.type": "LogAppendTime",
        "retention.bytes": str(kafka.retention_bytes),
    }


def ensure_topics(admin: Any, kafka: Kafka) -> list[str]:
    """Create or adjust both topics through a `KafkaAdminClient`; returns what was changed, as lines for the log."""
    from kafka.admin import ConfigResource, ConfigResourceType

    wanted = topic_configs(kafka)
    names = [kafka.topic, kafka.rejected_topic]
    existing = set(admin.list_topics())
    changes = []
    missing = [name for name in names if name not in existing]
    if missing:
        admin.create_topics(
            {
                name: {
                    "num_partitions": kafka.partitions,
                    "replication_factor": kafka.replication_factor,
                    "configs": wanted,
                }
                for name in missing
            }
        )
        changes += [f"topic {name} created" for name in missing]
    for name in names:
        if name in missing:
            continue
        resource = ConfigResource(ConfigResourceType.TOPIC, name, list(wanted))
        found = admin.describe_configs([resource], config_filter="all")["topic"][name]
        different = {key: value for key, value in wanted.items() if found[key]["value"] != value}
        if different:
            results = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, different)])
            if results["topic"][name] != "OK":
                raise NotReadyError(f"topic {name}: {results['topic'][name]}")
            changes.append(f"topic {name} set to {different}")
    admin.wait_for_topics(names)
    return changes


def ensure_tables(session: Any, cassandra: Cassandra) -> list[str]:
    """Create keyspace and tables through a driver's session; returns what was changed, as lines for the log."""
    keyspaces = session.cluster.metadata.keyspaces
    changes = []
    if cassandra.keyspace not in keyspaces:
        session.execute(KEYSPACE.format(keyspace=cassandra.keyspace, replication=cassandra.replication))
        changes.append(f"keyspace {cassandra.keyspace} created")
    for table, statement in TABLES.items():
        if cassandra.keyspace not in keyspaces or table not in keyspaces[cassandra.keyspace].tables:
            session.execute(statement.format(keyspace=cassandra.keyspace))
            changes.append(f"table {cassandra.keyspace}.{table} created")
    for table in TABLES:  # a query works only when the node that answers knows the table
        session.execute(f"SELECT * FROM {cassandra.keyspace}.{table} LIMIT 1")  # noqa: S608 - both are plain names
    return changes


def until_it_works(what: str, action: Callable[[], list[str]], deadline: float, logger: BoundLogger) -> None:
    """Repeat `action` until it raises nothing or `deadline` (monotonic seconds) is over; then raise its error."""

    def report(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        logger.warning("waiting", what=what, attempt=state.attempt_number, reason=f"{type(error).__name__}: {error}")

    # The drivers' errors share no base class, and what a service still starting up answers is hard to foresee.
    for change in tenacity.Retrying(
        stop=tenacity.stop_after_delay(max(0, deadline - time.monotonic())),
        wait=tenacity.wait_fixed(PAUSE_SECONDS),
        before_sleep=report,
        reraise=True,
    )(action):
        logger.info("changed", what=change)
    logger.info("ready", what=what)


def main() -> None:
    """The command `python -m crypto_stream.schema`: exit status 0 when all is there, 1 when the time was up."""
    settings = config.load_or_exit("kafka", "cassandra", "schema_setup")
    logger = log.configure("schema")
    deadline = time.monotonic() + settings.schema_setup.wait_seconds
    try:
        until_it_works("kafka", lambda: _kafka(settings), deadline, logger)
        until_it_works("cassandra", lambda: _cassandra(settings), deadline, logger)
    except Exception as error:
        logger.error("gave_up", reason=f"{type(error).__name__}: {error}")
        sys.exit(1)


def _kafka(settings: Settings) -> list[str]:
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(
        bootstrap_servers=list(settings.kafka.bootstrap_servers),
        client_id="crypto-schema",
        bootstrap_timeout_ms=5_000,
        reconnect_backoff_ms=100,
        reconnect_backoff_max_ms=1_000,
    )
    try:
        return ensure_topics(admin, settings.kafka)
    finally:
        admin.close()


def _cassandra(settings: Settings) -> list[str]:
    from crypto_stream.store import open_session

    session = open_session(settings.cassandra)
    try:
        return ensure_tables(session, settings.cassandra)
    finally:
        session.cluster.shutdown()


if __name__ == "__main__":
    main()
