"""crypto.prices: the seed's columns and key, rows that keep coming, and the comparison that finds one that is gone."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sandbox import wait_for
from stream import MismatchError, Stream
from testinfra.host import Host


def test_columns_and_key(stream: Stream) -> None:
    columns = stream.cql(
        "SELECT column_name, type, kind, position, clustering_order FROM system_schema.columns"
        " WHERE keyspace_name = 'crypto' AND table_name = 'prices'"
    )
    assert {tuple(column) for column in columns} == {
        ("id", "text", "partition_key", 0, "none"),
        ("ts", "bigint", "clustering", 0, "desc"),
        ("name", "text", "regular", -1, "none"),
        ("price_usd", "double", "regular", -1, "none"),
        ("processing_time", "timestamp", "regular", -1, "none"),
    }


def test_keyspace(stream: Stream) -> None:
    (keyspace,) = stream.cql("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = 'crypto'")
    assert dict(keyspace.replication) == {
        "class": "org.apache.cassandra.locator.SimpleStrategy",
        "replication_factor": "1",
    }


def test_rows_keep_coming_for_every_coin(stream: Stream, coins: int) -> None:
    # Others are those that tests have sent.
    before = {(coin, ts) for coin, ts in stream.rows() if not coin.startswith("test-")}
    polled = {coin for coin, _ in before}

    def grown() -> bool:
        new = Counter(coin for coin, _ in stream.rows().keys() - before)
        return all(new[coin] >= 3 for coin in polled)

    assert len(polled) == coins
    wait_for(grown, "three more rows of each coin", 120)


def test_a_row_is_whole(stream: Stream) -> None:
    row = stream.newest()
    assert row.name == "Bitcoin"
    assert row.price_usd > 0
    assert 0 <= row.processing_time.timestamp() - row.ts / 1000 < 60
    assert abs(time.time() - row.ts / 1000) < 60


@pytest.fixture
def row(stream: Stream) -> Iterator[Any]:
    """A row that may be spoilt; afterwards it is what it was."""
    stream.compare()
    row = stream.newest()
    yield row
    stream.cql(
        "INSERT INTO crypto.prices (id, ts, name, price_usd, processing_time) VALUES (%s, %s, %s, %s, %s)",
        row.id,
        row.ts,
        row.name,
        row.price_usd,
        row.processing_time,
    )
    stream.compare()


def mismatch(stream: Stream) -> tuple[Any, ...]:
    with pytest.raises(MismatchError) as caught:
        stream.compare(limit=5)
    return caught.value.lost, caught.value.missing, caught.value.surplus, caught.value.changed


def test_the_comparison_finds_a_row_that_is_gone(stream: Stream, row: Any) -> None:
    """The negative controls of all tests that compare."""
    stream.cql("DELETE FROM crypto.prices WHERE id = %s AND ts = %s", row.id, row.ts)
    assert mismatch(stream) == ({}, {(row.id, row.ts)}, set(), set())


def test_the_comparison_finds_a_price_that_is_another(stream: Stream, row: Any) -> None:
    stream.cql("UPDATE crypto.prices SET price_usd = 0.5 WHERE id = %s AND ts = %s", row.id, row.ts)
    assert mismatch(stream) == ({}, set(), set(), {(row.id, row.ts)})


def test_the_comparison_finds_a_row_that_nobody_sent(stream: Stream, row: Any) -> None:
    stray = (row.id, row.ts + 1)
    stream.cql("INSERT INTO crypto.prices (id, ts, name, price_usd) VALUES (%s, %s, 'stray', 1.0)", *stray)
    assert mismatch(stream) == ({}, set(), {stray}, set())
    stream.cql("DELETE FROM crypto.prices WHERE id = %s AND ts = %s", *stray)


def test_the_comparison_finds_a_message_that_was_acknowledged_and_is_not_in_the_topic(stream: Stream, row: Any) -> None:
    page = stream.acknowledged()
    page[row.ts] += 1
    # The journal's word, read again, is the true one.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "acknowledged", lambda: page)
        assert mismatch(stream) == ({row.ts: 1}, set(), set(), set())


def test_a_repeated_or_older_write_changes_nothing(stream: Stream, row: Any) -> None:
    """A replay: the same key with another price, sent later but with the time of the price as its write time."""
    wrong = {"schema_version": 1, "id": row.id, "name": "x", "price_usd": 0.5, "ts": row.ts - 1}
    stream.cql("INSERT INTO crypto.prices (id, ts, name, price_usd) VALUES (%s, %s, 'newer', 2.0)", row.id, row.ts - 1)
    position = stream.send(json.dumps(wrong).encode())
    stream.wait_until_it_flows(time.time())
    found = stream.cql("SELECT name, price_usd FROM crypto.prices WHERE id = %s AND ts = %s", row.id, row.ts - 1)[0]
    assert tuple(found) == ("newer", 2.0), position
    stream.cql("UPDATE crypto.prices SET price_usd = 0.5 WHERE id = %s AND ts = %s", row.id, row.ts - 1)


def test_a_price_of_the_future_is_called_a_wrong_clock(operator: Host, stream: Stream) -> None:
    insert = (
        "INSERT INTO crypto.latest_prices (board, id, name, price_usd, ts) VALUES ('all', 'test-ahead', 'x', 1.0, %s)"
    )
    stream.cql(insert, int((time.time() + 9 * 3600) * 1000))
    try:
        report = json.loads(operator.check_output("crypto-check --json"))
        assert report["ok"]
        assert [warning for warning in report["warnings"] if "clock" in warning and "9.0 h ahead" in warning]
        (table,) = [hop for hop in report["hops"] if hop["name"] == "table"]
        assert "at 1 USD" not in table["found"]
    finally:
        stream.cql("DELETE FROM crypto.latest_prices WHERE board = 'all' AND id = 'test-ahead'")
