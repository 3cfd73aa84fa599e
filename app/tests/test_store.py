from __future__ import annotations

import itertools
import operator as operator_module
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import cassandra.cluster
import cassandra.concurrent
import pytest
from cassandra.cluster import NoHostAvailable
from crypto_stream.config import Cassandra
from crypto_stream.store import (
    SESSION_HOPELESS_SECONDS,
    SHOWN_BYTES,
    Board,
    Candle,
    LatestPrice,
    MarketPoint,
    Store,
    StoreError,
    explain,
    months,
    open_session,
)

NOW = 1_700_000_000_000


class FakeSession:
    """A table in memory that does what the queries of `Store` say, or raises `error`."""

    def __init__(self, *rows: Row) -> None:
        self.rows: list[Any] = sorted(rows, key=lambda row: (row.id, -row.ts))
        self.error: Exception | None = None
        self.prepared: list[str] = []
        self.closed = 0
        self.cluster = self

    def shutdown(self) -> None:
        self.closed += 1

    def prepare(self, query: str) -> str:
        self.prepared.append(query)
        return query

    def execute(self, query: str, values: tuple[object, ...]) -> list[Any]:
        assert query in self.prepared
        if self.error is not None:
            raise self.error
        arguments = list(values)
        rows = self.rows
        for condition in re.findall(r"(\w+ (?:=|>=|<=) \?)", query):
            value: Any = arguments.pop(0)
            column, operator, _ = condition.split()
            compare = {"=": operator_module.eq, ">=": operator_module.ge, "<=": operator_module.le}[operator]
            rows = [row for row in rows if compare(getattr(row, column), value)]
        if query.endswith("LIMIT 1"):
            rows = rows[:1]
        limit: Any = arguments.pop(0) if query.endswith("LIMIT ?") else None
        assert arguments == []
        return rows[:limit]


@dataclass(frozen=True)
class Row:
    id: str
    ts: int
    name: str | None = "name"
    price_usd: float | None = 1.0
    rank: int | None = None
    symbol: str | None = None
    volume24_usd: float | None = None
    market_cap_usd: float | None = None
    percent_change_1h: float | None = None
    percent_change_24h: float | None = None
    percent_change_7d: float | None = None
    board: str = "all"


def store_of(*rows: Row) -> Store:
    return Store(Cassandra(), lambda _: FakeSession(*rows))


def test_the_board_is_one_read_by_rank() -> None:
    session = FakeSession(
        Row("7", NOW - 7),
        Row("80", NOW - 5, "Ether", 2.5, rank=2),
        Row("90", NOW - 9, "Bitcoin", 1.5, 1, "BTC", 3.0, 4.0, 0.1, -0.2, 0.3),
    )
    board = Store(Cassandra(keyspace="other"), lambda _: session).board(NOW, 90)
    assert [row.id for row in board.rows] == ["90", "80", "7"]
    assert board.rows[0] == LatestPrice("90", "Bitcoin", 1.5, NOW - 9, "BTC", 1, 3.0, 4.0, 0.1, -0.2, 0.3)
    assert (board.ahead, board.left, board.newest_ts) == ([], [], NOW - 5)
    (query,) = session.prepared
    assert "FROM other.latest_prices" in query


def test_coins_that_polls_no_longer_bring_have_left_but_not_when_everything_is_old() -> None:
    rows = Row("90", NOW - 1000), Row("80", NOW - 91_000), Row("7", NOW - 91_001)
    board = store_of(*rows).board(NOW, 90)
    assert ([row.id for row in board.rows], [row.id for row in board.left]) == (["80", "90"], ["7"])
    assert len(store_of(*rows).board(NOW + 10**9, 90).rows) == 2


def test_a_price_of_the_future_says_nothing_about_how_fresh_the_board_is() -> None:
    far, near, now = Row("1", NOW + 9 * 3_600_000), Row("2", NOW + 4000), Row("3", NOW - 60_000)
    board = store_of(far, near, now).board(NOW, 90)
    assert [row.id for row in board.rows] == ["1", "2", "3"]
    assert [row.id for row in board.ahead] == ["1"]
    assert board.newest_ts == NOW + 4000
    assert store_of(far).board(NOW, 90).newest_ts is None


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
    ],
)
def test_a_row_that_no_stream_job_wrote_is_left_out(row: Row) -> None:
    assert [found.id for found in store_of(row, Row("80", NOW)).board(NOW, 90).rows] == ["80"]


def test_what_cannot_be_shown_is_as_good_as_not_said() -> None:
    row = Row("90", NOW, market_cap_usd=float("nan"), volume24_usd=float("-inf"), symbol="\x1b")
    (found,) = store_of(row).board(NOW, 90).rows
    assert (found.market_cap_usd, found.volume24_usd, found.symbol) == (None, None, None)


def test_names_are_fit_to_be_shown() -> None:
    board = store_of(Row("90", NOW, "Bit\x1b[2Jcoin\n"), Row("8\x1b0", NOW, "\x1b")).board(NOW, 90)
    assert {row.name for row in board.rows} == {"Bit[2Jcoin", "80"}


def test_the_newest_price_of_a_coin_is_none_of_the_future() -> None:
    store = store_of(Row("90", NOW + 60_000), Row("90", NOW - 5), Row("90", NOW - 10))
    assert store.newest_ts("90", NOW) == NOW - 5
    assert store.newest_ts("80", NOW) is None


def test_a_query_is_prepared_once() -> None:
    session = FakeSession()
    store = Store(Cassandra(), lambda _: session)
    store.board(NOW, 90)
    store.board(NOW, 90)
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
        store.board(NOW, 90)
    assert store.board(NOW, 90) == Board([])
    assert store.board(NOW, 90) == Board([])
    assert len(tries) == 2


def test_many_threads_share_one_session() -> None:
    sessions: list[FakeSession] = []

    def connect(_: Cassandra) -> FakeSession:
        time.sleep(0.05)
        sessions.append(FakeSession())
        return sessions[-1]

    store = Store(Cassandra(), connect)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: store.board(NOW, 90), range(6)))
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
            store.board(NOW, 90)
    assert store.board(NOW, 90) == Board([])
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
        store.board(NOW, 90)
    assert str(caught.value) == "ValueError: first line"
    session.error = None
    assert store.board(NOW, 90) == Board([])


def test_what_the_driver_hides_in_a_dictionary_is_shown() -> None:
    error = NoHostAvailable("long", {"127.0.0.1:9042": ConnectionRefusedError(111, "Connection refused")})
    assert explain(error) == "127.0.0.1:9042: [Errno 111] Connection refused"


# ---- candles, the market, what was set aside


NOVEMBER = 1_700_000_000_000  # the 14th, 22:13:20
HOUR = 3_600_000


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """Rows in the order in which Cassandra keeps them; several queries at once, one after the other."""

    def execute(session: FakeSession, query: str, values: Any, concurrency: int) -> list[tuple[bool, Any]]:
        return [(True, session.execute(query, one)) for one in values]

    monkeypatch.setattr(cassandra.concurrent, "execute_concurrent_with_args", execute)
    return FakeSession()


def a_candle(ts: int, **changes: Any) -> Any:
    moment = datetime.fromtimestamp(ts / 1000, tz=timezone.utc)
    values = {"id": "90", "interval": "1h", "month": f"{moment:%Y-%m}", "start": Naive.of(ts)}
    figures = {"open": 1.0, "high": 4.0, "low": 0.5, "close": 2.0, "samples": 7, "volume24_usd": 9.0}
    return SimpleNamespace(**values | figures | changes)


class Naive(datetime):
    """A time as the driver gives it, UTC without saying so, which compares with what it takes."""

    @classmethod
    def of(cls, ts: int) -> Naive:
        return cls.fromtimestamp(ts / 1000, tz=timezone.utc).replace(tzinfo=None)

    def __ge__(self, other: datetime) -> bool:  # type: ignore[override]
        return self.replace(tzinfo=timezone.utc).timestamp() >= other.timestamp()

    def __le__(self, other: datetime) -> bool:  # type: ignore[override]
        return self.replace(tzinfo=timezone.utc).timestamp() <= other.timestamp()


def test_candles_are_oldest_first_across_months(tables: FakeSession) -> None:
    first_of_month = 1_701_388_800_000
    starts = [first_of_month + HOUR, first_of_month, first_of_month - HOUR, first_of_month - 5 * HOUR]
    tables.rows = [a_candle(ts) for ts in starts]
    store = Store(Cassandra(), lambda _: tables)
    found = store.candles("90", "1h", first_of_month - 2 * HOUR, first_of_month + HOUR)
    assert [candle.start_ts for candle in found] == [starts[2], starts[1], starts[0]]
    assert found[0] == Candle(starts[2], 1.0, 4.0, 0.5, 2.0, 7, 9.0)
    assert store.candles("80", "1h", first_of_month - 2 * HOUR, first_of_month) == []
    assert store.candles("90", "1d", first_of_month - 2 * HOUR, first_of_month) == []


def test_candles_that_no_stream_job_wrote_are_left_out(tables: FakeSession) -> None:
    tables.rows = [
        a_candle(NOVEMBER, open=None),
        a_candle(NOVEMBER, high=float("nan")),
        a_candle(NOVEMBER, low=-1.0),
        a_candle(NOVEMBER, volume24_usd=float("inf"), samples=None),
    ]
    (found,) = Store(Cassandra(), lambda _: tables).candles("90", "1h", NOVEMBER - HOUR, NOVEMBER)
    assert (found.samples, found.volume24_usd) == (0, None)


def test_hourly_prices_of_several_coins(tables: FakeSession) -> None:
    tables.rows = [
        a_candle(NOVEMBER, close=3.0),
        a_candle(NOVEMBER - HOUR, close=None),
        a_candle(NOVEMBER - 2 * HOUR, close=1.0),
        a_candle(NOVEMBER, id="80", close=9.0),
        a_candle(NOVEMBER, interval="1m", close=5.0),
    ]
    closes = Store(Cassandra(), lambda _: tables).closes(["90", "80", "7"], NOVEMBER - 9 * HOUR, NOVEMBER)
    assert closes == {"90": [1.0, 3.0], "80": [9.0], "7": []}


def test_the_newest_state_of_the_market_that_can_be_shown(tables: FakeSession) -> None:
    def point(ts: int, **changes: Any) -> Any:
        values: dict[str, Any] = dict.fromkeys(("btc_d", "eth_d", "mcap_change", "volume_change", "rising", "falling"))
        month = f"{datetime.fromtimestamp(ts / 1000, tz=timezone.utc):%Y-%m}"
        return SimpleNamespace(
            **values | {"month": month, "ts": ts, "total_mcap_usd": 1.0, "total_volume_usd": 2.0} | changes
        )

    store = Store(Cassandra(), lambda _: tables)
    assert store.market(NOVEMBER) is None
    tables.rows = [point(NOVEMBER + 60_000), point(NOVEMBER, btc_d=float("nan"), rising=7), point(NOVEMBER - 5)]
    assert store.market(NOVEMBER) == MarketPoint(NOVEMBER, 1.0, 2.0, None, None, None, None, rising=7)
    # In the first minutes of a month, the last word is of the one before.
    first_of_month = 1_701_388_800_000
    tables.rows = [point(first_of_month - 5)]
    found = store.market(first_of_month + 5)
    assert found is not None
    assert found.ts == first_of_month - 5
    tables.rows = [point(NOVEMBER, total_mcap_usd=float("nan"))]
    assert store.market(NOVEMBER) is None


def test_what_was_set_aside_lately_newest_first(tables: FakeSession) -> None:
    def letter(offset: int, ago: int, **changes: Any) -> Any:
        ts = NOVEMBER - ago
        values = {"topic": "a", "partition": 0, "offset": offset, "value": b"x\xff\x1b", "reason": "why\x1b"}
        day = datetime.fromtimestamp(ts / 1000, tz=timezone.utc).date()
        return SimpleNamespace(**values | {"day": day, "processing_time": Naive.of(ts)} | changes)

    tables.rows = [
        letter(1, 24 * HOUR),
        letter(2, 0, value=b"y" * 1000),
        letter(3, 5, value=None, reason=None),
        letter(4, 48 * HOUR),
        letter(5, 5, topic="other"),
    ]
    found = Store(Cassandra(), lambda _: tables).dead_letters(["a"], NOVEMBER)
    assert [letter.offset for letter in found] == [2, 3, 1]
    assert len(found[0].value) == SHOWN_BYTES
    assert (found[2].value, found[2].reason, found[1].value) == ("x\ufffd", "why", "")


@pytest.mark.parametrize("many", [True, False])
def test_errors_of_many_queries_are_the_stores_own(tables: FakeSession, many: bool) -> None:
    tables.error = ValueError("first line\nsecond")
    store = Store(Cassandra(), lambda _: tables)
    with pytest.raises(StoreError, match="ValueError: first line"):
        store.closes(["90"], 0, NOVEMBER) if many else store.market(NOVEMBER)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (NOVEMBER, NOVEMBER, ["2023-11"]),
        (NOVEMBER, 1_706_745_600_000, ["2023-11", "2023-12", "2024-01", "2024-02"]),
        (-5, 5, ["1970-01"]),
    ],
)
def test_months(since: int, until: int, expected: list[str]) -> None:
    assert months(since, until) == expected
