from __future__ import annotations

import json
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import structlog
from crypto_stream import producer
from crypto_stream.coinlore import CoinLore, CoinLoreError, Page, Rejected, Ticker, World
from crypto_stream.config import Market, Settings
from crypto_stream.messages import MarketMessage, PriceMessage, Record, parse
from crypto_stream.metrics import ProducerMetrics, read
from crypto_stream.outbox import Outbox
from crypto_stream.producer import Delivery, Service, Topics, next_beat, open_outbox, to_message, to_records
from crypto_stream.simulator import Server
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError, NotLeaderForPartitionError
from prometheus_client import generate_latest

TS = 1_700_000_000_000
TOPIC, MARKET, REJECTED = "crypto.prices", "crypto.global", "crypto.rejected"
TOPICS = Topics(TOPIC, MARKET, REJECTED)
LogLines = list[MutableMapping[str, Any]]


class FakeFuture:
    def __init__(self) -> None:
        self.is_done = False
        self.exception: BaseException | None = None

    def succeeded(self) -> bool:
        return self.is_done and self.exception is None


class FakeKafka:
    """A client whose next sends do what `plan` says; it acknowledges all when the plan is used up.

    "ok", "fail" (the future fails), "hang" (undecided until `resolve`), "refuse" (send itself raises).
    """

    def __init__(self, *plan: str) -> None:
        self.plan = list(plan)
        self.sent: list[tuple[str, bytes]] = []
        self.keys: list[bytes | None] = []
        self.timestamps: list[int] = []
        self.stored: list[tuple[str, bytes]] = []
        self.undecided: list[tuple[FakeFuture, tuple[str, bytes]]] = []
        self.closed = False

    def send(self, topic: str, value: bytes, key: bytes | None, *, timestamp_ms: int) -> FakeFuture:
        step = self.plan.pop(0) if self.plan else "ok"
        if step == "refuse":
            raise KafkaTimeoutError("no metadata")
        future = FakeFuture()
        self.sent.append((topic, value))
        self.keys.append(key)
        self.timestamps.append(timestamp_ms)
        if step == "hang":
            self.undecided.append((future, (topic, value)))
        else:
            future.is_done = True
            if step == "fail":
                future.exception = NotLeaderForPartitionError("moved")
            else:
                self.stored.append((topic, value))
        return future

    def resolve(self) -> None:
        for future, message in self.undecided:
            future.is_done = True
            self.stored.append(message)
        self.undecided.clear()

    def flush(self, timeout: float) -> None:
        if self.undecided:
            raise KafkaTimeoutError("not all is decided")

    def close(self, timeout: float) -> None:
        self.closed = True


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path / "outbox.sqlite", max_bytes=10**9, max_age_seconds=10**9)
    yield outbox
    outbox.close()


def records(*values: str, ts: int = TS, topic: str = TOPIC) -> list[Record]:
    """Records of as many keys."""
    return [Record(topic, value.encode(), value.encode(), ts) for value in values]


def delivery(outbox: Outbox, connect: Callable[[], FakeKafka], patience_seconds: float = 60) -> Delivery:
    return Delivery(outbox, connect, TOPICS, ProducerMetrics(outbox), structlog.stdlib.get_logger(), patience_seconds)


def values(messages: list[tuple[str, bytes]]) -> list[str]:
    return [value.decode() for _, value in messages]


def named(lines: LogLines, event: str) -> LogLines:
    return [line for line in lines if line["event"] == event]


# ---- delivery


def test_what_kafka_acknowledges_leaves_the_outbox_and_is_logged(outbox: Outbox, lines: LogLines) -> None:
    kafka = FakeKafka()
    outbox.put(records("a", "b") + records("x", topic=REJECTED), TS)
    assert delivery(outbox, lambda: kafka).round()
    assert values(kafka.stored) == ["a", "b", "x"]
    assert len(outbox) == 0
    (line,) = named(lines, "page_acknowledged")
    assert {key: line[key] for key in ("ts", "messages", "rejected", "pending")} == {
        "ts": TS,
        "messages": 2,
        "rejected": 1,
        "pending": 0,
    }


def test_what_fails_is_sent_again_in_order_and_counted_once(outbox: Outbox, lines: LogLines) -> None:
    kafka = FakeKafka("ok", "fail", "fail")
    deliver = delivery(outbox, lambda: kafka)
    outbox.put(records("a", "b", "c"), TS)
    assert not deliver.round()
    outbox.put(records("d", ts=TS + 1), TS)
    assert deliver.round()
    assert values(kafka.stored) == ["a", "b", "c", "d"]
    acknowledged = [(line["ts"], line["messages"], line["pending"]) for line in named(lines, "page_acknowledged")]
    assert acknowledged == [(TS, 1, 2), (TS, 2, 0), (TS + 1, 1, 0)]
    (failed,) = named(lines, "delivery_failed")
    assert failed["failed"] == 2
    assert "NotLeaderForPartitionError" in failed["reason"]


def test_what_is_undecided_is_not_sent_twice(outbox: Outbox, lines: LogLines) -> None:
    kafka = FakeKafka("hang", "hang")
    deliver = delivery(outbox, lambda: kafka)
    outbox.put(records("a", "b"), TS)
    assert not deliver.round()
    assert not deliver.round()
    assert values(kafka.sent) == ["a", "b"]
    assert named(lines, "delivery_waiting")[0]["in_flight"] == 2
    kafka.resolve()
    assert deliver.round()
    assert len(outbox) == 0
    assert values(kafka.sent) == ["a", "b"]


def test_no_broker_at_all_loses_nothing(outbox: Outbox, lines: LogLines) -> None:
    kafka = FakeKafka()
    tries: list[int] = []

    def connect() -> FakeKafka:
        tries.append(1)
        if len(tries) < 3:
            raise KafkaTimeoutError("Unable to bootstrap")
        return kafka

    deliver = delivery(outbox, connect)
    outbox.put(records("a"), TS)
    assert not deliver.round()
    outbox.put(records("b"), TS)
    assert not deliver.round()
    assert deliver.round()
    assert values(kafka.stored) == ["a", "b"]
    assert len(named(lines, "delivery_failed")) == 2


def test_a_topic_that_cannot_be_sent_to_does_not_hold_up_the_other(outbox: Outbox, lines: LogLines) -> None:
    kafka = FakeKafka("refuse", "ok")
    deliver = delivery(outbox, lambda: kafka)
    outbox.put(records("a", "b") + records("x", "y", topic=REJECTED), TS)
    assert not deliver.round()
    assert values(kafka.stored) == ["x", "y"]
    assert deliver.round()
    assert values(kafka.stored) == ["x", "y", "a", "b"]


def test_an_error_nobody_thought_of_does_not_end_delivery(outbox: Outbox, lines: LogLines) -> None:
    class Broken(FakeKafka):
        def flush(self, timeout: float) -> None:
            raise RuntimeError("a bug")

    outbox.put(records("a"), TS)
    assert not delivery(outbox, Broken).round()
    assert "RuntimeError: a bug" in named(lines, "delivery_failed")[0]["reason"]


def test_a_client_that_never_recovers_is_replaced(outbox: Outbox, lines: LogLines) -> None:
    clients = [FakeKafka(*["fail"] * 100), FakeKafka()]
    used = iter(clients)
    deliver = delivery(outbox, lambda: next(used))
    outbox.put(records("a"), TS)
    for _ in range(producer.FAILED_ROUNDS_BEFORE_REPLACING):
        assert not deliver.round()
    assert clients[0].closed
    assert deliver.round()
    assert values(clients[1].stored) == ["a"]
    assert len(named(lines, "kafka_client_replaced")) == 1


def test_a_client_that_never_says_what_became_of_a_message_is_replaced(outbox: Outbox, lines: LogLines) -> None:
    clients = [FakeKafka("hang"), FakeKafka()]
    used = iter(clients)
    deliver = delivery(outbox, lambda: next(used), patience_seconds=0.2)
    # The other message gets through.
    outbox.put(records("a", "b"), TS)
    assert not deliver.round()
    assert values(clients[0].stored) == ["b"]
    assert not clients[0].closed
    time.sleep(0.3)
    assert not deliver.round()
    assert clients[0].closed
    assert deliver.round()
    assert values(clients[1].stored) == ["a"]
    assert [line["in_flight"] for line in named(lines, "kafka_client_replaced")] == [1]


def test_the_client_is_never_given_more_than_it_can_hold(
    outbox: Outbox, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "MAX_IN_FLIGHT", 3)
    kafka = FakeKafka(*["hang"] * 3)
    deliver = delivery(outbox, lambda: kafka)
    outbox.put(records(*"abcde"), TS)
    deliver.round()
    deliver.round()
    assert values(kafka.sent) == ["a", "b", "c"]
    kafka.resolve()
    deliver.round()
    deliver.round()
    assert values(kafka.stored) == list("abcde")


def test_a_coins_next_price_waits_until_the_one_before_is_acknowledged(outbox: Outbox, lines: LogLines) -> None:
    kafka = FakeKafka("fail", "hang")
    deliver = delivery(outbox, lambda: kafka)
    outbox.put([Record(TOPIC, b"90", b"90 old", TS), Record(TOPIC, b"80", b"80 old", TS)], TS)
    outbox.put([Record(TOPIC, b"90", b"90 new", TS + 1), Record(TOPIC, b"80", b"80 new", TS + 1)], TS)
    deliver.round()
    deliver.round()
    assert values(kafka.stored) == ["90 old"]
    kafka.resolve()
    for _ in range(2):
        deliver.round()
    assert values(kafka.stored) == ["90 old", "80 old", "90 new", "80 new"]


def test_key_and_time_of_a_record_are_the_messages(outbox: Outbox) -> None:
    kafka = FakeKafka()
    outbox.put([Record(TOPIC, b"90", b"a", TS), Record(REJECTED, None, b"x", TS + 5)], TS)
    delivery(outbox, lambda: kafka).round()
    assert kafka.keys == [b"90", None]
    assert kafka.timestamps == [TS, TS + 5]


@given(
    st.lists(st.sampled_from(["ok", "fail", "hang", "refuse"]), max_size=60),
    st.lists(st.integers(0, 3), min_size=1, max_size=20),
)
def test_whatever_kafka_does_every_message_arrives_in_order_and_none_is_counted_twice(
    plan: list[str], coins: list[int]
) -> None:
    with structlog.testing.capture_logs() as lines, tempfile.TemporaryDirectory() as directory:
        outbox, kafka = Outbox(Path(directory) / "outbox", 10**9, 10**9), FakeKafka(*plan)
        deliver = delivery(outbox, lambda: kafka)
        wanted = [(coin, str(number)) for number, coin in enumerate(coins)]
        outbox.put([Record(TOPIC, str(coin).encode(), value.encode(), TS) for coin, value in wanted], TS)
        for _ in range(200):
            deliver.round()
            kafka.resolve()
            if not len(outbox):
                break
        outbox.close()
    stored = values(kafka.stored)
    for coin in set(coins):
        assert [value for value in stored if (coin, value) in wanted] == [value for at, value in wanted if at == coin]
    assert sum(line["messages"] for line in named(lines, "page_acknowledged")) == len(coins)


# ---- polls


def full_ticker(**changes: Any) -> Ticker:
    return Ticker(
        **{
            "id": "90",
            "name": "Bitcoin",
            "price_usd": 1.0,
            "symbol": "BTC",
            "rank": 2,
            "percent_change_1h": 3.0,
            "percent_change_24h": 4.0,
            "percent_change_7d": 5.0,
            "market_cap_usd": 6.0,
            "volume24": 7.0,
        }
        | changes
    )


def test_a_page_becomes_one_message_a_coin_with_the_id_as_key() -> None:
    page = Page(
        TS,
        [full_ticker(), full_ticker(id="80", name="Ethereum")],
        [Rejected({"id": "1", "price_usd": "n/a"}, "price_usd: no number")],
    )
    first, second, rejected = to_records(page, TOPICS)
    assert (first.topic, first.key, first.ts) == (TOPIC, b"90", TS)
    assert parse(PriceMessage, first.value) == to_message(page.tickers[0], TS)
    assert second.key == b"80"
    assert (rejected.topic, rejected.key, rejected.ts) == (REJECTED, None, TS)
    assert json.loads(rejected.value)["reason"] == "price_usd: no number"


def test_every_field_of_a_ticker_goes_where_it_belongs() -> None:
    assert to_message(full_ticker(), TS).model_dump() == {
        "schema_version": 1,
        "id": "90",
        "name": "Bitcoin",
        "price_usd": 1.0,
        "ts": TS,
        "symbol": "BTC",
        "rank": 2,
        "percent_change_1h": 3.0,
        "percent_change_24h": 4.0,
        "percent_change_7d": 5.0,
        "market_cap_usd": 6.0,
        "volume24_usd": 7.0,
    }


@pytest.mark.parametrize(
    ("now", "expected"),
    [(100, 130), (100.1, 130), (129.9, 130), (130, 160), (131, 160), (161, 190), (95, 100)],
)
def test_beats_are_fixed_and_missed_ones_are_skipped(now: float, expected: float) -> None:
    assert next_beat(100, 30, now) == expected


@given(st.floats(0, 1e9), st.floats(1, 1e5), st.floats(0, 1e7))
def test_the_next_beat_is_ahead_and_near(start: float, interval: float, passed: float) -> None:
    beat = next_beat(start, interval, start + passed)
    assert start + passed <= beat <= start + passed + interval * (1 + 1e-6) + 1e-3


# ---- the client


def test_kafka_acknowledges_with_all_replicas_and_drops_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(producer, "Client", lambda **options: given.update(options))
    producer.connect(Settings(kafka={"bootstrap_servers": ["a:1", "b:2"]}, producer={"delivery_timeout_seconds": 60}))
    assert given["acks"] == "all"
    assert given["enable_idempotence"] is True
    assert given["allow_auto_create_topics"] is False
    assert given["bootstrap_servers"] == ["a:1", "b:2"]
    assert given["delivery_timeout_ms"] == 60_000


def test_a_client_that_will_not_let_go_of_what_is_in_flight_is_forced_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def close(*_: object, **__: object) -> None:
        raise KafkaTimeoutError("Timeout waiting for in-flight messages")

    monkeypatch.setattr(KafkaProducer, "close", close)
    monkeypatch.setattr(KafkaProducer, "__del__", lambda _: None)
    forced: list[bool] = []
    client = object.__new__(producer.Client)
    client._sender = SimpleNamespace(force_close=lambda: forced.append(True))
    client.close(timeout=1)
    assert forced == [True]


# ---- the whole service, against the simulator


def settings(simulator: Server, tmp_path: Path, **changes: Any) -> Settings:
    host, port = simulator.server_address[:2]
    return Settings(
        market=Market(api_url=f"http://{host!s}:{port}/api", request_interval_seconds=0, attempts=1),
        producer={"coins": 120, "interval_seconds": 3600, "drain_seconds": 0, "outbox": str(tmp_path / "outbox")}
        | changes,
    )


def service(settings: Settings, connect: Callable[[], FakeKafka]) -> Service:
    logger = structlog.stdlib.get_logger()
    return Service(settings, open_outbox(settings, logger), connect, logger)


def figures(of: Service) -> dict[str, float]:
    return read(generate_latest(of.metrics.registry).decode())


class StopWhenStored(FakeKafka):
    """Asks the service to stop once so many messages are stored."""

    service: Service

    def __init__(self, count: int, *plan: str) -> None:
        super().__init__(*plan)
        self.count = count

    def flush(self, timeout: float) -> None:
        if len(self.stored) >= self.count:
            self.service.stop()
        super().flush(timeout)


def run(service: Service) -> None:
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    thread.join(20)
    ended = not thread.is_alive()
    service.stop()
    assert ended


def test_the_service_polls_delivers_and_stops(simulator: Server, tmp_path: Path, lines: LogLines) -> None:
    kafka = StopWhenStored(121)
    kafka.service = service(settings(simulator, tmp_path), lambda: kafka)
    before = time.time_ns() // 1_000_000
    run(kafka.service)
    messages = [parse(PriceMessage, value) for topic, value in kafka.stored if topic == TOPIC]
    (market,) = [parse(MarketMessage, value) for topic, value in kafka.stored if topic == MARKET]
    assert before <= market.ts <= time.time_ns() // 1_000_000
    assert (market.coins_count, market.total_mcap_usd > 0, 0 < (market.btc_d or 0) < 100) == (250, True, True)
    changes = [message.percent_change_24h or 0 for message in messages]
    assert (market.rising, market.falling) == (
        sum(change > 0 for change in changes),
        sum(change < 0 for change in changes),
    )
    assert len({message.id for message in messages}) == 120
    assert all(before <= message.ts <= time.time_ns() // 1_000_000 for message in messages)
    assert len({message.ts for message in messages}) == 2  # one of each page
    assert kafka.closed
    assert sum(line["messages"] for line in named(lines, "page_acknowledged")) == 120
    assert [line["ts"] for line in named(lines, "market_acknowledged")] == [market.ts]
    found = figures(kafka.service)
    assert found["crypto_producer_last_poll{ok}"] == 1
    assert found["crypto_producer_last_poll_coins"] == 120
    assert found["crypto_producer_messages_total{acknowledged}"] == 121
    assert found["crypto_producer_outbox_records"] == 0
    assert found["crypto_producer_last_poll_timestamp_seconds"] == pytest.approx(time.time(), abs=20)
    assert found["crypto_producer_last_acknowledged_timestamp_seconds"] == pytest.approx(time.time(), abs=20)


def test_rejected_tickers_are_logged_and_kept_in_their_topic(
    simulator: Server, tmp_path: Path, lines: LogLines
) -> None:
    simulator.faults.set("bad_price", 1)
    kafka = StopWhenStored(100)
    kafka.service = service(settings(simulator, tmp_path, coins=100), lambda: kafka)
    run(kafka.service)
    assert sum(topic == REJECTED for topic, _ in kafka.stored) == 5
    assert sum(topic == TOPIC for topic, _ in kafka.stored) == 95
    assert len(named(lines, "ticker_rejected")) == 5
    assert sum(line["rejected"] for line in named(lines, "page_acknowledged")) == 5
    (incomplete,) = named(lines, "poll_incomplete")
    assert (incomplete["tickers"], incomplete["rejected"], incomplete["errors"]) == (95, 5, [])


def test_pages_that_failed_are_named(simulator: Server, tmp_path: Path, lines: LogLines) -> None:
    simulator.faults.set("short_page", 1)
    kafka = StopWhenStored(60)
    kafka.service = service(settings(simulator, tmp_path), lambda: kafka)
    run(kafka.service)
    assert named(lines, "poll_incomplete")[0]["errors"] == ["coins 1 to 100: only 40 came, of 250 that there are"]
    assert figures(kafka.service)["crypto_producer_last_poll{incomplete}"] == 1
    assert figures(kafka.service)["crypto_producer_last_poll_pages_failed"] == 1


def test_coins_may_be_named_and_one_that_is_not_there_is_an_error(
    simulator: Server, tmp_path: Path, lines: LogLines
) -> None:
    kafka = StopWhenStored(3)
    kafka.service = service(settings(simulator, tmp_path, coins=["90", "no-such", "80"]), lambda: kafka)
    run(kafka.service)
    assert [parse(PriceMessage, value).id for topic, value in kafka.stored if topic == TOPIC] == ["90", "80"]
    assert named(lines, "poll_incomplete")[0]["errors"] == ["coins no-such: the API does not know them"]
    # How many of them rise is not known where not all have come.
    (market,) = [parse(MarketMessage, value) for topic, value in kafka.stored if topic == MARKET]
    assert (market.rising, market.falling) == (None, None)


def test_a_market_that_cannot_be_had_costs_nothing_else(
    simulator: Server, tmp_path: Path, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Iterator[World | Rejected] = iter([Rejected([], "not an object")])

    def world(_: CoinLore) -> World | Rejected:
        try:
            return next(answers)
        except StopIteration:
            raise CoinLoreError("HTTP status 404") from None

    monkeypatch.setattr(CoinLore, "world", world)
    kafka = StopWhenStored(201)
    kafka.service = service(settings(simulator, tmp_path, coins=100, interval_seconds=1), lambda: kafka)
    run(kafka.service)
    assert [topic for topic, _ in kafka.stored].count(REJECTED) == 1
    assert named(lines, "ticker_rejected")[0]["reason"] == "not an object"
    assert figures(kafka.service)["crypto_producer_last_poll{ok}"] == 1


def test_values_that_stand_still_are_told_apart_from_fresh_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    metrics = ProducerMetrics(Outbox(tmp_path / "outbox", 10**9, 10**9))

    def moved() -> float:
        return read(generate_latest(metrics.registry).decode())["crypto_producer_market_moved_timestamp_seconds"]

    for told, passed in ((5.0, 0), (5.0, 60), (5.0, 60)):
        now[0] += passed
        metrics.page_came(told)
    assert moved() == 1000
    metrics.page_came(6.0)
    assert moved() == 1120
    now[0] += 60
    metrics.page_came(None)  # an API that does not say when
    assert moved() == 1180


def test_a_failed_poll_is_logged_and_the_next_one_goes_through(
    simulator: Server, tmp_path: Path, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.faults.set("http_500", 2)
    monkeypatch.setattr(producer, "next_beat", lambda start, interval, now: now)
    kafka = StopWhenStored(100)
    kafka.service = service(settings(simulator, tmp_path, coins=100), lambda: kafka)
    run(kafka.service)
    assert [line["reason"] for line in named(lines, "poll_failed")] == ["coins 1 to 100: HTTP status 500"] * 2
    assert figures(kafka.service)["crypto_producer_polls_total{failed}"] == 2
    assert len(kafka.stored) >= 100


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OverflowError("date value out of range"), MemoryError()])
def test_an_error_that_nobody_thought_of_is_a_failed_poll(
    simulator: Server, tmp_path: Path, lines: LogLines, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def top(*_: object) -> Iterator[Page]:
        monkeypatch.undo()
        raise error

    monkeypatch.setattr(CoinLore, "top", top)
    kafka = StopWhenStored(100)
    kafka.service = service(settings(simulator, tmp_path, coins=100, interval_seconds=1), lambda: kafka)
    run(kafka.service)
    assert type(error).__name__ in named(lines, "poll_failed")[0]["reason"]
    assert len(kafka.stored) >= 100


def test_a_clock_that_was_never_set_is_said_so(
    simulator: Server, tmp_path: Path, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def top(*_: object) -> Iterator[Page]:
        monkeypatch.undo()
        yield Page(1_000, [full_ticker()])

    monkeypatch.setattr(CoinLore, "top", top)
    kafka = StopWhenStored(100)
    kafka.service = service(settings(simulator, tmp_path, coins=100, interval_seconds=1), lambda: kafka)
    run(kafka.service)
    assert "clock was never set: it says 1970-01-01" in named(lines, "poll_failed")[0]["reason"]


def test_what_kafka_did_not_take_is_delivered_after_the_next_start(
    simulator: Server, tmp_path: Path, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "PAUSE_SECONDS", 0.01)
    tries: list[int] = []

    def refuse() -> FakeKafka:
        tries.append(1)
        if len(tries) == 3:
            first.stop()
        raise KafkaTimeoutError("Unable to bootstrap")

    first = service(settings(simulator, tmp_path, coins=100), refuse)
    run(first)
    assert named(lines, "messages_kept")[0]["count"] in (100, 101)  # the market may have been told, too
    assert figures(first)["crypto_producer_outbox_age_seconds"] > 0
    kafka = StopWhenStored(202)
    kafka.service = service(settings(simulator, tmp_path, coins=100), lambda: kafka)
    assert named(lines, "messages_found")[0]["count"] in (100, 101)
    run(kafka.service)
    prices = [parse(PriceMessage, value) for topic, value in kafka.stored if topic == TOPIC]
    assert len({(price.id, price.ts) for price in prices}) == 200


def test_pages_of_a_poll_that_is_cut_short_are_kept(simulator: Server, tmp_path: Path, lines: LogLines) -> None:
    """SIGTERM in the middle of a poll: what came before it is in the outbox."""
    wanted = settings(simulator, tmp_path, coins=250)

    class StopAfterTwoPages(Outbox):
        def put(self, records: Iterable[Record], now_ts: int) -> int:
            dropped = super().put(records, now_ts)
            if len(self) == 200:
                stopping.stop()
            return dropped

    kept = StopAfterTwoPages(Path(wanted.producer.outbox), 10**9, 10**9)

    def refuse() -> FakeKafka:
        raise KafkaTimeoutError("Unable to bootstrap")

    stopping = Service(wanted, kept, refuse, structlog.stdlib.get_logger())
    run(stopping)
    assert len(kept) == 200


def test_dropping_is_loud(simulator: Server, tmp_path: Path, lines: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "PAUSE_SECONDS", 0.01)

    def connect() -> FakeKafka:
        if named(lines, "messages_dropped"):
            full.stop()
        raise KafkaTimeoutError("Unable to bootstrap")

    full = service(settings(simulator, tmp_path, coins=250, interval_seconds=1, outbox_bytes=100_000), connect)
    run(full)
    dropped = sum(line["count"] for line in named(lines, "messages_dropped"))
    assert dropped == figures(full)["crypto_producer_messages_total{dropped}"] > 0


def test_an_outbox_that_fails_ends_neither_polling_nor_delivery(
    simulator: Server, tmp_path: Path, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "PAUSE_SECONDS", 0.01)
    broken = [sqlite3.OperationalError("database or disk is full")]

    class FullOnce(Outbox):
        def remove(self, numbers: Collection[int]) -> None:
            if broken:
                raise broken.pop()
            super().remove(numbers)

    wanted = settings(simulator, tmp_path, coins=100)
    kafka = StopWhenStored(200)
    kafka.service = Service(
        wanted, FullOnce(Path(wanted.producer.outbox), 10**9, 10**9), lambda: kafka, structlog.stdlib.get_logger()
    )
    kafka.count = 100
    run(kafka.service)
    assert "disk is full" in named(lines, "outbox_failed")[0]["reason"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd hears."""
    told: list[str] = []
    monkeypatch.setattr(producer, "notify", lambda *states: told.extend(states))
    return told


def test_waiting_tells_the_watchdog_while_rounds_of_delivery_end(tmp_path: Path, told: list[str]) -> None:
    waiting = service(Settings(producer={"outbox": str(tmp_path / "outbox")}), FakeKafka)
    waiting.beat()
    assert told == []  # the thread never started
    waiting._thread.start()
    waiting.wait(0)
    assert told == ["WATCHDOG=1"]
    waiting.stop()
    with pytest.raises(producer.Stopped):
        waiting.wait(3600)
    waiting._thread.join(10)


def test_delivery_that_hangs_is_not_passed_off_as_life(
    simulator: Server, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "DELIVERY_HANGS_SECONDS", 0.3)
    released = threading.Event()

    class Hanging(FakeKafka):
        def flush(self, timeout: float) -> None:
            released.wait(20)

    hanging = service(settings(simulator, tmp_path), Hanging)
    hanging._outbox.put(records("a"), TS)
    hanging._thread.start()
    time.sleep(0.6)
    told.clear()
    hanging.wait(0)
    assert told == []
    released.set()
    hanging.stop()
    hanging._thread.join(10)


def test_nothing_needs_to_be_up_at_the_start(
    tmp_path: Path, told: list[str], lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> httpx.Response:
        lonely.stop()
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(httpx.AsyncClient, "stream", refuse)
    lonely = service(Settings(market=Market(attempts=1), producer={"outbox": str(tmp_path / "outbox")}), FakeKafka)
    run(lonely)
    assert told[0] == "READY=1"
    assert told[-1] == "STOPPING=1"
    assert named(lines, "poll_failed")


def test_an_outbox_that_is_damaged_is_set_aside_loudly(tmp_path: Path, lines: LogLines) -> None:
    (tmp_path / "outbox").write_bytes(b"no database" * 1000)
    outbox = open_outbox(Settings(producer={"outbox": str(tmp_path / "outbox")}), structlog.stdlib.get_logger())
    assert len(outbox) == 0
    assert named(lines, "outbox_damaged")[0]["set_aside"].startswith(str(tmp_path / "outbox.damaged-"))
