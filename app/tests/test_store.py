from __future__ import annotations

import itertools
import operator as operator_module
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cassandra.cluster
import pytest
from cassandra.cluster import NoHostAvailable
from crypto_stream.config import Cassandra
from crypto_stream.store import (
    SESSION_HOPELESS_SECONDS,
    Board,
    LatestPrice,
    PricePoint,
    Store,
    StoreError,
    explain,
    open_session,
)

NOW = 1_700_000_000_000


class FakeSession:
    """A table in memory that does what the queries of `Store` say, or raises `error`."""

    def __init__(self, *rows: Row) -> None:
        self.rows = sorted(rows, key=lambda row: (row.id, -row.ts))
        self.error: Exception | None = None
        self.prepared: list[str] = []
        self.closed = 0
        self.cluster = self

    def shutdown(self) -> None:
        self.closed += 1

    def prepare(self, query: str) -> str:
        self.prepared.append(query)
        return query

    def execute(self, query: str, values: tuple[object, ...]) -> list[Row]:
        assert query in self.prepared
        if self.error is not None:
            raise self.error
        arguments = list(values)
        rows = self.rows
        for condition in re.findall(r"(id = \?|ts >= \?|ts <= \?)", query):
            value: Any = arguments.pop(0)
            column, operator, _ = condition.split()
            compare = {"=": operator_module.eq, ">=": operator_module.ge, "<=": operator_module.le}[operator]
            rows = [row for row in rows if compare(getattr(row, column), value)]
        if "PER PARTITION LIMIT 1" in query:
            rows = [next(row for row in rows if row.id == coin) for coin in sorted({row.id for row in rows})]
        limit: Any = arguments.pop(0) if query.endswith("LIMIT ?") else 1
        assert arguments == []
        return rows[:limit]


@dataclass(frozen=True)
class Row:
    id: str
    ts: int
    name: str | None = "name"
    price_usd: float | None = 1.0


def store_of(*rows: Row) -> Store:
    return Store(Cassandra(), lambda _: FakeSession(*rows))


def test_the_board_has_the_newest_price_of_each_coin() -> None:
    session = FakeSession(Row("90", NOW - 5, "Bitcoin", 1.5), Row("90", NOW - 10, "Bitcoin", 2.5), Row("80", NOW - 7))
    board = Store(Cassandra(keyspace="other"), lambda _: session).board(NOW)
    assert board == Board([LatestPrice("80", "name", 1.0, NOW - 7), LatestPrice("90", "Bitcoin", 1.5, NOW - 5)], [])
    assert "FROM other.prices PER PARTITION LIMIT 1" in session.prepared[0]


def test_a_board_of_some_coins_or_of_so_many() -> None:
    store = store_of(Row("90", NOW - 5), Row("80", NOW - 7), Row("2", NOW - 9))
    assert [row.id for row in store.board(NOW, ["90", "7", "2"]).rows] == ["90", "2"]
    assert len(store.board(NOW, limit=2).rows) == 2


def test_a_price_of_the_future_is_no_news_and_the_one_before_it_counts() -> None:
    ahead, near, before = Row("90", NOW + 9 * 3_600_000), Row("90", NOW + 4000), Row("90", NOW - 60_000)
    for rows in (None, ["90"]):
        assert store_of(ahead, near, before).board(NOW, rows).rows == [LatestPrice("90", "name", 1.0, NOW + 4000)]
        board = store_of(ahead, before).board(NOW, rows)
        assert board.rows == [LatestPrice("90", "name", 1.0, NOW - 60_000)]
        assert board.ahead == [LatestPrice("90", "name", 1.0, ahead.ts)]
    assert store_of(ahead).board(NOW) == Board([], [LatestPrice("90", "name", 1.0, ahead.ts)])


@pytest.mark.parametrize(
    "row",
    [
        Row("90", NOW, None),
        Row("90", NOW, "name", None),
        Row("90", NOW, "name", float("nan")),
        Row("90", NOW, "name", float("inf")),
        Row("90", NOW, "name", -1.0),
        Row("90", 5),
        Row("90", -(2**63)),
        Row("90", 2**63 - 1),
        Row("90", 253_402_300_799_000),
    ],
)
def test_a_row_that_no_stream_job_wrote_is_left_out(row: Row) -> None:
    assert [found.id for found in store_of(row, Row("80", NOW)).board(NOW).rows] == ["80"]


def test_names_are_fit_to_be_shown() -> None:
    board = store_of(Row("90", NOW, "Bit\x1b[2Jcoin\n"), Row("8\x1b0", NOW, "\x1b")).board(NOW)
    assert {row.name for row in board.rows} == {"Bit[2Jcoin", "80"}


def test_history_is_oldest_first_between_two_times_and_the_newest_of_many() -> None:
    store = store_of(*(Row("90", ts, price_usd=float(ts)) for ts in (1, 2, 3, 4, 5)), Row("80", 3))
    assert store.history("90", 2, 4) == [PricePoint(2, 2.0), PricePoint(3, 3.0), PricePoint(4, 4.0)]
    assert store.history("90", 0, 9, limit=2) == [PricePoint(4, 4.0), PricePoint(5, 5.0)]


def test_a_query_is_prepared_once() -> None:
    session = FakeSession()
    store = Store(Cassandra(), lambda _: session)
    store.board(NOW)
    store.board(NOW)
    assert len(session.prepared) == 1


def test_it_connects_late_and_tries_again() -> None:
    tries: list[int] = []

    def connect(_: Cassandra) -> FakeSession:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("refused")
        return FakeSession()

    store = Store(Cassandra(), connect)
    assert tries == []
    with pytest.raises(StoreError, match="OSError: refused"):
        store.board(NOW)
    assert store.board(NOW) == Board([], [])
    assert store.board(NOW) == Board([], [])
    assert len(tries) == 2


def test_many_threads_share_one_session() -> None:
    sessions: list[FakeSession] = []

    def connect(_: Cassandra) -> FakeSession:
        time.sleep(0.05)
        sessions.append(FakeSession())
        return sessions[-1]

    store = Store(Cassandra(), connect)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: store.board(NOW), range(6)))
    assert len(sessions) == 1


def test_a_session_that_answers_nothing_for_long_is_given_up() -> None:
    """Whatever the driver does: it may have given up to look for the node."""
    now = [0.0]
    sessions: list[FakeSession] = []

    def connect(_: Cassandra) -> FakeSession:
        sessions.append(FakeSession())
        sessions[-1].error = OSError("gone") if len(sessions) == 1 else None
        return sessions[-1]

    store = Store(Cassandra(), connect, clock=lambda: now[0])
    for moment in (0, SESSION_HOPELESS_SECONDS, SESSION_HOPELESS_SECONDS + 1):
        now[0] = moment
        with pytest.raises(StoreError):
            store.board(NOW)
    assert store.board(NOW) == Board([], [])
    assert [session.closed for session in sessions] == [1, 0]


def test_the_driver_never_gives_up_to_look_for_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    class FakeCluster:
        def __init__(self, *_: object, **options: Any) -> None:
            made.update(options)

        def connect(self) -> None:
            raise OSError("refused")

        def shutdown(self) -> None:
            made["closed"] = True

    monkeypatch.setattr(cassandra.cluster, "Cluster", FakeCluster)
    with pytest.raises(OSError, match="refused"):
        open_session(Cassandra())
    delays = list(itertools.islice(made["reconnection_policy"].new_schedule(), 1000))
    assert len(delays) == 1000
    assert max(delays) <= 6
    assert made["closed"]


def test_errors_of_a_query_are_the_stores_own() -> None:
    session = FakeSession()
    store = Store(Cassandra(), lambda _: session)
    session.error = ValueError("first line\nsecond line")
    with pytest.raises(StoreError) as caught:
        store.board(NOW)
    assert str(caught.value) == "ValueError: first line"
    session.error = None
    assert store.board(NOW) == Board([], [])


def test_what_the_driver_hides_in_a_dictionary_is_shown() -> None:
    error = NoHostAvailable("long", {"127.0.0.1:9042": ConnectionRefusedError(111, "Connection refused")})
    assert explain(error) == "127.0.0.1:9042: [Errno 111] Connection refused"
