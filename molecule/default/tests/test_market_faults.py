"""The market's API misbehaves: the producer says so, lives on, and the next good poll goes through."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sandbox import events, properties, wait_for
from stream import Stream
from testinfra.host import Host

UNIT = "crypto-producer"
REASONS = {
    "http_429": "HTTP status 429",
    "http_500": "HTTP status 500",
    "html": "no JSON",
    "truncated": "no JSON",
    "empty": "the list of tickers is empty",
}
REQUEST = (
    "import sys, urllib.request as u;"
    "u.urlopen(u.Request('http://127.0.0.1:8090/faults', method=sys.argv[1], data=sys.argv[2].encode() or None))"
)


def faults(host: Host, kind: str | None, count: int) -> None:
    """Spoil the simulator's next answers, or none."""
    method, body = ("PUT", json.dumps({"kind": kind, "count": count})) if kind else ("DELETE", "")
    host.check_output("python3 -c %s %s %s", REQUEST, method, body)


@pytest.fixture(autouse=True, scope="module")
def _lives_on(host: Host, stream: Stream) -> Iterator[None]:
    """It is the same process after all of them, its next poll arrives, and nothing is missing."""
    before = properties(host, UNIT, "MainPID", "NRestarts")
    yield
    stream.wait_until_it_flows(time.time())
    assert properties(host, UNIT, "MainPID", "NRestarts") == before
    stream.compare()


@pytest.fixture(autouse=True)
def _is_repaired(host: Host) -> Iterator[None]:
    yield
    faults(host, None, 0)


def wait_for_event(host: Host, name: str, since: float) -> dict[str, Any]:
    return wait_for(lambda: events(host, UNIT, name, since), f"{name} in the journal of {UNIT}", 180)[0]


@pytest.mark.parametrize("kind", REASONS)
def test_a_poll_that_fails_is_logged(host: Host, kind: str) -> None:
    since = time.time()
    faults(host, kind, 1000)
    assert REASONS[kind] in wait_for_event(host, "poll_failed", since)["reason"]


# A poll fails of an answer that trickles in after three times its limit: a minute, which its unit test does without.
@pytest.mark.parametrize("kind", [*REASONS, "trickle"])
def test_an_answer_that_fails_is_asked_for_again(host: Host, coins: int, kind: str) -> None:
    # Between two polls, which end with the market: in the middle of one, the answer that fails would be the market's.
    wait_for_event(host, "market_acknowledged", time.time())
    since = time.time()
    faults(host, kind, 1)
    assert wait_for_event(host, "page_acknowledged", since)["messages"] == coins
    assert events(host, UNIT, "poll_failed", since) == []


def test_a_price_that_is_no_number_is_set_aside(host: Host, stream: Stream, coins: int) -> None:
    since = time.time()
    # One of two answers is that about the market as a whole.
    faults(host, "bad_price", 2)
    rejected = wait_for_event(host, "ticker_rejected", since)
    assert "price_usd" in rejected["reason"]
    acknowledged = wait_for(
        lambda: [event for event in events(host, UNIT, "page_acknowledged", since) if event["ts"] == rejected["ts"]],
        "the acknowledgement of the poll's good prices",
        60,
    )
    assert sum(event["messages"] + event["rejected"] for event in acknowledged) == coins
    kept = [json.loads(message.value or b"") for message in stream.messages("crypto.rejected")]
    assert len([entry for entry in kept if entry["ts"] == rejected["ts"]]) == sum(
        event["rejected"] for event in acknowledged
    )
    assert all(entry["reason"] and entry["payload"] for entry in kept)
