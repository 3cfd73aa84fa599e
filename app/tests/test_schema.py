from __future__ import annotations

import ast
import re
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from crypto_stream import schema
from crypto_stream.config import Kafka, Settings
from crypto_stream.schema import NotReadyError, TableError, ensure_tables, ensure_topics, until_it_works
from crypto_stream.tables import TABLES


class FakeAdmin:
    """Kafka's topics in memory, with the part of `KafkaAdminClient` that is used."""

    def __init__(self, **topics: dict[str, str]) -> None:
        self.topics = {name.replace("__", "."): configs for name, configs in topics.items()}
        self.shapes: dict[str, tuple[int, int]] = {}
        self.alterations = 0
        self.answer = "OK"

    def list_topics(self) -> list[str]:
        return list(self.topics)

    def create_topics(self, topics: dict[str, Any]) -> None:
        for name, options in topics.items():
            assert name not in self.topics
            self.topics[name] = dict(options["configs"])
            self.shapes[name] = (options["num_partitions"], options["replication_factor"])

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        assert config_filter == "all"  # otherwise values that equal the broker's default are missing
        return {
            "topic": {
                resource.name: {key: {"value": self.topics[resource.name].get(key)} for key in resource.configs}
                for resource in resources
            }
        }

    def alter_configs(self, resources: list[Any]) -> dict[str, Any]:
        self.alterations += 1
        for resource in resources:
            self.topics[resource.name].update(resource.configs)
        return {"topic": {resource.name: self.answer for resource in resources}}

    def wait_for_topics(self, names: list[str]) -> None:
        assert set(names) <= set(self.topics)


class FakeSession:
    """Keyspaces and tables in memory, changed by the statements that `schema` makes. `broken_at` breaks one of them."""

    def __init__(self, *keyspaces: str) -> None:
        self.keyspaces = {name: SimpleNamespace(tables={}) for name in keyspaces}
        self.cluster = SimpleNamespace(metadata=SimpleNamespace(keyspaces=self.keyspaces))
        self.statements: list[str] = []
        self.broken_at = ""

    def prepare(self, statement: str) -> str:
        return statement

    def execute(self, statement: str, values: list[Any] | None = None) -> list[Any]:
        if self.broken_at and self.broken_at in statement:
            raise ConnectionError("no node answers")
        self.statements.append(statement)
        verb, place, rest = re.fullmatch(  # type: ignore[union-attr]
            r"(CREATE KEYSPACE|CREATE TABLE|ALTER TABLE|DROP TABLE|INSERT INTO|SELECT \* FROM)"
            r"(?: IF NOT EXISTS)? ([a-z_.]+) ?(.*)",
            statement,
        ).groups()
        if verb == "CREATE KEYSPACE":
            self.keyspaces[place] = SimpleNamespace(tables={})
            return []
        keyspace, name = place.split(".")
        tables = self.keyspaces[keyspace].tables
        if verb == "CREATE TABLE":
            tables.setdefault(name, self._table(rest))
        elif verb == "DROP TABLE":
            del tables[name]
        elif verb == "INSERT INTO":
            assert values is not None
            columns = rest[1:].split(")")[0].split(", ")
            row = dict(zip(columns, values))
            tables[name].rows[tuple(row[column.name] for column in tables[name].key)] = row
            assert 0 < values[-1] <= 30 * 86_400
        elif verb == "SELECT * FROM":
            return [
                SimpleNamespace(**row, _asdict=lambda row=row: dict(row)) for row in list(tables[name].rows.values())
            ]
        elif rest.startswith("ADD"):
            tables[name].columns |= dict(part.split() for part in rest[5:-1].split(", "))
        else:
            tables[name].options |= self._options(rest)
        return []

    def _table(self, rest: str) -> Any:
        columns, partition, clustering, options = re.fullmatch(  # type: ignore[union-attr]
            r"\((.*), PRIMARY KEY \(\((.*?)\), (.*?)\)\) (WITH .*)", rest
        ).groups()
        found = dict(part.split() for part in columns.split(", "))
        keys = [[SimpleNamespace(name=name) for name in part.split(", ")] for part in (partition, clustering)]
        return SimpleNamespace(
            columns=found,
            partition_key=keys[0],
            clustering_key=keys[1],
            key=keys[0] + keys[1],
            options=self._options(options),
            rows={},
        )

    @staticmethod
    def _options(text: str) -> dict[str, Any]:
        life, compaction = re.search(r"default_time_to_live = (\d+) AND compaction = (\{.*\})", text).groups()  # type: ignore[union-attr]
        # As Cassandra tells it: with more than it was given.
        more = {"max_threshold": "32"}
        return {"default_time_to_live": int(life), "compaction": ast.literal_eval(compaction) | more}


KAFKA = Kafka(partitions=6, replication_factor=3, retention_hours=2, retention_bytes=1000)
WANTED = {"retention.ms": "7200000", "message.timestamp.type": "LogAppendTime", "retention.bytes": "1000"}


def test_missing_topics_are_created_as_the_settings_say() -> None:
    admin = FakeAdmin()
    assert len(ensure_topics(admin, KAFKA)) == 3
    assert admin.topics == {"crypto.prices": WANTED, "crypto.global": WANTED, "crypto.rejected": WANTED}
    assert set(admin.shapes.values()) == {(6, 3)}


def test_a_second_run_changes_nothing() -> None:
    admin = FakeAdmin()
    ensure_topics(admin, KAFKA)
    assert ensure_topics(admin, KAFKA) == []
    assert admin.alterations == 0


def test_existing_topics_get_the_retention_of_the_settings_and_keep_the_rest() -> None:
    admin = FakeAdmin(
        crypto__prices=WANTED | {"retention.ms": "1", "compression.type": "gzip"},
        crypto__global=WANTED,
        crypto__rejected=WANTED,
    )
    (change,) = ensure_topics(admin, KAFKA)
    assert "crypto.prices" in change
    assert admin.topics["crypto.prices"] == WANTED | {"compression.type": "gzip"}
    assert admin.shapes == {}


def test_a_refused_change_is_an_error() -> None:
    admin = FakeAdmin(crypto__prices={}, crypto__global=WANTED, crypto__rejected=WANTED)
    admin.answer = "PolicyViolation"
    with pytest.raises(NotReadyError, match="PolicyViolation"):
        ensure_topics(admin, KAFKA)


DAY = 86_400


def test_the_keyspace_and_the_table_of_prices_are_created_to_the_letter() -> None:
    session = FakeSession()
    assert len(ensure_tables(session, Settings())) == 1 + len(TABLES)
    compaction = "org.apache.cassandra.db.compaction.TimeWindowCompactionStrategy"
    assert session.statements[:2] == [
        "CREATE KEYSPACE IF NOT EXISTS crypto WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATE TABLE IF NOT EXISTS crypto.prices (id text, name text, price_usd double, ts bigint, "
        "processing_time timestamp, PRIMARY KEY ((id), ts)) WITH CLUSTERING ORDER BY (ts DESC) AND "
        f"default_time_to_live = {30 * DAY} AND compaction = {{'class': '{compaction}', "
        "'compaction_window_unit': 'DAYS', 'compaction_window_size': '1'}",
    ]


def test_a_second_run_only_looks() -> None:
    session = FakeSession()
    ensure_tables(session, Settings())
    session.statements.clear()
    assert ensure_tables(session, Settings()) == []
    # Read back: a table can be used only when the node that answers knows it.
    assert session.statements == [f"SELECT * FROM crypto.{table.name} LIMIT 1" for table in TABLES]


def test_what_the_settings_say_reaches_tables_that_exist() -> None:
    session = FakeSession()
    ensure_tables(session, Settings())
    (change,) = ensure_tables(session, Settings(retention={"candles_days": 3650}))
    assert change.startswith(f"table crypto.candles set to default_time_to_live = {3650 * DAY}")
    assert "'compaction_window_size': '121'" in change


def older(session: FakeSession) -> dict[str, Any]:
    """The tables of the version before this one, with some dead letters; returns the keyspace's tables."""
    session.execute("CREATE KEYSPACE IF NOT EXISTS crypto WITH x")
    plain = "default_time_to_live = 0 AND compaction = {'class': 'SizeTieredCompactionStrategy'}"
    session.execute(
        "CREATE TABLE IF NOT EXISTS crypto.prices (id text, name text, price_usd double, ts bigint, "
        f"processing_time timestamp, PRIMARY KEY ((id), ts)) WITH {plain}"
    )
    session.execute(
        "CREATE TABLE IF NOT EXISTS crypto.dead_letters (topic text, partition int, offset bigint, value blob, "
        f"reason text, processing_time timestamp, PRIMARY KEY ((topic, partition), offset)) WITH {plain}"
    )
    tables: dict[str, Any] = session.keyspaces["crypto"].tables
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    for number, age in enumerate((0, 5, 29, 31, None)):
        key = ("crypto.prices", number, 7)
        tables["dead_letters"].rows[key] = {
            "topic": key[0],
            "partition": number,
            "offset": 7,
            "value": b"x",
            "reason": "why",
            "processing_time": None if age is None else now - timedelta(days=age),
        }
    return tables


STEPS = ["", "CREATE TABLE IF NOT EXISTS crypto.dead_letters_by_day", "INSERT INTO crypto.dead_letters_by_day"]
STEPS += ["DROP TABLE crypto.dead_letters", "CREATE TABLE IF NOT EXISTS crypto.dead_letters ("]
STEPS += ["INSERT INTO crypto.dead_letters ", "DROP TABLE crypto.dead_letters_by_day"]


@pytest.mark.parametrize("step", STEPS)
def test_tables_of_an_older_version_become_those_of_today_wherever_that_was_interrupted(step: str) -> None:
    session = FakeSession()
    tables = older(session)
    if step:
        session.broken_at = step
        with pytest.raises(ConnectionError):
            ensure_tables(session, Settings())
        session.broken_at = ""
    ensure_tables(session, Settings())
    assert set(tables) == {table.name for table in TABLES}
    assert tables["prices"].options["default_time_to_live"] == 30 * DAY
    letters = tables["dead_letters"]
    assert [column.name for column in letters.partition_key] == ["topic", "day"]
    # What has outlived its time is not kept; what says nothing of it is.
    assert {row["partition"] for row in letters.rows.values()} == {0, 1, 2, 4}
    now = datetime.now(timezone.utc)
    assert all(row["day"] == (row["processing_time"] or now).date() for row in letters.rows.values())
    assert ensure_tables(session, Settings()) == []


def test_a_column_that_is_new_is_added() -> None:
    session = FakeSession()
    ensure_tables(session, Settings())
    del session.keyspaces["crypto"].tables["latest_prices"].columns["symbol"]
    assert ensure_tables(session, Settings()) == ["table crypto.latest_prices got the columns symbol"]


def test_a_table_with_another_key_is_named_and_not_tried_again() -> None:
    session = FakeSession()
    ensure_tables(session, Settings())
    session.keyspaces["crypto"].tables["candles"].clustering_key.append(SimpleNamespace(name="x"))
    with structlog.testing.capture_logs(), pytest.raises(TableError, match=r"crypto.candles has another key"):
        until_it_works(
            "cassandra", lambda: ensure_tables(session, Settings()), float("inf"), structlog.stdlib.get_logger()
        )


def test_it_waits_for_what_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "PAUSE_SECONDS", 0)
    outcomes = iter([ConnectionError("refused"), NotReadyError("no leader"), None])

    def action() -> list[str]:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return ["topic made"]

    with structlog.testing.capture_logs() as lines:
        until_it_works("kafka", action, float("inf"), structlog.stdlib.get_logger())
    assert [line["event"] for line in lines] == ["waiting", "waiting", "changed", "ready"]
    assert "ConnectionError: refused" in lines[0]["reason"]


def test_it_gives_up_with_the_last_error_when_time_is_over() -> None:
    def action() -> list[str]:
        raise ConnectionError("refused")

    with structlog.testing.capture_logs(), pytest.raises(ConnectionError):
        until_it_works("kafka", action, 0, structlog.stdlib.get_logger())


def test_topics_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = FakeAdmin()
    waited: list[list[str]] = []
    monkeypatch.setattr(admin, "wait_for_topics", waited.append)
    ensure_topics(admin, KAFKA)
    assert waited == [["crypto.prices", "crypto.global", "crypto.rejected"]]


@pytest.mark.parametrize("broken", ["", "kafka", "cassandra"])
def test_both_are_prepared_and_let_go_whatever_happens(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    import kafka.admin
    from crypto_stream import store

    closed: list[str] = []
    admin, session = FakeAdmin(), FakeSession()
    admin.close = lambda: closed.append("kafka")  # type: ignore[attr-defined]
    session.cluster.shutdown = lambda: closed.append("cassandra")

    def fail(*_: object) -> None:
        raise ConnectionError("refused")

    if broken == "kafka":
        monkeypatch.setattr(admin, "list_topics", fail)
    if broken == "cassandra":
        monkeypatch.setattr(session, "execute", fail)
    monkeypatch.setattr(kafka.admin, "KafkaAdminClient", lambda **_: admin)
    monkeypatch.setattr(store, "open_session", lambda _: session)
    monkeypatch.setattr(schema, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("CRYPTO_STREAM_SCHEMA_SETUP__WAIT_SECONDS", "1")
    monkeypatch.setattr(schema.log, "configure", lambda _: structlog.stdlib.get_logger())  # type: ignore[attr-defined]
    if broken:
        with pytest.raises(SystemExit) as caught:
            schema.main()
        assert caught.value.code == 1
    else:
        schema.main()
        assert set(admin.topics) == {"crypto.prices", "crypto.global", "crypto.rejected"}
        assert set(session.keyspaces["crypto"].tables) == {table.name for table in TABLES}
    assert set(closed) == ({"kafka"} if broken == "kafka" else {"kafka", "cassandra"})
