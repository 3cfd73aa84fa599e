from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest
from crypto_stream.coinlore import (
    CoinLore,
    CoinLoreError,
    PollFailedError,
    RateLimiter,
    Rejected,
    Ticker,
    TransientError,
    parse_ticker,
)
from crypto_stream.config import Market
from crypto_stream.simulator import Server
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def ticker(**changes: Any) -> dict[str, Any]:
    return {
        "id": "90",
        "symbol": "BTC",
        "name": "Bitcoin",
        "nameid": "bitcoin",
        "rank": 1,
        "price_usd": "64000.12",
        "percent_change_24h": "-1.20",
        "percent_change_1h": "0.10",
        "percent_change_7d": "3.00",
        "price_btc": "1.00",
        "market_cap_usd": "1260000000000.00",
        "volume24": 22789803155.8,
        "volume24a": 20510822840.2,
        "csupply": "19700000.00",
        "tsupply": "19700000",
        "msupply": "21000000",
    } | changes


def page(*tickers: dict[str, Any], coins: int = 14_000) -> dict[str, Any]:
    return {"data": list(tickers), "info": {"coins_num": coins, "time": 1_700_000_000}}


Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, clock: Clock | None = None, **market: Any) -> CoinLore:
    clock = clock or Clock()
    return CoinLore(Market(**market), transport=httpx.MockTransport(handler), clock=clock, sleep=clock.sleep)


def answers(*responses: httpx.Response | Exception) -> tuple[Handler, list[httpx.Request]]:
    """One after the other; the last one goes on for ever."""
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        response = responses[min(len(requests), len(responses) - 1)]
        requests.append(request)
        if isinstance(response, Exception):
            raise response
        return response

    return handler, requests


GOOD = httpx.Response(200, json=page(ticker()))


# ---- tickers


def test_a_ticker_as_documented() -> None:
    parsed = parse_ticker(ticker())
    assert isinstance(parsed, Ticker)
    assert (parsed.id, parsed.name, parsed.symbol, parsed.rank) == ("90", "Bitcoin", "BTC", 1)
    assert parsed.price_usd == 64000.12
    assert parsed.percent_change_24h == -1.2
    assert parsed.msupply == 21_000_000


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"msupply": ""}, "msupply", None),
        ({"msupply": None}, "msupply", None),
        ({"volume24": "22789803155.8"}, "volume24", 22789803155.8),
        ({"volume24": "?"}, "volume24", None),
        ({"market_cap_usd": "Infinity"}, "market_cap_usd", None),
        ({"price_usd": 64000}, "price_usd", 64000.0),
        ({"price_usd": "1e-9"}, "price_usd", 1e-9),
        ({"price_usd": 0}, "price_usd", 0.0),
        ({"id": 90}, "id", "90"),
        ({"rank": "1"}, "rank", 1),
        ({"rank": "first"}, "rank", None),
        ({"rank": True}, "rank", None),
        ({"symbol": ""}, "symbol", None),
        ({"something_new": {}}, "name", "Bitcoin"),
    ],
)
def test_quirks_that_are_put_up_with(changes: dict[str, Any], field: str, expected: Any) -> None:
    parsed = parse_ticker(ticker(**changes))
    assert isinstance(parsed, Ticker)
    assert getattr(parsed, field) == expected


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (ticker(price_usd="n/a"), "price_usd: no number, got 'n/a'"),
        (ticker(price_usd=""), "price_usd: no number, got ''"),
        (ticker(price_usd=None), "price_usd: no number, got None"),
        (ticker(price_usd=True), "price_usd: no number, got True"),
        (ticker(price_usd="1_000"), "price_usd: no number, got '1_000'"),
        (ticker(price_usd="NaN"), "price_usd: no finite number, got 'NaN'"),
        (ticker(price_usd=math.inf), "price_usd: no finite number, got inf"),
        (ticker(price_usd="1e999"), "price_usd: no finite number, got '1e999'"),
        (ticker(price_usd=10**400), "price_usd: no finite number, got 1000"),
        (ticker(price_usd="-0.01"), "price_usd: Input should be greater than or equal to 0, got"),
        ({key: value for key, value in ticker().items() if key != "id"}, "id: missing"),
        (ticker(id=""), "id: no text"),
        (ticker(id=None), "id: no text"),
        (ticker(name="\ud800"), "name: no valid text"),
        (ticker(name="x" * 1000), "name: too long"),
        ("a string", "not an object"),
        (None, "not an object"),
    ],
)
def test_what_cannot_be_used_is_rejected_with_its_reason(payload: Any, reason: str) -> None:
    parsed = parse_ticker(payload)
    assert isinstance(parsed, Rejected)
    assert parsed.reason.startswith(reason)
    assert parsed.payload == payload
    assert len(parsed.reason) < 500


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(anything | st.dictionaries(st.sampled_from(list(ticker())), anything))
def test_no_ticker_makes_parsing_fail(payload: Any) -> None:
    parsed = parse_ticker(payload)
    if isinstance(parsed, Ticker):
        assert math.isfinite(parsed.price_usd)
        assert parsed.price_usd >= 0
        assert parsed.id.encode()
        assert parsed.name.encode()


# ---- polls


def test_pages_are_asked_for_in_order_and_not_larger_than_allowed() -> None:
    handler, requests = answers(*(httpx.Response(200, json=page(ticker(id=str(n)))) for n in range(3)))
    poll = client(handler).top(250)
    assert [dict(request.url.params) for request in requests] == [
        {"start": "0", "limit": "100"},
        {"start": "100", "limit": "100"},
        {"start": "200", "limit": "50"},
    ]
    assert [str(request.url.path) for request in requests] == ["/api/tickers/"] * 3
    assert [found.id for found in poll.tickers] == ["0", "1", "2"]


def test_at_most_one_request_a_second() -> None:
    clock = Clock()
    moments: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        moments.append(clock.now)
        return httpx.Response(500) if len(moments) == 2 else GOOD

    api = client(handler, clock)
    api.top(300)
    api.top(100)
    assert len(moments) == 5
    assert min(later - earlier for earlier, later in pairwise(moments)) >= 1


def test_fewer_coins_than_wanted_end_the_poll() -> None:
    handler, requests = answers(httpx.Response(200, json=page(ticker(), coins=80)))
    assert len(client(handler).top(1000).tickers) == 1
    assert len(requests) == 1


def test_a_coin_on_two_pages_counts_once() -> None:
    handler, _ = answers(httpx.Response(200, json=page(ticker())), httpx.Response(200, json=page(ticker(rank=101))))
    assert [found.rank for found in client(handler).top(200).tickers] == [1]


@pytest.mark.parametrize(
    "bad",
    [
        httpx.Response(429),
        httpx.Response(429, headers={"Retry-After": "3"}),
        httpx.Response(500),
        httpx.Response(503, html="<h1>down</h1>"),
        httpx.Response(200, html="<html>Just a moment...</html>"),
        httpx.Response(200, content=b'{"data": [{"id": "90", "na'),
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, content=b"\xff\xfe\x00"),
        httpx.Response(200, json=page()),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"data": None}),
        httpx.Response(200, json={}),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
        httpx.DecodingError("no gzip"),
    ],
    ids=lambda bad: f"{type(bad).__name__}-{getattr(bad, 'status_code', '')}",
)
def test_a_bad_answer_is_tried_again(bad: httpx.Response | Exception) -> None:
    handler, requests = answers(bad, bad, GOOD)
    assert client(handler).top(100).tickers[0].name == "Bitcoin"
    assert len(requests) == 3


def test_trying_again_ends_and_waits_longer_each_time() -> None:
    clock = Clock()
    handler, requests = answers(httpx.Response(500))
    with pytest.raises(PollFailedError, match="coins 1 to 100: HTTP status 500"):
        client(handler, clock, attempts=5, request_interval_seconds=0).top(100)
    assert len(requests) == 5
    backoff = [seconds for seconds in clock.sleeps if seconds > 0]
    assert len(backoff) == 4
    for number, seconds in enumerate(backoff):
        assert 0.5 * 2**number <= seconds <= 0.5 * 2**number + 0.5


def test_an_answer_that_will_not_change_is_not_tried_again() -> None:
    handler, requests = answers(httpx.Response(404))
    with pytest.raises(PollFailedError, match="404"):
        client(handler).top(100)
    assert len(requests) == 1


def test_retry_after_is_honoured() -> None:
    clock = Clock()
    moments: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        moments.append(clock.now)
        return httpx.Response(429, headers={"Retry-After": "15"}) if len(moments) == 1 else GOOD

    client(handler, clock).top(100)
    assert moments[1] - moments[0] >= 15


def test_a_long_retry_after_ends_this_poll_and_keeps_later_ones_away() -> None:
    clock = Clock()
    handler, requests = answers(httpx.Response(429, headers={"Retry-After": "600"}), GOOD)
    api = client(handler, clock)
    with pytest.raises(PollFailedError, match="stay away"):
        api.top(100)
    with pytest.raises(PollFailedError, match="stay away"):
        api.top(100)
    assert len(requests) == 1
    clock.now += 600
    assert api.top(100).tickers


@pytest.mark.parametrize("value", ["-5", "nan", "inf", "soon", "", "Mon, 99 Foo 2020 00:00:00 GMT"])
def test_a_senseless_retry_after_does_no_harm(value: str) -> None:
    handler, _ = answers(httpx.Response(429, headers={"Retry-After": value}), GOOD)
    assert client(handler).top(100).tickers


def test_retry_after_may_be_a_date() -> None:
    clock = Clock()
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=12), usegmt=True)
    handler, _ = answers(httpx.Response(503, headers={"Retry-After": date}), GOOD)
    client(handler, clock).top(100)
    assert 10 <= sum(clock.sleeps) <= 13


def test_one_page_that_fails_costs_only_its_own_coins() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        start = request.url.params["start"]
        return httpx.Response(500) if start == "100" else httpx.Response(200, json=page(ticker(id=start)))

    poll = client(handler).top(400)
    assert [found.id for found in poll.tickers] == ["0", "200", "300"]
    assert len(poll.errors) == 1
    assert poll.errors[0].startswith("coins 101 to 200")


def test_a_server_that_went_away_is_not_asked_for_every_page() -> None:
    handler, requests = answers(GOOD, httpx.ConnectError("refused"))
    poll = client(handler, attempts=2).top(14_000)
    assert len(poll.tickers) == 1
    assert len(poll.errors) == 2
    assert len(requests) == 5


def test_rejected_tickers_do_not_fail_the_poll() -> None:
    handler, _ = answers(httpx.Response(200, json=page(ticker(id="1", price_usd="n/a"), ticker(id="2"))))
    poll = client(handler).top(100)
    assert [found.id for found in poll.tickers] == ["2"]
    assert [item.payload["id"] for item in poll.rejected] == ["1"]


def test_bare_nan_in_json_is_a_rejected_price_not_a_failed_poll() -> None:
    body = json.dumps(page(ticker(price_usd=math.nan), ticker(id="2"))).encode()
    assert b"NaN" in body
    handler, _ = answers(httpx.Response(200, content=body))
    poll = client(handler).top(100)
    assert (len(poll.tickers), len(poll.rejected)) == (1, 1)


def test_ids_are_looked_up_in_pages() -> None:
    handler, requests = answers(httpx.Response(200, json=[ticker()]))
    assert len(client(handler).by_ids(str(number) for number in range(150)).tickers) == 1
    assert [len(request.url.params["id"].split(",")) for request in requests] == [100, 50]


def test_a_failed_lookup_is_a_typed_error() -> None:
    handler, _ = answers(httpx.Response(200, html="<html>"))
    with pytest.raises(TransientError):
        client(handler).by_ids(["90"])


def test_the_limiter_does_not_save_up_turns() -> None:
    clock = Clock()
    limiter = RateLimiter(1, clock, clock.sleep)
    limiter.acquire()
    clock.now += 100
    limiter.acquire()
    limiter.acquire()
    assert clock.sleeps == [1]


def test_the_limiter_refuses_to_wait_for_ever() -> None:
    clock = Clock()
    limiter = RateLimiter(1, clock, clock.sleep)
    limiter.keep_away(300)
    with pytest.raises(CoinLoreError, match="another 300 s"):
        limiter.acquire()


# ---- against the real simulator


def real(simulator: Server, clock: Clock) -> CoinLore:
    host, port = simulator.server_address[:2]
    return CoinLore(Market(api_url=f"http://{host!s}:{port}/api"), clock=clock, sleep=clock.sleep)


def test_every_coin_of_the_simulator_is_understood(simulator: Server) -> None:
    with real(simulator, Clock()) as api:
        poll = api.top(1000)
    assert len(poll.tickers) == 250
    assert (poll.rejected, poll.errors) == ([], [])
    assert [found.rank for found in poll.tickers] == list(range(1, 251))
    assert {found.msupply is None for found in poll.tickers} == {True, False}


@pytest.mark.parametrize("kind", ["http_429", "http_500", "html", "truncated", "empty"])
def test_every_fault_of_the_simulator_is_overcome(simulator: Server, kind: str) -> None:
    simulator.faults.set(kind, 2)
    with real(simulator, Clock()) as api:
        assert len(api.top(100).tickers) == 100


def test_bad_prices_of_the_simulator_are_rejected(simulator: Server) -> None:
    simulator.faults.set("bad_price", 1)
    with real(simulator, Clock()) as api:
        poll = api.top(100)
        assert len(poll.rejected) == 5
        assert len(poll.tickers) == 95
        assert len(api.top(100).tickers) == 100


def test_coins_of_the_simulator_by_id(simulator: Server) -> None:
    with real(simulator, Clock()) as api:
        names = [found.name for found in api.by_ids(["90", "80", "no-such-coin"]).tickers]
    assert names == ["Bitcoin", "Ethereum"]
