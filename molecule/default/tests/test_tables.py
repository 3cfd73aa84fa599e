"""All tables, against what plain Python makes of the topics; and a replay that repairs them."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from typing import Any

import oracle
import pytest
from sandbox import events, process, wait_for
from stream import TOO_LATE, Stream
from testinfra.host import Host

LATENESS_SECONDS = 75


def price(coin: str, ts: int, usd: float, **more: Any) -> bytes:
    return json.dumps({"schema_version": 1, "id": coin, "name": "Test", "price_usd": usd, "ts": ts} | more).encode()


def test_every_table_is_what_plain_python_makes_of_the_topics(stream: Stream) -> None:
    stream.compare_every_table()


def test_candles_can_be_seen_while_they_form(stream: Stream) -> None:
    def day() -> Any:
        start = int(time.time()) // 86_400 * 86_400_000
        return stream.candles().get(("90", "1d", start))

    first = wait_for(day, "today's candle", 60)
    wait_for(lambda: day().samples > first.samples, "another sample in it", 60)


def test_out_of_order_repeated_and_future_prices_are_in_their_candles_once(stream: Stream) -> None:
    now = int(time.time() * 1000)
    moments = [now - 20_000, now - 40_000, now - 20_000, now + 1_800_000, now - 30_000]
    for ts in moments:
        stream.send(price("test-order", ts, float(ts % 1000)))
    stream.compare_every_table()
    # The one of the future has given way to true ones on the board.
    assert stream.board()["test-order"].ts == now - 20_000 or stream.board()["test-order"].ts == now + 1_800_000
    stream.send(price("test-order", int(time.time() * 1000), 5.0))
    wait_for(lambda: stream.board()["test-order"].price_usd == 5, "the true price on the board", 60)
    stream.compare_every_table()


def test_what_is_older_or_becomes_null_on_the_board(stream: Stream) -> None:
    now = int(time.time() * 1000)
    stream.send(price("test-board", now, 2.0, symbol="T", rank=7, market_cap_usd=9.0))
    wait_for(lambda: stream.board()["test-board"].rank == 7, "the row", 60)
    stream.send(price("test-board", now + 1, 3.0))
    stream.send(price("test-board", now - 1, 1.0, symbol="OLD", rank=8))
    wait_for(lambda: stream.board()["test-board"].price_usd == 3, "the newer row", 60)
    stream.compare_every_table()
    row = stream.board()["test-board"]
    assert (row.symbol, row.rank, row.market_cap_usd) == (None, None, None)


def test_what_comes_too_late_is_set_aside_and_its_price_written(host: Host, stream: Stream) -> None:
    since = time.time()
    ts = int((since - 3 * LATENESS_SECONDS) * 1000)
    position = stream.send(price("test-late", ts, 1.0))
    letter = wait_for(lambda: stream.late().get(position), "a row in crypto.dead_letters", 120)
    assert letter.reason.startswith(TOO_LATE)
    assert ("test-late", ts) in stream.rows()
    wait_for(
        lambda: [event for event in events(host, "crypto-stream-job", "batch_written", since) if event.get("late")],
        "a line in the journal of the job",
        60,
    )
    stream.compare_every_table()


@pytest.fixture
def damage(stream: Stream) -> int:
    """Rows of every kind are gone; returns the time, in epoch milliseconds, of a minute that is over."""
    stream.compare_every_table()
    now = int(time.time() * 1000)
    start = (now - 3 * LATENESS_SECONDS * 1000) // 60_000 * 60_000
    day = time.strftime("%Y-%m-%d", time.gmtime())
    stream.cql("DELETE FROM crypto.prices WHERE id = '90'")
    stream.cql("DELETE FROM crypto.latest_prices WHERE board = 'all' AND id = 'test-board'")
    over = datetime.fromtimestamp(start / 1000, tz=timezone.utc)
    stream.cql(
        "DELETE FROM crypto.candles WHERE id = '90' AND interval = '1m' AND month = %s AND start <= %s", day[:7], over
    )
    stream.cql("DELETE FROM crypto.market_global WHERE month = %s", day[:7])
    # What came too late is known by its letter alone.
    (partition, offset), letter = next(iter(stream.dead_letters().items()))
    stream.cql(
        "DELETE FROM crypto.dead_letters WHERE topic = %s AND day = %s AND partition = %s AND offset = %s",
        letter.topic,
        letter.day,
        partition,
        offset,
    )
    return start


def test_a_replay_repairs_what_was_deleted_and_changes_nothing_the_second_time(
    operator: Host, stream: Stream, damage: int
) -> None:
    day = time.strftime("%Y-%m-%d", time.gmtime(damage / 1000))
    output = operator.check_output("crypto-replay --from %s", day)
    for table in ("prices", "latest_prices", "candles", "market_global", "dead_letters"):
        assert f"\n{table}: " in output, output
    # What was too late for the job is in its candles now; the minute that formed meanwhile is the job's own matter.
    assert ("90", "1m", damage) in stream.candles()
    late = {row.value for row in stream.late().values()}
    assert all(("test-late", "1m", json.loads(value)["ts"] // 60_000 * 60_000) in stream.candles() for value in late)
    stream.compare_every_table()
    # Those that are over.
    first = {key: one for key, one in stream.candles().items() if key[2] + oracle.SECONDS[key[1]] * 1000 < damage}
    assert first
    rows = stream.rows()
    assert operator.run("crypto-replay --from %s", day).rc == 0
    again, rows_again = stream.candles(), stream.rows()
    assert {key: again[key] for key in first} == first
    assert {key: rows_again[key] for key in rows} == rows
    # Nothing lives longer by it.
    (left,) = stream.cql("SELECT MAX(TTL(price_usd)) AS seconds FROM crypto.prices WHERE id = '90'")
    assert left.seconds <= 30 * 86_400


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "--from"),
        ("--from yesterday", "is no time like"),
        ("--from 2999-01-01", "is ahead of now"),
        ("--from 2026-01-02 --to 2026-01-01", "is not after"),
    ],
)
def test_a_replay_of_what_makes_no_sense_is_refused(operator: Host, arguments: str, words: str) -> None:
    run = operator.run(f"crypto-replay {arguments}")
    assert run.rc == 2
    # Spark hands on both as one.
    assert words in run.stdout
    assert "Traceback" not in run.stdout


@pytest.mark.disturbs
def test_what_came_too_late_is_set_aside_although_the_job_was_killed_before_it_could(
    host: Host, stream: Stream
) -> None:
    partition, offset = stream.send(price("test-late", int((time.time() - 3 * LATENESS_SECONDS) * 1000), 2.0))
    # Up to where the last batch went that has ended. The next one is the first that can tell of it.
    ended = "cd /var/lib/crypto-stream/checkpoints/candles && sed -n 3p offsets/$(ls commits | sort -n | tail -n 1)"
    wait_for(
        lambda: json.loads(host.check_output(ended))["crypto.prices"][str(partition)] > offset,
        "the end of its batch",
        120,
    )
    host.check_output("kill -9 %s", process(host, "crypto-stream-job"))
    assert (partition, offset) not in stream.late()
    stream.wait_until_all_is_well(time.time())
    wait_for(lambda: stream.late().get((partition, offset)), "a row in crypto.dead_letters", 120)
    stream.compare_every_table()


@pytest.mark.disturbs
def test_a_host_of_the_version_before_gets_the_tables_of_today_and_keeps_its_rows(host: Host, stream: Stream) -> None:
    rows, letters = stream.rows(), stream.dead_letters()
    assert letters
    host.check_output("systemctl stop crypto-stream-job")
    checkpoints = "/var/lib/crypto-stream/checkpoints"
    for table in ("latest_prices", "candles", "market_global", "dead_letters"):
        stream.cql(f"DROP TABLE crypto.{table}")
        host.check_output("rm -r %s", f"{checkpoints}/{table}")
    stream.cql("ALTER TABLE crypto.prices WITH default_time_to_live = 0")
    stream.cql(
        "CREATE TABLE crypto.dead_letters (topic text, partition int, offset bigint, value blob, reason text,"
        " processing_time timestamp, PRIMARY KEY ((topic, partition), offset))"
    )
    old = ("crypto.prices", 99, 7, b"x", "of the version before", datetime.now(timezone.utc))
    stream.cql(
        "INSERT INTO crypto.dead_letters (topic, partition, offset, value, reason, processing_time)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        *old,
    )
    host.check_output("systemctl restart crypto-schema")
    host.check_output("systemctl start crypto-stream-job")
    stream.wait_until_all_is_well(time.time())
    kept = stream.dead_letters()[99, 7]
    assert (kept.value, kept.reason) == (b"x", "of the version before")
    (options,) = stream.cql(
        "SELECT default_time_to_live AS life FROM system_schema.tables"
        " WHERE keyspace_name = 'crypto' AND table_name = 'prices'"
    )
    assert options.life == 30 * 86_400
    stream.compare_every_table()
    assert stream.rows().keys() >= rows.keys()
    assert stream.dead_letters().keys() >= letters.keys()
