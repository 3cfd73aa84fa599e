from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import cassandra.concurrent
import pytest
from cassandra import InvalidRequest, Unavailable
from cassandra.cluster import NoHostAvailable
from cassandra.query import UNSET_VALUE
from crypto_stream import sinks
from crypto_stream.config import Settings
from crypto_stream.tables import CANDLES, LATEST_PRICES, PRICES
from pyspark.sql import Row, SparkSession

MOMENT = datetime(2026, 1, 1, 12, 0, 0)  # noqa: DTZ001 - as Spark gives it, in the time zone of the process


def row(number: int, **changes: Any) -> Row:
    values = {"id": "90", "name": "Bitcoin", "price_usd": 1.5, "ts": 1_700_000_000_000 + number}
    position = {"topic": "crypto.prices", "partition": 2, "offset": number, "value": b"raw", "timestamp": MOMENT}
    times = {"processing_time": MOMENT, "written_at": 1_700_000_000_000_000 + number, "ttl_seconds": 100 + number}
    return Row(**position, **values | changes, **times)


class FakeSession:
    """Prepares and remembers; refuses prices whose id is "bad"."""

    def __init__(self) -> None:
        self.prices: list[list[Any]] = []
        self.dead: list[list[Any]] = []

    def prepare(self, query: str) -> str:
        return query

    def execute(self, query: str, values: list[Any]) -> None:
        assert ".dead_letters " in query
        assert query.count("?") == len(values)
        self.dead.append(values)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    session = FakeSession()

    def execute(_: FakeSession, query: str, values: list[list[Any]], **options: Any) -> list[tuple[bool, Any]]:
        assert options["raise_on_first_error"] is False
        assert query.endswith("USING TIMESTAMP ? AND TTL ?")
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
    assert sinks._insert(session, iter(rows), PRICES, Settings()) == (2499, 1)
    moment = MOMENT.astimezone()
    assert session.prices[0] == ["90", "Bitcoin", 1.5, 1_700_000_000_000, moment, 1_700_000_000_000_000, 100]
    assert session.prices[0][4].tzinfo is not None
    reason = "Cassandra refused it: InvalidRequest: Key may not be empty"
    came = round(moment.timestamp() * 1_000_000)
    day = moment.astimezone(timezone.utc).date()
    assert session.dead == [["crypto.prices", day, 2, 1500, b"raw", reason, moment, came, 30 * 86_400]]


@pytest.mark.parametrize("what", ["away", "busy"])
def test_what_another_try_may_change_is_no_dead_letter(session: FakeSession, what: str) -> None:
    with pytest.raises((NoHostAvailable, Unavailable)):
        sinks._insert(session, iter([row(1), row(2, id=what)]), PRICES, Settings())
    assert session.dead == []


def test_a_table_that_is_not_what_it_must_be_is_no_fault_of_a_row(session: FakeSession) -> None:
    def prepare(query: str) -> str:
        raise InvalidRequest("Undefined column name price_usd")

    session.prepare = prepare  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest):
        sinks._insert(session, iter([row(1)]), PRICES, Settings())
    assert session.dead == []


def test_null_takes_the_place_of_a_value_only_where_the_newest_word_counts() -> None:
    times = {"processing_time": MOMENT, "written_at": 1, "ttl_seconds": 5}
    board = dict.fromkeys(LATEST_PRICES.columns, None) | {"id": "90"} | times
    assert sinks._values(board, LATEST_PRICES).count(None) == len(LATEST_PRICES.columns) - 2
    candle = dict.fromkeys(CANDLES.columns, None) | {"id": "90"} | times
    assert sinks._values(candle, CANDLES).count(UNSET_VALUE) == len(CANDLES.columns) - 2


def test_a_refused_row_that_is_no_message_stops_the_batch(session: FakeSession) -> None:
    candle = Row(**dict.fromkeys(CANDLES.columns, None) | {"id": "bad"}, written_at=1, ttl_seconds=5)
    with pytest.raises(InvalidRequest):
        sinks._insert(session, iter([candle]), CANDLES, Settings())


def test_a_row_lives_no_longer_than_it_would_have_when_it_was_new(spark: SparkSession) -> None:
    now, day = time.time_ns() // 1_000_000, 86_400_000
    rows = spark.createDataFrame([(now,), (now - 10 * day,), (now - 31 * day,), (now + day,)], "born_at long")
    living = sinks.living(rows, PRICES, Settings(retention={"prices_days": 30})).collect()
    assert [round(row.ttl_seconds / 86_400, 2) for row in living] == [30, 20, 30]


def test_only_the_newest_of_each_coin_goes_on_the_board(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [("all", "90", 1, 5.0), ("all", "90", 3, None), ("all", "80", 2, 7.0)],
        "board string, id string, written_at long, price_usd double",
    )
    newest = {row.id: (row.written_at, row.price_usd) for row in sinks.newest(rows, LATEST_PRICES).collect()}
    assert newest == {"90": (3, None), "80": (2, 7.0)}
