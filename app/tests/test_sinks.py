from __future__ import annotations

from datetime import datetime
from typing import Any

import cassandra.concurrent
import pytest
from cassandra import InvalidRequest, Unavailable
from cassandra.cluster import NoHostAvailable
from crypto_stream import sinks
from pyspark.sql import Row

MOMENT = datetime(2026, 1, 1, 12, 0, 0)  # noqa: DTZ001 - as Spark gives it, in the time zone of the process


def row(number: int, **changes: Any) -> Row:
    values = {"id": "90", "name": "Bitcoin", "price_usd": 1.5, "ts": 1_700_000_000_000 + number}
    position = {"topic": "crypto.prices", "partition": 2, "offset": number, "value": b"raw"}
    return Row(**position, **values | changes, processing_time=MOMENT, written_at=1_700_000_000_000_000 + number)


class FakeSession:
    """Prepares and remembers; refuses prices whose id is "bad"."""

    def __init__(self) -> None:
        self.prices: list[tuple[Any, ...]] = []
        self.dead: list[tuple[Any, ...]] = []

    def prepare(self, query: str) -> str:
        return query

    def execute(self, query: str, values: tuple[Any, ...]) -> None:
        assert ".dead_letters " in query
        assert query.count("?") == len(values)
        self.dead.append(values)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    session = FakeSession()

    def execute(_: FakeSession, query: str, values: list[tuple[Any, ...]], **options: Any) -> list[tuple[bool, Any]]:
        assert options["raise_on_first_error"] is False
        assert query.endswith("USING TIMESTAMP ?")
        outcomes: list[tuple[bool, Any]] = []
        for price in values:
            assert query.count("?") == len(price)
            error = {
                "bad": InvalidRequest("Key may not be empty\nmore"),
                "away": NoHostAvailable("away", {}),
                "busy": Unavailable("not enough replicas"),
            }.get(price[0])
            if error is None:
                session.prices.append(price)
            outcomes.append((error is None, error))
        return outcomes

    monkeypatch.setattr(cassandra.concurrent, "execute_concurrent_with_args", execute)
    return session


def test_good_rows_get_through_beside_a_refused_one(session: FakeSession) -> None:
    rows = [row(number, id="bad" if number == 1500 else "90") for number in range(2500)]
    assert sinks._insert(session, "crypto", iter(rows)) == (2499, 1)
    moment = MOMENT.astimezone()
    assert session.prices[0] == ("90", "Bitcoin", 1.5, 1_700_000_000_000, moment, 1_700_000_000_000_000)
    assert session.prices[0][4].tzinfo is not None
    assert session.dead == [
        ("crypto.prices", 2, 1500, b"raw", "Cassandra refused it: InvalidRequest: Key may not be empty", moment)
    ]


@pytest.mark.parametrize("what", ["away", "busy"])
def test_what_another_try_may_change_is_no_dead_letter(session: FakeSession, what: str) -> None:
    with pytest.raises((NoHostAvailable, Unavailable)):
        sinks._insert(session, "crypto", iter([row(1), row(2, id=what)]))
    assert session.dead == []


def test_a_table_that_is_not_what_it_must_be_is_no_fault_of_a_row(session: FakeSession) -> None:
    def prepare(query: str) -> str:
        raise InvalidRequest("Undefined column name price_usd")

    session.prepare = prepare  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest):
        sinks._insert(session, "crypto", iter([row(1)]))
    assert session.dead == []
