"""Creates what producer and stream job expect: topics, keyspace and tables. A oneshot job that may run any time.

What exists keeps its data, and gets what the settings and `tables` say: retention, how it is stored, columns that are
new. It waits for Kafka and Cassandra, at most `schema_setup.wait_seconds`, and returns only when all of it can be used.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import tenacity
from structlog.stdlib import BoundLogger

from crypto_stream import config, log
from crypto_stream.config import Kafka, Settings
from crypto_stream.tables import DEAD_LETTERS, TABLES, Table

# Where dead letters are while their table gets another key.
SPARE = dataclasses.replace(DEAD_LETTERS, name="dead_letters_by_day")
KEYSPACE = "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}"
PAUSE_SECONDS = 0.5


class NotReadyError(Exception):
    """Something was created but cannot be used yet."""


class TableError(Exception):
    """A table that is not what it must be, and cannot be made so."""


def topic_configs(kafka: Kafka) -> dict[str, str]:
    """What a topic is given beyond the broker's defaults."""
    return {
        "retention.ms": str(kafka.retention_hours * 3_600_000),
        # By the broker's clock, whatever the clock of a producer says: how far ahead a price is, and what is too old.
        "message.timestamp.type": "LogAppendTime",
        "retention.bytes": str(kafka.retention_bytes),
    }


def ensure_topics(admin: Any, kafka: Kafka) -> list[str]:
    """Create or adjust the topics through a `KafkaAdminClient`; returns what was changed, as lines for the log."""
    from kafka.admin import ConfigResource, ConfigResourceType

    wanted = topic_configs(kafka)
    names = [kafka.topic, kafka.market_topic, kafka.rejected_topic]
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


def ensure_tables(session: Any, settings: Settings) -> list[str]:
    """Create and alter keyspace and tables through a driver's session; returns what was changed, as lines for the log.

    Raises `TableError` for a table that cannot be made what it must be without losing something.
    """
    name = settings.cassandra.keyspace
    keyspaces = session.cluster.metadata.keyspaces
    changes = []
    if name not in keyspaces:
        session.execute(KEYSPACE.format(keyspace=name, replication=settings.cassandra.replication))
        changes.append(f"keyspace {name} created")
    existing = keyspaces[name].tables if name in keyspaces else {}
    is_spare_there = SPARE.name in existing
    for table in TABLES:
        found = existing.get(table.name)
        if found is None:
            session.execute(table.create(name, settings.retention))
            changes.append(f"table {name}.{table.name} created")
        elif _key(found) == (table.partition_key, table.clustering_key):
            changes += [f"table {name}.{table.name} {change}" for change in _alter(session, found, table, settings)]
        elif table is DEAD_LETTERS:
            _set_apart(session, settings)
            is_spare_there = True
        else:
            raise TableError(f"table {name}.{table.name} has another key than it must have: {_key(found)}")
    if is_spare_there:
        rows = _bring_back(session, settings)
        changes.append(f"table {name}.{DEAD_LETTERS.name} partitioned by day, {rows} rows kept")
    for table in TABLES:  # a query works only when the node that answers knows the table
        session.execute(f"SELECT * FROM {name}.{table.name} LIMIT 1")  # noqa: S608 - both are plain names
    return changes


def _key(found: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Partition key and clustering key of a table, by the driver's metadata."""
    return tuple(column.name for column in found.partition_key), tuple(column.name for column in found.clustering_key)


def _alter(session: Any, found: Any, table: Table, settings: Settings) -> list[str]:
    place = f"{settings.cassandra.keyspace}.{table.name}"
    changes = []
    missing = {name: kind for name, kind in table.columns.items() if name not in found.columns}
    if missing:
        columns = ", ".join(f"{name} {kind}" for name, kind in missing.items())
        session.execute(f"ALTER TABLE {place} ADD ({columns})")
        changes.append(f"got the columns {', '.join(missing)}")
    compaction = dict(found.options["compaction"])
    same = found.options["default_time_to_live"] == table.seconds(settings.retention) and all(
        compaction.get(key) == value for key, value in table.compaction(settings.retention).items()
    )
    if not same:
        session.execute(f"ALTER TABLE {place} WITH {table.options(settings.retention)}")
        changes.append(f"set to {table.options(settings.retention)}")
    return changes


def _set_apart(session: Any, settings: Settings) -> None:
    """Bring the rows of a `dead_letters` with the key of an older version into the spare table, and drop the old one.

    A key cannot be altered. The spare one is complete before the old one goes, so this may be interrupted anywhere.
    """
    keyspace = settings.cassandra.keyspace
    session.execute(SPARE.create(keyspace, settings.retention))
    _copy(session, DEAD_LETTERS.name, SPARE, settings)
    session.execute(f"DROP TABLE {keyspace}.{DEAD_LETTERS.name}")


def _bring_back(session: Any, settings: Settings) -> int:
    """The spare table's rows into the one of today; returns how many."""
    keyspace = settings.cassandra.keyspace
    session.execute(DEAD_LETTERS.create(keyspace, settings.retention))
    count = _copy(session, SPARE.name, DEAD_LETTERS, settings)
    session.execute(f"DROP TABLE {keyspace}.{SPARE.name}")
    return count


def _copy(session: Any, source: str, target: Table, settings: Settings) -> int:
    """Rows of dead letters, the driver's page by page."""
    keyspace = settings.cassandra.keyspace
    insert = session.prepare(target.insert(keyspace))
    count = 0
    for row in session.execute(f"SELECT * FROM {keyspace}.{source}"):  # noqa: S608 - plain names
        values = row._asdict()
        # The driver's times are UTC without saying so; a row that has none is of somebody else, and of now.
        processed = (row.processing_time or datetime.now(timezone.utc)).replace(tzinfo=timezone.utc)
        values["day"] = processed.date()
        age = time.time() - processed.timestamp()
        left = int(target.seconds(settings.retention) - age)
        if left > 0:
            written_at = int((time.time() - age) * 1_000_000)
            session.execute(insert, [*(values[name] for name in target.columns), written_at, left])
            count += 1
    return count


def until_it_works(what: str, action: Callable[[], list[str]], deadline: float, logger: BoundLogger) -> None:
    """Repeat `action` until it raises nothing or `deadline` (monotonic seconds) is over; then raise its error."""

    def report(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        logger.warning("waiting", what=what, attempt=state.attempt_number, reason=f"{type(error).__name__}: {error}")

    # The drivers' errors share no base class, and what a service still starting up answers is hard to foresee.
    for change in tenacity.Retrying(
        retry=tenacity.retry_if_not_exception_type(TableError),
        stop=tenacity.stop_after_delay(max(0, deadline - time.monotonic())),
        wait=tenacity.wait_fixed(PAUSE_SECONDS),
        before_sleep=report,
        reraise=True,
    )(action):
        logger.info("changed", what=change)
    logger.info("ready", what=what)


def main() -> None:
    """The command `python -m crypto_stream.schema`: exit status 0 when all is there, 1 when the time was up."""
    settings = config.load_or_exit("kafka", "cassandra", "retention", "schema_setup")
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
        return ensure_tables(session, settings)
    finally:
        session.cluster.shutdown()


if __name__ == "__main__":
    main()
