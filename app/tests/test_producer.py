from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import httpx
import pytest
import structlog
from crypto_stream import producer
from crypto_stream.coinlore import Poll, Rejected, Ticker
from crypto_stream.config import Market, Settings
from crypto_stream.messages import Record, parse
from crypto_stream.producer import Delivery, Outbox, Service, next_beat, to_records
from crypto_stream.simulator import Server
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import KafkaTimeoutError, NotLeaderForPartitionError

TS = 1_700_000_000_000
TOPIC, REJECTED = "crypto.prices", "crypto.rejected"
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
        self.stored: list[tuple[str, bytes]] = []
        self.undecided: list[tuple[FakeFuture, tuple[str, bytes]]] = []
        self.closed = False

    def send(self, topic: str, value: bytes, key: bytes, *, timestamp_ms: int) -> FakeFuture:
        step = self.plan.pop(0) if self.plan else "ok"
        if step == "refuse":
            raise KafkaTimeoutError("no metadata")
        future = FakeFuture()
        self.sent.append((topic, value))
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


def records(*values: str, ts: int = TS, topic: str = TOPIC) -> list[Record]:
    return [Record(topic, b"key", value.encode(), ts) for value in values]


def delivery(outbox: Outbox, connect: Callable[[], FakeKafka]) -> Delivery:
    return Delivery(outbox, connect, REJECTED, structlog.stdlib.get_logger())


def values(messages: list[tuple[str, bytes]]) -> list[str]:
    return [value.decode() for _, value in messages]


def named(lines: LogLines, event: str) -> LogLines:
    return [line for line in lines if line["event"] == event]


# ---- delivery


def test_what_kafka_acknowledges_leaves_the_outbox_and_is_logged(lines: LogLines) -> None:
    outbox, kafka = Outbox(100), FakeKafka()
    outbox.put(records("a", "b") + records("x", topic=REJECTED))
    assert delivery(outbox, lambda: kafka).round()
    assert values(kafka.stored) == ["a", "b", "x"]
    assert len(outbox) == 0
    (line,) = named(lines, "poll_acknowledged")
    assert {key: line[key] for key in ("ts", "messages", "rejected", "pending")} == {
        "ts": TS,
        "messages": 2,
        "rejected": 1,
        "pending": 0,
    }


def test_what_fails_is_sent_again_in_order_and_counted_once(lines: LogLines) -> None:
    outbox, kafka = Outbox(100), FakeKafka("ok", "fail", "fail")
    deliver = delivery(outbox, lambda: kafka)
    outbox.put(records("a", "b", "c"))
    assert not deliver.round()
    outbox.put(records("d", ts=TS + 1))
    assert deliver.round()
    assert values(kafka.stored) == ["a", "b", "c", "d"]
    acknowledged = [(line["ts"], line["messages"], line["pending"]) for line in named(lines, "poll_acknowledged")]
    assert acknowledged == [(TS, 1, 2), (TS, 2, 0), (TS + 1, 1, 0)]
    (failed,) = named(lines, "delivery_failed")
    assert failed["failed"] == 2
    assert "NotLeaderForPartitionError" in failed["reason"]


def test_what_is_undecided_is_not_sent_twice(lines: LogLines) -> None:
    outbox, kafka = Outbox(100), FakeKafka("hang", "hang")
    deliver = delivery(outbox, lambda: kafka)
    outbox.put(records("a", "b"))
    assert not deliver.round()
    assert not deliver.round()
    assert values(kafka.sent) == ["a", "b"]
    assert named(lines, "delivery_waiting")[0]["in_flight"] == 2
    kafka.resolve()
    assert deliver.round()
    assert len(outbox) == 0
    assert values(kafka.sent) == ["a", "b"]


def test_no_broker_at_all_loses_nothing(lines: LogLines) -> None:
    outbox, kafka = Outbox(100), FakeKafka()
    tries: list[int] = []

    def connect() -> FakeKafka:
        tries.append(1)
        if len(tries) < 3:
            raise KafkaTimeoutError("Unable to bootstrap")
        return kafka

    deliver = delivery(outbox, connect)
    outbox.put(records("a"))
    assert not deliver.round()
    outbox.put(records("b"))
    assert not deliver.round()
    assert deliver.round()
    assert values(kafka.stored) == ["a", "b"]
    assert len(named(lines, "delivery_failed")) == 2


def test_a_topic_that_cannot_be_sent_to_does_not_hold_up_the_other(lines: LogLines) -> None:
    outbox, kafka = Outbox(100), FakeKafka("refuse", "ok")
    deliver = delivery(outbox, lambda: kafka)
    outbox.put(records("x", "y", topic=REJECTED) + records("a", "b"))
    assert not deliver.round()
    assert values(kafka.stored) == ["a", "b"]
    assert deliver.round()
    assert values(kafka.stored) == ["a", "b", "x", "y"]


def test_an_error_nobody_thought_of_does_not_end_delivery(lines: LogLines) -> None:
    class Broken(FakeKafka):
        def flush(self, timeout: float) -> None:
            raise RuntimeError("a bug")

    outbox = Outbox(100)
    outbox.put(records("a"))
    assert not delivery(outbox, Broken).round()
    assert "RuntimeError: a bug" in named(lines, "delivery_failed")[0]["reason"]


def test_a_client_that_never_recovers_is_replaced(lines: LogLines) -> None:
    clients = [FakeKafka(*["fail"] * 100), FakeKafka()]
    used = iter(clients)
    outbox = Outbox(100)
    deliver = delivery(outbox, lambda: next(used))
    outbox.put(records("a"))
    for _ in range(producer.FAILED_ROUNDS_BEFORE_REPLACING):
        assert not deliver.round()
    assert clients[0].closed
    assert deliver.round()
    assert values(clients[1].stored) == ["a"]
    assert len(named(lines, "kafka_client_replaced")) == 1


def test_the_client_is_never_given_more_than_it_can_hold(lines: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "MAX_IN_FLIGHT", 3)
    outbox, kafka = Outbox(100), FakeKafka(*["hang"] * 3)
    deliver = delivery(outbox, lambda: kafka)
    outbox.put(records(*"abcde"))
    deliver.round()
    deliver.round()
    assert values(kafka.sent) == ["a", "b", "c"]
    kafka.resolve()
    deliver.round()
    deliver.round()
    assert values(kafka.stored) == list("abcde")


@given(st.lists(st.sampled_from(["ok", "fail", "hang", "refuse"]), max_size=60), st.integers(1, 20))
def test_whatever_kafka_does_every_message_arrives_and_none_is_counted_twice(plan: list[str], count: int) -> None:
    with structlog.testing.capture_logs() as lines:
        outbox, kafka = Outbox(1000), FakeKafka(*plan)
        deliver = delivery(outbox, lambda: kafka)
        wanted = [str(number) for number in range(count)]
        outbox.put(records(*wanted))
        for _ in range(200):
            deliver.round()
            kafka.resolve()
            if not len(outbox):
                break
    assert set(values(kafka.stored)) == set(wanted)
    assert sum(line["messages"] for line in named(lines, "poll_acknowledged")) == count


# ---- outbox


def test_a_full_outbox_drops_the_oldest_and_says_how_many() -> None:
    outbox = Outbox(3)
    assert outbox.put(records("a", "b")) == 0
    assert outbox.put(records("c", "d", "e")) == 2
    assert [record.value for _, record in outbox.waiting(set(), 100)] == [b"c", b"d", b"e"]


def test_an_acknowledgement_of_something_dropped_is_no_error() -> None:
    outbox = Outbox(1)
    outbox.put(records("a"))
    ((number, _),) = outbox.waiting(set(), 1)
    outbox.put(records("b"))
    outbox.remove(number)
    assert [record.value for _, record in outbox.waiting(set(), 100)] == [b"b"]


# ---- polls


def test_a_poll_becomes_one_message_a_coin_with_the_id_as_key() -> None:
    poll = Poll(
        [Ticker(id="90", name="Bitcoin", price_usd=2.0, rank=1), Ticker(id="80", name="Ethereum", price_usd=1.0)],
        [Rejected({"id": "1", "price_usd": "n/a"}, "price_usd: no number")],
    )
    first, second, rejected = to_records(poll, TS, TOPIC, REJECTED)
    assert (first.topic, first.key, first.ts) == (TOPIC, b"90", TS)
    message = parse(first.value)
    assert (message.id, message.name, message.price_usd, message.ts, message.rank) == ("90", "Bitcoin", 2.0, TS, 1)
    assert second.key == b"80"
    assert rejected.topic == REJECTED
    assert json.loads(rejected.value)["reason"] == "price_usd: no number"


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


# ---- the whole service, against the simulator


def settings(simulator: Server, **changes: Any) -> Settings:
    host, port = simulator.server_address[:2]
    return Settings(
        market=Market(api_url=f"http://{host!s}:{port}/api", request_interval_seconds=0, attempts=1),
        producer={"coins": 120, "interval_seconds": 3600, "drain_seconds": 0} | changes,
    )


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
    thread = threading.Thread(target=service.run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_the_service_polls_delivers_and_stops(simulator: Server, lines: LogLines) -> None:
    kafka = StopWhenStored(120)
    kafka.service = Service(settings(simulator), lambda: kafka, structlog.stdlib.get_logger())
    run(kafka.service)
    assert len({parse(value).id for _, value in kafka.stored}) == 120
    assert len({parse(value).ts for _, value in kafka.stored}) == 1
    assert kafka.closed
    (line,) = named(lines, "poll_acknowledged")
    assert line["messages"] == 120


def test_rejected_tickers_are_logged_and_kept_in_their_topic(simulator: Server, lines: LogLines) -> None:
    simulator.faults.set("bad_price", 1)
    kafka = StopWhenStored(100)
    kafka.service = Service(settings(simulator, coins=100), lambda: kafka, structlog.stdlib.get_logger())
    run(kafka.service)
    assert sum(topic == REJECTED for topic, _ in kafka.stored) == 5
    assert sum(topic == TOPIC for topic, _ in kafka.stored) == 95
    assert len(named(lines, "ticker_rejected")) == 5
    assert named(lines, "poll_acknowledged")[0]["rejected"] == 5


def test_a_failed_poll_is_logged_and_the_next_one_goes_through(
    simulator: Server, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.faults.set("http_500", 2)
    monkeypatch.setattr(producer, "next_beat", lambda start, interval, now: now)
    kafka = StopWhenStored(100)
    kafka.service = Service(settings(simulator, coins=100), lambda: kafka, structlog.stdlib.get_logger())
    run(kafka.service)
    assert [line["reason"] for line in named(lines, "poll_failed")] == ["coins 1 to 100: HTTP status 500"] * 2
    assert len(kafka.stored) >= 100


def test_stopping_without_kafka_says_how_much_is_lost(
    simulator: Server, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "PAUSE_SECONDS", 0.01)
    tries: list[int] = []

    def connect() -> FakeKafka:
        tries.append(1)
        if len(tries) == 3:
            service.stop()
        raise KafkaTimeoutError("Unable to bootstrap")

    service = Service(settings(simulator, coins=100), connect, structlog.stdlib.get_logger())
    run(service)
    assert named(lines, "messages_lost")[0]["count"] == 100


def test_dropping_is_loud(simulator: Server, lines: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "PAUSE_SECONDS", 0.01)

    def connect() -> FakeKafka:
        if named(lines, "messages_dropped"):
            service.stop()
        raise KafkaTimeoutError("Unable to bootstrap")

    service = Service(settings(simulator, coins=120, max_pending_messages=100), connect, structlog.stdlib.get_logger())
    run(service)
    assert named(lines, "messages_dropped")[0]["count"] == 20


def test_waiting_tells_the_watchdog_until_delivery_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(producer, "notify", lambda *states: told.extend(states))
    service = Service(Settings(), FakeKafka, structlog.stdlib.get_logger())
    service.beat()
    assert told == []  # the thread never started
    service._thread.start()
    service.beat()
    assert told == ["WATCHDOG=1"]
    service.stop()
    with pytest.raises(producer.Stopped):
        service.wait(3600)
    service._thread.join(10)


def test_nothing_needs_to_be_up_at_the_start(lines: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(producer, "notify", lambda *states: told.extend(states))

    def refuse(*_: object, **__: object) -> httpx.Response:
        service.stop()
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(httpx.Client, "get", refuse)
    service = Service(Settings(market=Market(attempts=1)), FakeKafka, structlog.stdlib.get_logger())
    run(service)
    assert told[0] == "READY=1"
    assert told[-1] == "STOPPING=1"
    assert named(lines, "poll_failed")
