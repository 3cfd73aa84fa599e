"""Messages in the topic that are no prices: set aside with where they were, and the job lives on."""

from __future__ import annotations

import json
import time

import pytest
from sandbox import properties, wait_for
from stream import TOPIC, Stream
from testinfra.host import Host

PRICE = {"schema_version": 1, "id": "90", "name": "Bitcoin", "price_usd": 64000.0, "ts": 1_700_000_000_000}
BAD = {
    "malformed": b'{"schema_version": 1, "id": "90", ',
    "a negative price": json.dumps(PRICE | {"price_usd": -1.0}).encode(),
    "a time to come": json.dumps(PRICE | {"ts": 4_000_000_000_000}).encode(),
    "binary": bytes(range(256)),
    "empty": None,
    "an id that Cassandra would refuse": json.dumps(PRICE | {"id": "x" * 70_000}).encode(),
    "two objects": json.dumps(PRICE).encode() * 2,
    "an object where text is expected": json.dumps(PRICE | {"name": {"a": 1}}).encode(),
    "orders to a terminal": json.dumps(PRICE | {"name": "a\x1b[2J"}).encode(),
}


@pytest.fixture(scope="module")
def positions(stream: Stream) -> dict[str, tuple[int, int]]:
    """Where in the topic each of them is."""
    return {what: stream.send(value) for what, value in BAD.items()}


@pytest.mark.parametrize("what", BAD)
def test_is_set_aside(stream: Stream, positions: dict[str, tuple[int, int]], what: str) -> None:
    letter = wait_for(lambda: stream.dead_letters().get(positions[what]), "a row in crypto.dead_letters", 60)
    assert (letter.topic, letter.value) == (TOPIC, BAD[what])
    assert letter.reason


def test_nothing_else_is_and_the_job_lives_on(
    host: Host, stream: Stream, positions: dict[str, tuple[int, int]]
) -> None:
    restarts = properties(host, "crypto-stream-job", "NRestarts", "MainPID")
    stream.wait_until_it_flows(time.time())
    assert set(stream.dead_letters()) == set(positions.values())
    assert properties(host, "crypto-stream-job", "NRestarts", "MainPID") == restarts
    stream.compare()
