"""What flows through the host under test, seen from outside: the topic, the tables, and whether they agree."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timezone
from functools import cached_property
from itertools import pairwise
from typing import Any

import oracle
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import ConstantReconnectionPolicy, WhiteListRoundRobinPolicy
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from oracle import Candle, Sample
from oracle import Key as CandleKey
from sandbox import UNITS, events, port, states, wait_for
from testinfra.host import Host

TOPIC, MARKET, REJECTED = "crypto.prices", "crypto.global", "crypto.rejected"
# How the reason begins of what is set aside although its price is written.
TOO_LATE = "too late for its candles"
COIN = "90"

# Tests take the host away from their clients; what those say of it is no news.
for name in ("cassandra", "kafka"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

# (coin, ts) of a price; for bytes that are none, what they are called by.
Key = tuple[str, int]
# (partition, offset)
Position = tuple[int, int]


class TablesError(AssertionError):
    """What is computed from the topics is another thing in the tables."""


class MismatchError(AssertionError):
    """Topic and table do not agree."""

    def __init__(self, lost: dict[int, int], missing: set[Key], surplus: set[Key], changed: set[Key]) -> None:
        super().__init__(
            f"acknowledged but not in the topic, by ts: {lost or 'none'}\n"
            f"in the topic but not in the table: {len(missing)} {sorted(missing)[:10]}\n"
            f"in the table but not in the topic: {len(surplus)} {sorted(surplus)[:10]}\n"
            f"with another price in the table than in the topic: {len(changed)} {sorted(changed)[:10]}"
        )
        self.lost = lost
        self.missing = missing
        self.surplus = surplus
        self.changed = changed


@dataclass(frozen=True)
class Message:
    """One message of the topic."""

    position: Position
    value: bytes | None
    # Kafka's own time of it, in epoch milliseconds.
    came: int

    @cached_property
    def key(self) -> Key:
        """What its row must have as its key."""
        try:
            return str(self.fields["id"]), int(self.fields["ts"])
        except (ValueError, TypeError, KeyError):
            return f"no price, in partition {self.position[0]} at offset", self.position[1]

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What it says. Raises ValueError where it is no JSON."""
        return json.loads(self.value or b"")

    @property
    def price(self) -> float | None:
        """None where it is no price."""
        try:
            return float(self.fields["price_usd"])
        except (ValueError, TypeError, KeyError):
            return None


class Stream:
    """Connections are made when needed, and anew after one failed."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._session: Any = None
        # The journal's word for each poll; kept, because a test may cost the host its journal.
        self._acknowledged: dict[int, int] = {}

    def close(self) -> None:
        if self._session is not None:
            self._session.cluster.shutdown()
            self._session = None

    def cql(self, query: str, *values: object) -> list[Any]:
        """All rows that a query brings, through the published port."""
        try:
            if self._session is None:
                self._session = self._connect()
            return list(self._session.execute(query, values))
        except Exception:
            self.close()
            raise

    @staticmethod
    def _connect() -> Any:
        profile = ExecutionProfile(load_balancing_policy=WhiteListRoundRobinPolicy(["127.0.0.1"]), request_timeout=20)
        cluster = Cluster(
            ["127.0.0.1"],
            port=port("CQL_PORT", 9042),
            protocol_version=5,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            reconnection_policy=ConstantReconnectionPolicy(1, None),
        )
        try:
            return cluster.connect()
        except BaseException:
            cluster.shutdown()
            raise

    @staticmethod
    def kafka() -> Any:
        """A consumer through the published port."""
        return KafkaConsumer(bootstrap_servers=[f"127.0.0.1:{port('KAFKA_PORT', 9092)}"], enable_auto_commit=False)

    def messages(self, topic: str = TOPIC, known: Iterable[Message] = ()) -> list[Message]:
        """All that is in a topic now; what is known already is not read again."""
        known = list(known)
        begin: dict[int, int] = {}
        for message in known:
            partition, offset = message.position
            begin[partition] = max(begin.get(partition, 0), offset + 1)
        consumer = self.kafka()
        try:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
            consumer.assign(partitions)
            for partition in partitions:
                if partition.partition in begin:
                    consumer.seek(partition, begin[partition.partition])
                else:
                    consumer.seek_to_beginning(partition)
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                for records in consumer.poll(timeout_ms=1000).values():
                    known += [Message((one.partition, one.offset), one.value, one.timestamp) for one in records]
            return known
        finally:
            consumer.close()

    def send(self, value: bytes | None) -> Position:
        """Put a message into the topic of prices, through the published port."""
        producer = KafkaProducer(bootstrap_servers=[f"127.0.0.1:{port('KAFKA_PORT', 9092)}"])
        try:
            record = producer.send(TOPIC, value=value, key=b"test").get(timeout=30)
            return record.partition, record.offset
        finally:
            producer.close()

    def rows(self) -> dict[Key, float]:
        """The prices of the table by their keys."""
        return {(row.id, row.ts): row.price_usd for row in self.cql("SELECT id, ts, price_usd FROM crypto.prices")}

    def dead_letters(self, topic: str = TOPIC) -> dict[Position, Any]:
        """What the stream job has set aside as no message."""
        return {at: row for at, row in self._set_aside(topic).items() if not row.reason.startswith(TOO_LATE)}

    def late(self) -> dict[Position, Any]:
        """Prices that came too late for their candles."""
        return {at: row for at, row in self._set_aside(TOPIC).items() if row.reason.startswith(TOO_LATE)}

    def _set_aside(self, topic: str) -> dict[Position, Any]:
        rows = self.cql("SELECT * FROM crypto.dead_letters")
        return {(row.partition, row.offset): row for row in rows if row.topic == topic}

    def candles(self) -> dict[CandleKey, Candle]:
        """The table of candles."""
        return {
            (row.id, row.interval, round(row.start.replace(tzinfo=timezone.utc).timestamp() * 1000)): Candle(
                row.open, row.high, row.low, row.close, row.samples, row.volume24_usd
            )
            for row in self.cql("SELECT * FROM crypto.candles")
        }

    def board(self) -> dict[str, Any]:
        """The table of latest prices by coin."""
        return {row.id: row for row in self.cql("SELECT * FROM crypto.latest_prices")}

    def compare_every_table(self, limit: float = 180) -> None:
        """`compare`, and the other tables with what plain Python makes of the topics; raises TablesError too.

        More comes while it looks: what was in the topics before must be in the tables, and nothing that is not in the
        topics afterwards.
        """
        before = {TOPIC: self.compare(limit)} | {topic: self.messages(topic) for topic in (MARKET, REJECTED)}
        deadline = time.monotonic() + limit
        while wrong := self._differences(before):
            if time.monotonic() > deadline:
                raise TablesError("\n".join(wrong[:20]))
            # A look takes a second or two, and candles have a batch every ten.
            time.sleep(3)

    def _differences(self, before: dict[str, list[Message]]) -> list[str]:
        board, candles = self.board(), self.candles()
        market = {row.ts: row for row in self.cql("SELECT * FROM crypto.market_global")}
        set_aside = self._set_aside(REJECTED)
        late, dead, dead_market = self.late(), self.dead_letters(), self.dead_letters(MARKET)
        prices, states = before[TOPIC], before[MARKET]
        first, last = (
            [one for one in some if one.position not in dead] for some in (prices, self.messages(TOPIC, prices))
        )
        told, known = (
            [one for one in some if one.position not in dead_market] for some in (states, self.messages(MARKET, states))
        )
        return [
            *wrong_board(board, first, last),
            *wrong_candles(candles, samples(first, late), samples(last, late), samples(last, {})),
            *wrong_market(market, told, known),
            *(
                f"rejected at {one.position}: not set aside"
                for one in before[REJECTED]
                if one.position not in set_aside
            ),
        ]

    def newest(self, coin: str = COIN) -> Any:
        """The newest row of a coin, or None."""
        return next(iter(self.cql("SELECT * FROM crypto.prices WHERE id = %s LIMIT 1", coin)), None)

    def wait_until_it_flows(self, since: float, limit: float = 120) -> None:
        """Until there is a row of a poll that began after this moment, in epoch seconds."""
        wait_for(lambda: (row := self.newest()) and row.ts / 1000 > since, "a new row in crypto.prices", limit)

    def wait_until_all_is_well(self, since: float, limit: float = 240) -> None:
        """Until there is a row of a poll after this moment, and every unit is up."""
        self.wait_until_it_flows(since, limit)
        wait_for(lambda: states(self._host) == dict.fromkeys(UNITS, "active"), "every unit active", limit)

    def acknowledged(self) -> dict[int, int]:
        """How many prices of each page, by its ts, Kafka has acknowledged to the producer."""
        counts: Counter[int] = Counter()
        # The journal has a line twice now and then, when a file of it was full.
        told = {
            (event["ts"], event["at"]): event for event in events(self._host, "crypto-producer", "page_acknowledged")
        }
        for (ts, _), event in told.items():
            counts[ts] += event["messages"]
        self._acknowledged |= counts
        return self._acknowledged

    def pauses(self, since: float, until: float) -> list[float]:
        """The seconds between consecutive polls, as the topic has them, of those between two times in epoch seconds."""
        times = sorted(ts for coin, ts in (message.key for message in self.messages()) if coin == COIN)
        return [(later - earlier) / 1000 for earlier, later in pairwise(times) if since <= later / 1000 <= until]

    def compare(self, limit: float = 180) -> list[Message]:
        """Compare what Kafka acknowledged with the rows of the table, by keys and prices; returns what was compared.

        Raises MismatchError when after the limit they are not the same. What the job has set aside as no price is not
        expected to have a row, and does not count as a price that was acknowledged.
        """
        acknowledged = dict(self.acknowledged())
        messages = self.messages()
        rows: dict[Key, float] = {}

        def complete() -> bool:
            nonlocal rows
            expected = self._prices(messages).keys()
            missing = expected - rows.keys()
            # One of them is asked for before all are read again.
            look = "SELECT ts FROM crypto.prices WHERE id = %s AND ts = %s"
            if rows and missing and not self.cql(look, *min(missing)):
                return False
            rows = self.rows()
            return expected <= rows.keys()

        # What is still missing is looked at below.
        with contextlib.suppress(AssertionError):
            wait_for(complete, "a row for each message", limit)
        expected = self._prices(messages)
        pages = Counter(ts for _, ts in expected)
        lost = {ts: count - pages[ts] for ts, count in acknowledged.items() if count > pages[ts]}
        absent = expected.keys() - rows.keys()
        changed = {key for key, price in expected.items() if key in rows and rows[key] != price}
        # Read again, because rows have arrived since.
        surplus = rows.keys() - self._prices(self.messages(TOPIC, messages)).keys()
        if lost or absent or surplus or changed:
            raise MismatchError(lost, absent, surplus, changed)
        return messages

    def _prices(self, messages: list[Message]) -> dict[Key, float | None]:
        """The prices of those messages that have not been set aside, by their keys."""
        dead = self.dead_letters()
        return {message.key: message.price for message in messages if message.position not in dead}


def samples(messages: list[Message], late: dict[Position, Any]) -> list[Sample]:
    """What candles are made of, in the order in which Kafka took it."""
    return [
        Sample(message.fields["id"], message.fields["ts"], message.price or 0, message.fields.get("volume24_usd"))
        for message in sorted(messages, key=lambda message: message.came)
        if message.position not in late
    ]


def wrong_candles(
    table: dict[CandleKey, Candle], before: list[Sample], after: list[Sample], with_late: list[Sample]
) -> list[str]:
    """Candles that differ; one that has grown meanwhile may be anywhere in between, one that was repaired has all."""
    least, most, whole = oracle.candles(before), oracle.candles(after), oracle.candles(with_late)
    wrong = [f"candle {key}: nobody sent it" for key in table.keys() - whole.keys()]
    for key, wanted in least.items():
        found = table.get(key)
        grows = wanted != most[key] and found is not None and wanted.samples <= found.samples <= most[key].samples
        if found not in (wanted, whole[key]) and not grows:
            wrong.append(f"candle {key}: {found} in place of {wanted}")
    return wrong


BOARD = ("name", "symbol", "rank", "price_usd", "volume24_usd", "market_cap_usd")
BOARD += ("percent_change_1h", "percent_change_24h", "percent_change_7d")


def wrong_board(board: dict[str, Any], before: list[Message], after: list[Message]) -> list[str]:
    """Coins whose row is older than what was there before, or not what its message says."""
    newest: dict[str, int] = {}
    for message in before:
        coin = message.fields["id"]
        newest[coin] = max(newest.get(coin, 0), min(message.fields["ts"], message.came))
    said = {(message.fields["id"], message.fields["ts"]): message for message in after}
    wrong = [f"{coin}: not on the board" for coin in newest.keys() - board.keys()]
    for coin, row in board.items():
        message = said.get((coin, row.ts))
        if message is None:
            wrong.append(f"{coin} at {row.ts}: nobody sent it")
        elif min(row.ts, message.came) < newest.get(coin, 0):
            wrong.append(f"{coin}: of {row.ts}, and there is a newer one")
        elif any(getattr(row, name) != message.fields.get(name) for name in BOARD):
            wrong.append(f"{coin}: {row} in place of {message.fields}")
    return wrong


def wrong_market(table: dict[int, Any], before: list[Message], after: list[Message]) -> list[str]:
    """Moments of the market that are missing, or are another thing than their messages say."""
    said = {message.fields["ts"]: message.fields for message in after}
    wrong = [f"market at {ts}: missing" for ts in {message.fields["ts"] for message in before} - table.keys()]
    for ts, row in table.items():
        if ts not in said or any(getattr(row, name) != value for name, value in said[ts].items() if hasattr(row, name)):
            wrong.append(f"market at {ts}: {row} in place of {said.get(ts)}")
    return wrong
