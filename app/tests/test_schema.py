from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from crypto_stream import schema
from crypto_stream.config import Cassandra, Kafka
from crypto_stream.schema import NotReadyError, ensure_tables, ensure_topics, until_it_works


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
    """Remembers statements; its metadata holds what `existing` says."""

    def __init__(self, existing: dict[str, list[str]] | None = None) -> None:
        keyspaces = {
            name: SimpleNamespace(tables={table: object() for table in tables})
            for name, tables in (existing or {}).items()
        }
        self.cluster = SimpleNamespace(metadata=SimpleNamespace(keyspaces=keyspaces))
        self.statements: list[str] = []

    def execute(self, statement: str) -> None:
        self.statements.append(re.sub(r"\s+", " ", statement).strip())


KAFKA = Kafka(partitions=6, replication_factor=3, retention_hours=2, retention_bytes=1000)
WANTED = {"retention.ms": "7200000", "message.timestamp.type": "LogAppendTime", "retention.bytes": "1000"}


def test_missing_topics_are_created_as_the_settings_say() -> None:
    admin = FakeAdmin()
    assert len(ensure_topics(admin, KAFKA)) == 2
    assert admin.topics == {"crypto.prices": WANTED, "crypto.rejected": WANTED}
    assert set(admin.shapes.values()) == {(6, 3)}


def test_a_second_run_changes_nothing() -> None:
    admin = FakeAdmin()
    ensure_topics(admin, KAFKA)
    assert ensure_topics(admin, KAFKA) == []
    assert admin.alterations == 0


def test_existing_topics_get_the_retention_of_the_settings_and_keep_the_rest() -> None:
    admin = FakeAdmin(
        crypto__prices=WANTED | {"retention.ms": "1", "compression.type": "gzip"}, crypto__rejected=WANTED
    )
    (change,) = ensure_topics(admin, KAFKA)
    assert "crypto.prices" in change
    assert admin.topics["crypto.prices"] == WANTED | {"compression.type": "gzip"}
    assert admin.shapes == {}


def test_a_refused_change_is_an_error() -> None:
    admin = FakeAdmin(crypto__prices={}, crypto__rejected=WANTED)
    admin.answer = "PolicyViolation"
    with pytest.raises(NotReadyError, match="PolicyViolation"):
        ensure_topics(admin, KAFKA)


def test_keyspace_and_tables_are_created_to_the_letter() -> None:
    session = FakeSession()
    assert len(ensure_tables(session, Cassandra())) == 3
    assert session.statements[:3] == [
        "CREATE KEYSPACE IF NOT EXISTS crypto WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATE TABLE IF NOT EXISTS crypto.prices ( id TEXT, name TEXT, price_usd DOUBLE, ts BIGINT, "
        "processing_time TIMESTAMP, PRIMARY KEY (id, ts) ) WITH CLUSTERING ORDER BY (ts DESC)",
        "CREATE TABLE IF NOT EXISTS crypto.dead_letters ( topic TEXT, partition INT, offset BIGINT, value BLOB, "
        "reason TEXT, processing_time TIMESTAMP, PRIMARY KEY ((topic, partition), offset) )",
    ]


def test_existing_tables_are_only_looked_at() -> None:
    session = FakeSession({"crypto": ["prices", "dead_letters"]})
    assert ensure_tables(session, Cassandra()) == []
    assert all(statement.startswith("SELECT") for statement in session.statements)


def test_only_what_is_missing_is_created() -> None:
    session = FakeSession({"crypto": ["prices"]})
    assert ensure_tables(session, Cassandra()) == ["table crypto.dead_letters created"]


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
    assert waited == [["crypto.prices", "crypto.rejected"]]


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
        assert set(admin.topics) == {"crypto.prices", "crypto.rejected"}
        assert len([line for line in session.statements if line.startswith("CREATE")]) == 3
        # Read back: a table can be used only when the node that answers knows it.
        assert len([line for line in session.statements if line.startswith("SELECT")]) == 2
    assert set(closed) == ({"kafka"} if broken == "kafka" else {"kafka", "cassandra"})
