"""What flows through the host under test, seen from outside: the topic, the tables, and whether they agree."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import ConstantReconnectionPolicy, WhiteListRoundRobinPolicy
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from sandbox import UNITS, events, port, states, wait_for
from testinfra.host import Host

TOPIC = "crypto.prices"
COIN = "90"

# Tests take the host away from their clients; what those say of it is no news.
for name in ("cassandra", "kafka"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

# (coin, ts) of a price; for bytes that are none, what they are called by.
Key = tuple[str, int]
# (partition, offset)
Position = tuple[int, int]


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

    @property
    def key(self) -> Key:
        """What its row must have as its key."""
        try:
            price = json.loads(self.value or b"")
            return str(price["id"]), int(price["ts"])
        except (ValueError, TypeError, KeyError):
            return f"no price, in partition {self.position[0]} at offset", self.position[1]

    @property
    def price(self) -> float | None:
        """None where it is no price."""
        try:
            return float(json.loads(self.value or b"")["price_usd"])
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

    def messages(self, topic: str = TOPIC) -> list[Message]:
        """All that is in a topic now."""
        consumer = self.kafka()
        try:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            found: list[Message] = []
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                for records in consumer.poll(timeout_ms=1000).values():
                    found += [Message((record.partition, record.offset), record.value) for record in records]
            return found
        finally:
            consumer.close()

    def send(self, value: bytes | None) -> Position:
        """Put a message into the topic, through the published port."""
        producer = KafkaProducer(bootstrap_servers=[f"127.0.0.1:{port('KAFKA_PORT', 9092)}"])
        try:
            record = producer.send(TOPIC, value=value, key=b"test").get(timeout=30)
            return record.partition, record.offset
        finally:
            producer.close()

    def rows(self) -> dict[Key, float]:
        """The prices of the table by their keys."""
        return {(row.id, row.ts): row.price_usd for row in self.cql("SELECT id, ts, price_usd FROM crypto.prices")}

    def dead_letters(self) -> dict[Position, Any]:
        """What the stream job has set aside."""
        return {(row.partition, row.offset): row for row in self.cql("SELECT * FROM crypto.dead_letters")}

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
        for event in events(self._host, "crypto-producer", "page_acknowledged"):
            counts[event["ts"]] += event["messages"]
        self._acknowledged |= counts
        return self._acknowledged

    def pauses(self, since: float, until: float) -> list[float]:
        """The seconds between consecutive polls, as the topic has them, of those between two times in epoch seconds."""
        times = sorted(ts for coin, ts in (message.key for message in self.messages()) if coin == COIN)
        return [(later - earlier) / 1000 for earlier, later in pairwise(times) if since <= later / 1000 <= until]

    def compare(self, limit: float = 180) -> int:
        """Compare what Kafka acknowledged with the rows of the table, by keys and prices; returns how many there are.

        Raises MismatchError when after the limit they are not the same. What the job has set aside as no price is not
        expected to have a row, and does not count as a price that was acknowledged.
        """
        acknowledged = dict(self.acknowledged())
        messages = self.messages()

        def missing() -> set[Key]:
            return self._prices(messages).keys() - self.rows().keys()

        # What is still missing is looked at below.
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not missing(), "a row for each message", limit)
        expected = self._prices(messages)
        pages = Counter(ts for _, ts in expected)
        lost = {ts: count - pages[ts] for ts, count in acknowledged.items() if count > pages[ts]}
        rows = self.rows()
        absent = expected.keys() - rows.keys()
        changed = {key for key, price in expected.items() if key in rows and rows[key] != price}
        # Read again, because rows have arrived since.
        surplus = rows.keys() - self._prices(self.messages()).keys()
        if lost or absent or surplus or changed:
            raise MismatchError(lost, absent, surplus, changed)
        return len(rows)

    def _prices(self, messages: list[Message]) -> dict[Key, float | None]:
        """The prices of those messages that have not been set aside, by their keys."""
        dead = self.dead_letters()
        return {message.key: message.price for message in messages if message.position not in dead}
