from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
from cassandra.cluster import NoHostAvailable
from crypto_stream.config import Cassandra
from crypto_stream.store import LatestPrice, PricePoint, Store, StoreError, explain


class FakeSession:
    """Prepares nothing and answers every query with `rows`, or raises `error`."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows
        self.error: Exception | None = None
        self.prepared: list[str] = []
        self.values: list[tuple[object, ...]] = []

    def prepare(self, query: str) -> str:
        self.prepared.append(query)
        return query

    def execute(self, query: str, values: tuple[object, ...]) -> list[Any]:
        assert query in self.prepared
        self.values.append(values)
        if self.error is not None:
            raise self.error
        return self.rows


Latest = namedtuple("Latest", "id name price_usd ts processing_time")
Point = namedtuple("Point", "ts price_usd")


def test_latest_prices_are_typed_and_half_written_rows_left_out() -> None:
    session = FakeSession([Latest("90", "Bitcoin", 1.5, 7, None), Latest("80", None, None, 7, None)])
    store = Store(Cassandra(keyspace="other"), lambda _: session)
    assert store.latest() == [LatestPrice("90", "Bitcoin", 1.5, 7, None)]
    assert "FROM other.prices PER PARTITION LIMIT 1" in session.prepared[0]


def test_history_is_oldest_first() -> None:
    store = Store(Cassandra(), lambda _: FakeSession([Point(3, 1.0), Point(2, 2.0)]))
    assert store.history("90", 0) == [PricePoint(2, 2.0), PricePoint(3, 1.0)]


def test_a_query_is_prepared_once() -> None:
    session = FakeSession([])
    store = Store(Cassandra(), lambda _: session)
    store.newest_ts("90")
    store.newest_ts("80")
    assert len(session.prepared) == 1
    assert session.values == [("90",), ("80",)]


def test_it_connects_late_and_tries_again() -> None:
    tries: list[int] = []

    def connect(_: Cassandra) -> FakeSession:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("refused")
        return FakeSession([])

    store = Store(Cassandra(), connect)
    assert tries == []
    with pytest.raises(StoreError, match="OSError: refused"):
        store.latest()
    assert store.latest() == []
    assert store.latest() == []
    assert len(tries) == 2


def test_errors_of_a_query_are_the_stores_own() -> None:
    session = FakeSession([])
    store = Store(Cassandra(), lambda _: session)
    session.error = ValueError("first line\nsecond line")
    with pytest.raises(StoreError) as caught:
        store.latest()
    assert str(caught.value) == "ValueError: first line"
    session.error = None
    assert store.latest() == []


def test_what_the_driver_hides_in_a_dictionary_is_shown() -> None:
    error = NoHostAvailable("long", {"127.0.0.1:9042": ConnectionRefusedError(111, "Connection refused")})
    assert explain(error) == "127.0.0.1:9042: [Errno 111] Connection refused"
