from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from crypto_stream import replay
from crypto_stream.config import Settings
from crypto_stream.messages import PriceMessage, encode
from crypto_stream.queries import Query, queries
from crypto_stream.replay import Part, ReplayError, Span, check_held, how_far, moment, repaired, said, span
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import Row, SparkSession

DAY = 86_400_000
# Three o'clock of some day.
NOW = 1_700_017_200_000
MIDNIGHT = NOW // DAY * DAY
NAMES = {"prices": "crypto.prices", "market": "crypto.global"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-11-15", MIDNIGHT),
        ("2023-11-15T03:00", NOW),
        ("2023-11-15 03:00:00Z", NOW),
        ("2023-11-15T04:00+01:00", NOW),
    ],
)
def test_times_of_the_command_line(text: str, expected: int) -> None:
    assert moment(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2023-13-01", "1700000000", "2009-12-31"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        moment(text)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (NOW - 3_600_000, None, Span(MIDNIGHT, NOW)),
        (MIDNIGHT, NOW, Span(MIDNIGHT, NOW)),
        (MIDNIGHT - 1, MIDNIGHT, Span(MIDNIGHT - DAY, MIDNIGHT)),
        (MIDNIGHT - 5, MIDNIGHT - 3, Span(MIDNIGHT - DAY, MIDNIGHT)),
    ],
)
def test_a_replay_takes_whole_days_up_to_now(since: int, until: int | None, expected: Span) -> None:
    assert span(since, until, NOW) == expected


@pytest.mark.parametrize(("since", "until"), [(NOW + 1, None), (NOW - 5, NOW - 5), (NOW - 5, NOW - 6)])
def test_times_that_make_no_sense_are_refused(since: int, until: int | None) -> None:
    with pytest.raises(ReplayError):
        span(since, until, NOW)


@given(st.integers(NOW - 10 * DAY, NOW), st.integers(1, 10 * DAY))
def test_nothing_that_was_asked_for_is_left_out(since: int, more: int) -> None:
    found = span(since, since + more, NOW)
    assert found.start <= since
    assert found.stop >= min(NOW, since + more)
    assert found.start % DAY == 0


def test_a_time_that_the_topic_no_longer_holds_is_refused_with_the_first_one_that_it_holds() -> None:
    whole, cut = Part(0, 50), Part(10, 50, MIDNIGHT + 5_000)
    wanted, tomorrow = Span(MIDNIGHT, NOW), MIDNIGHT + DAY
    check_held({"prices": {0: whole, 1: whole}, "market": {0: whole}}, wanted, NOW, NAMES)
    check_held({"prices": {0: whole, 1: Part(10, 50, MIDNIGHT)}}, wanted, NOW, NAMES)
    # The one that has lost more.
    parts = {"prices": {0: Part(5, 50, MIDNIGHT + 1)}, "market": {0: whole, 1: cut}}
    with pytest.raises(ReplayError, match=r"crypto.global no longer holds .* at --from 2023-11-16T00:00:00Z"):
        check_held(parts, wanted, tomorrow, NAMES)
    with pytest.raises(ReplayError, match=r"crypto.global no longer holds .*\. It holds no whole day\.$"):
        check_held(parts, wanted, tomorrow - 1, NAMES)


class FakeConsumer:
    """One topic of each kind with a partition that has lost its first ten messages, and one that is empty."""

    def __init__(self, **options: Any) -> None:
        assert options["enable_auto_commit"] is False

    def partitions_for_topic(self, name: str) -> set[int] | None:
        return None if name == "gone" else {0, 1}

    def beginning_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return {at: 10 if at.partition == 0 else 0 for at in partitions}

    def end_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return {at: 90 if at.partition == 0 else 0 for at in partitions}

    def offsets_for_times(self, times: dict[Any, int]) -> dict[Any, Any]:
        found = {0: SimpleNamespace(offset=10, timestamp=777), MIDNIGHT - 3_600_000: SimpleNamespace(offset=40)}
        return {at: found[time] if at.partition == 0 else None for at, time in times.items()}

    def close(self, **_: object) -> None:
        pass


def test_what_is_read_begins_where_a_price_of_the_first_day_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kafka.KafkaConsumer", FakeConsumer)
    parts = replay.look(Settings(), Span(MIDNIGHT, NOW))
    assert parts["prices"] == parts["rejected"] == {0: Part(40, 90, 777), 1: Part(0, 0)}
    with pytest.raises(ReplayError, match="there is no topic gone"):
        replay.look(Settings(kafka={"market_topic": "gone"}), Span(MIDNIGHT, NOW))


def test_spark_reads_these_messages_and_no_others() -> None:
    calls: dict[str, Any] = {}

    class Reader:
        def format(self, _: str) -> Reader:
            return self

        def options(self, **options: str) -> Reader:
            calls.update(options)
            return self

        def option(self, name: str, value: Any) -> Reader:
            calls[name] = value
            return self

        def load(self) -> None:
            pass

    parts = {"prices": {0: Part(40, 90), 1: Part(7, 200_007)}}
    replay.read(SimpleNamespace(read=Reader()), "prices", parts, Settings())  # type: ignore[arg-type]
    assert json.loads(calls["startingOffsets"]) == {"crypto.prices": {"0": 40, "1": 7}}
    assert json.loads(calls["endingOffsets"]) == {"crypto.prices": {"0": 90, "1": 200_007}}
    assert calls["minPartitions"] == 10
    assert calls["failOnDataLoss"] == "true"


SCHEMA = "value binary, topic string, partition int, offset long, timestamp timestamp"
PRICES, LATEST, CANDLES, MARKET, LETTERS = queries(Settings())


def rows(spark: SparkSession, query: Query, wanted: Span, *times: int) -> list[Row]:
    """What a replay writes of prices with these times."""
    raw = [
        Row(
            value=encode(PriceMessage(id="90", name="Bitcoin", price_usd=1.0, ts=ts)),
            topic="crypto.prices",
            partition=0,
            offset=number,
            timestamp=datetime.fromtimestamp(ts / 1000, tz=timezone.utc),
        )
        for number, ts in enumerate(times)
    ]
    found = query.rows({"prices": spark.createDataFrame(raw, SCHEMA)})
    return repaired(found, query, wanted, NOW, Settings()).collect()


def test_prices_of_the_span_get_the_moment_of_the_replay_as_their_write_time(spark: SparkSession) -> None:
    wanted = Span(MIDNIGHT - DAY, MIDNIGHT)
    found = rows(spark, PRICES, wanted, MIDNIGHT - DAY - 1, MIDNIGHT - DAY, MIDNIGHT - 1, MIDNIGHT)
    assert [row.ts for row in found] == [MIDNIGHT - DAY, MIDNIGHT - 1]
    assert {row.written_at for row in found} == {NOW * 1000}


def test_of_what_is_current_the_newest_there_is_is_written_wherever_the_span_ends(spark: SparkSession) -> None:
    wanted = Span(MIDNIGHT - DAY, MIDNIGHT)
    (found,) = rows(spark, LATEST, wanted, MIDNIGHT - 5, NOW - 3, NOW - 9)
    assert (found.ts, found.written_at) == (NOW - 3, NOW * 1000)
    assert rows(spark, LATEST, Span(MIDNIGHT, NOW), MIDNIGHT - 5) == []


def test_only_candles_that_are_whole_and_done_with_are_written(spark: SparkSession) -> None:
    before, early, late = MIDNIGHT - 5, MIDNIGHT + 5, NOW - 120_000
    found = rows(spark, CANDLES, Span(MIDNIGHT, NOW), before, early, late)
    # Not of the day before, of which not all is read; nor the day, nor what ended within the last minutes.
    assert {(row.interval, round(row.start.timestamp() * 1000)) for row in found} == {
        ("1m", MIDNIGHT),
        ("15m", MIDNIGHT),
        ("1h", MIDNIGHT),
    }
    assert {row.written_at for row in found} == {NOW * 1000}
    whole = rows(spark, CANDLES, Span(MIDNIGHT - DAY, MIDNIGHT), before, early)
    assert {row.interval for row in whole} == {"1m", "15m", "1h", "1d"}
    assert max(row.start.timestamp() * 1000 for row in whole) < MIDNIGHT


def test_how_far_it_is() -> None:
    stages = [SimpleNamespace(numTasks=30, numCompletedTasks=10), SimpleNamespace(numTasks=10, numCompletedTasks=0)]
    assert how_far(stages, 20) == "25 % after 20 s, about 60 s more"
    assert how_far([None], 20) == how_far([], 20) == how_far(stages[1:], 20) == ""


def test_a_replay_repairs_every_table_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spark: SparkSession
) -> None:
    message = encode(PriceMessage(id="90", name="Bitcoin", price_usd=1.0, ts=MIDNIGHT + 5))
    raw = spark.createDataFrame(
        [
            Row(
                value=value,
                topic="crypto.prices",
                partition=0,
                offset=number,
                timestamp=datetime.fromtimestamp(MIDNIGHT / 1000 + 1, tz=timezone.utc),
            )
            for number, value in enumerate([message, b"no price"])
        ],
        SCHEMA,
    )
    written: dict[str, int] = {}
    part = {0: Part(0, 2)}
    monkeypatch.setattr(replay, "look", lambda *_: {"prices": part, "market": part, "rejected": part})
    monkeypatch.setattr(replay, "read", lambda _, topic, *__: raw if topic == "prices" else raw.limit(0))
    monkeypatch.setattr(
        replay.sinks,  # type: ignore[attr-defined]
        "append",
        lambda rows, table: written.update({table.name: len(rows.collect())}),
    )
    monkeypatch.setattr(replay.sinks, "look_for_tables", lambda *_: None)  # type: ignore[attr-defined]
    kept = {f"{name}_days": 7300 for name in ("prices", "candles", "dead_letters")}
    replay.replay(spark, Span(MIDNIGHT, NOW), NOW, Settings(retention=kept))
    assert written == {"prices": 1, "latest_prices": 1, "candles": 3, "market_global": 0, "dead_letters": 1}
    out = capsys.readouterr().out
    assert f"{said(MIDNIGHT)} to {said(NOW)}: 2 messages of crypto.prices" in out
    assert "candles: 3 rows in" in out
