"""crypto.prices: the seed's columns and key, rows that keep coming, and the comparison that finds one that is gone."""

from __future__ import annotations

import time

import pytest
from sandbox import wait_for
from stream import MismatchError, Stream


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


def test_rows_keep_coming_for_every_coin(stream: Stream) -> None:
    before = stream.rows()

    def grown() -> bool:
        new = [coin for coin, _ in stream.rows() - before]
        return all(new.count(coin) >= 3 for coin, _ in before)

    assert len({coin for coin, _ in before}) == 100
    wait_for(grown, "three more rows of each coin", 120)


def test_a_row_is_whole(stream: Stream) -> None:
    row = stream.newest()
    assert row.name == "Bitcoin"
    assert row.price_usd > 0
    assert 0 <= row.processing_time.timestamp() - row.ts / 1000 < 60
    assert abs(time.time() - row.ts / 1000) < 60


def test_the_comparison_finds_one_row_that_is_gone(stream: Stream) -> None:
    """The negative control of all tests that compare."""
    stream.compare()
    row = stream.newest()
    stream.cql("DELETE FROM crypto.prices WHERE id = %s AND ts = %s", row.id, row.ts)
    try:
        with pytest.raises(MismatchError) as caught:
            stream.compare(limit=5)
    finally:
        stream.cql(
            "INSERT INTO crypto.prices (id, ts, name, price_usd, processing_time) VALUES (%s, %s, %s, %s, %s)",
            row.id,
            row.ts,
            row.name,
            row.price_usd,
            row.processing_time,
        )
    assert (caught.value.lost, caught.value.missing, caught.value.surplus) == ({}, {(row.id, row.ts)}, set())
    stream.compare()
