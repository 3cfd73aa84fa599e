from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest
from crypto_stream.coinlore import (
    CoinLore,
    CoinLoreError,
    RateLimiter,
    Rejected,
    Ticker,
    World,
    parse_ticker,
)
from crypto_stream.config import Market
from crypto_stream.messages import MAX_TEXT_CHARS
from crypto_stream.simulator import FROZEN_TIME, Server
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


@dataclass
class Poll:
    """All pages of a poll together."""

    tickers: list[Ticker] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def poll_of(api: CoinLore, coins: int) -> Poll:
    poll = Poll()
    for part in api.top(coins):
        poll.tickers += part.tickers
        poll.rejected += part.rejected
        poll.errors += [part.error] if part.error else []
    return poll


def full(start: int, count: int = 100, **changes: Any) -> list[dict[str, Any]]:
    return [ticker(id=str(start + number), **changes) for number in range(count)]


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


GOOD = httpx.Response(200, json=page(*full(0)))


# ---- tickers


def test_a_ticker_as_documented() -> None:
    parsed = parse_ticker(ticker())
    assert isinstance(parsed, Ticker)
    assert (parsed.id, parsed.name, parsed.symbol, parsed.rank) == ("90", "Bitcoin", "BTC", 1)
    assert parsed.price_usd == 64000.12
    assert parsed.percent_change_24h == -1.2
    assert parsed.percent_change_1h == 0.1
    assert parsed.percent_change_7d == 3.0
    assert (parsed.market_cap_usd, parsed.volume24) == (1.26e12, 22789803155.8)


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"msupply": ""}, "name", "Bitcoin"),
        ({"market_cap_usd": ""}, "market_cap_usd", None),
        ({"market_cap_usd": None}, "market_cap_usd", None),
        ({"market_cap_usd": "-1"}, "market_cap_usd", None),
        ({"volume24": -0.5}, "volume24", None),
        ({"symbol": "B\x1b[2J"}, "symbol", None),
        ({"rank": -1}, "rank", None),
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
        (ticker(name="x" * (MAX_TEXT_CHARS + 1)), "name: too long"),
        (ticker(name="\u00a0 "), "name: no text"),
        (ticker(name="a\x1b[2J"), "name: control characters"),
        (ticker(id="9\n0"), "id: control characters"),
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
    handler, requests = answers(*(httpx.Response(200, json=page(*full(100 * n))) for n in range(3)))
    poll = poll_of(client(handler), 250)
    assert [dict(request.url.params) for request in requests] == [
        {"start": "0", "limit": "100"},
        {"start": "100", "limit": "100"},
        {"start": "200", "limit": "50"},
    ]
    assert [str(request.url.path) for request in requests] == ["/api/tickers/"] * 3
    # The server ignored the limit of the last page.
    assert [found.id for found in poll.tickers] == [str(number) for number in range(250)]
    assert poll.errors == []


def test_each_page_comes_as_soon_as_it_is_there_with_the_time_of_its_answer() -> None:
    clock = Clock()
    handler, requests = answers(*(httpx.Response(200, json=page(*full(100 * n))) for n in range(3)))
    api = CoinLore(
        Market(),
        transport=httpx.MockTransport(handler),
        clock=clock,
        sleep=clock.sleep,
        now=lambda: int(clock.now * 1000),
    )
    seen = [(part.ts, len(requests)) for part in api.top(300)]
    assert seen == [(1_000_000, 1), (1_001_000, 2), (1_002_000, 3)]


def test_at_most_one_request_a_second() -> None:
    clock = Clock()
    moments: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        moments.append(clock.now)
        return httpx.Response(500) if len(moments) == 2 else GOOD

    api = client(handler, clock)
    poll_of(api, 300)
    poll_of(api, 100)
    assert len(moments) == 5
    assert min(later - earlier for earlier, later in pairwise(moments)) >= 1


def test_fewer_coins_than_wanted_end_the_poll() -> None:
    handler, requests = answers(httpx.Response(200, json=page(*full(0, 80), coins=80)))
    poll = poll_of(client(handler), 1000)
    assert (len(poll.tickers), poll.errors, len(requests)) == (80, [], 1)


def test_as_many_coins_as_fill_their_pages_need_no_further_request() -> None:
    handler, requests = answers(*(httpx.Response(200, json=page(*full(100 * n), coins=200)) for n in range(3)))
    poll = poll_of(client(handler), 1000)
    assert (len(poll.tickers), poll.errors, len(requests)) == (200, [], 2)


def test_an_empty_page_ends_the_list_and_is_asked_for_once() -> None:
    handler, requests = answers(GOOD, httpx.Response(200, json=page(coins=101)))
    poll = poll_of(client(handler), 1000)
    assert (len(poll.tickers), poll.errors, len(requests)) == (100, [], 2)


def test_an_empty_page_with_much_to_come_is_an_error() -> None:
    handler, requests = answers(GOOD, httpx.Response(200, json=page(coins=14_000)))
    poll = poll_of(client(handler), 1000)
    assert poll.errors == ["coins 101 to 200: only 0 came, of 14000 that there are"]
    assert len(requests) == 2


def test_a_short_page_before_the_end_is_an_error_of_the_poll() -> None:
    handler, _ = answers(httpx.Response(200, json=page(*full(0, 40))), httpx.Response(200, json=page(*full(100))))
    poll = poll_of(client(handler), 200)
    assert poll.errors == ["coins 1 to 100: only 40 came, of 14000 that there are"]
    assert len(poll.tickers) == 140


@pytest.mark.parametrize("info", [{"coins_num": 1}, {"coins_num": "many"}, {}, None])
def test_tickers_count_for_more_than_the_number_of_them(info: Any) -> None:
    pages = [httpx.Response(200, json={"data": full(100 * n), "info": info}) for n in range(5)]
    handler, _ = answers(*pages, httpx.Response(200, json={"data": full(500, 30), "info": info}))
    poll = poll_of(client(handler), 1000)
    assert len(poll.tickers) == 530


def test_a_coin_on_two_pages_counts_once() -> None:
    handler, _ = answers(GOOD, httpx.Response(200, json=page(*full(99, rank=200))))
    poll = poll_of(client(handler), 200)
    assert [found.id for found in poll.tickers] == [str(number) for number in range(199)]
    assert poll.tickers[99].rank == 1


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
    assert poll_of(client(handler), 100).tickers[0].name == "Bitcoin"
    assert len(requests) == 3


def test_trying_again_ends_and_waits_longer_each_time() -> None:
    clock = Clock()
    handler, requests = answers(httpx.Response(500))
    poll = poll_of(client(handler, clock, attempts=5, request_interval_seconds=0), 100)
    assert poll.errors == ["coins 1 to 100: HTTP status 500"]
    assert len(requests) == 5
    backoff = [seconds for seconds in clock.sleeps if seconds > 0]
    assert len(backoff) == 4
    for number, seconds in enumerate(backoff):
        assert 0.5 * 2**number <= seconds <= 0.5 * 2**number + 0.5


@pytest.mark.parametrize("status", [404, 301])
def test_an_answer_that_will_not_change_is_not_tried_again(status: int) -> None:
    handler, requests = answers(httpx.Response(status, headers={"Location": "https://www.example/"}))
    assert poll_of(client(handler), 100).errors == [f"coins 1 to 100: HTTP status {status}"]
    assert len(requests) == 1


def test_retry_after_is_honoured() -> None:
    clock = Clock()
    moments: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        moments.append(clock.now)
        return httpx.Response(429, headers={"Retry-After": "15"}) if len(moments) == 1 else GOOD

    poll_of(client(handler, clock), 100)
    assert moments[1] - moments[0] >= 15


def test_a_long_retry_after_ends_this_poll_and_keeps_later_ones_away() -> None:
    clock = Clock()
    handler, requests = answers(httpx.Response(429, headers={"Retry-After": "600"}), GOOD)
    api = client(handler, clock)
    assert "stay away" in poll_of(api, 100).errors[0]
    assert "stay away" in poll_of(api, 100).errors[0]
    assert len(requests) == 1
    clock.now += 600
    assert poll_of(api, 100).tickers


def test_nobody_stays_away_for_longer_than_an_hour() -> None:
    clock = Clock()
    handler, _ = answers(httpx.Response(429, headers={"Retry-After": "1000000"}), GOOD)
    api = client(handler, clock)
    assert "stay away" in poll_of(api, 100).errors[0]
    clock.now += 3601
    assert poll_of(api, 100).tickers


def test_a_long_interval_is_not_taken_for_a_servers_wish() -> None:
    handler, requests = answers(GOOD, httpx.Response(200, json=page(*full(100))))
    clock = Clock()
    assert poll_of(client(handler, clock, request_interval_seconds=60), 200).errors == []
    assert len(requests) == 2
    assert sum(clock.sleeps) == 60


@pytest.mark.parametrize(
    "value",
    [
        "-5",
        "nan",
        "inf",
        "soon",
        "",
        "Mon, 99 Foo 2020 00:00:00 GMT",
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Mon, 01 Jan 2020 00:00:00",
    ],
)
def test_a_senseless_retry_after_does_no_harm(value: str) -> None:
    handler, _ = answers(httpx.Response(429, headers={"Retry-After": value}), GOOD)
    assert poll_of(client(handler), 100).tickers


def test_retry_after_may_be_a_date() -> None:
    clock = Clock()
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=12), usegmt=True)
    handler, _ = answers(httpx.Response(503, headers={"Retry-After": date}), GOOD)
    poll_of(client(handler, clock), 100)
    assert 10 <= sum(clock.sleeps) <= 13


def test_one_page_that_fails_costs_only_its_own_coins() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        start = request.url.params["start"]
        return httpx.Response(500) if start == "100" else httpx.Response(200, json=page(*full(int(start))))

    poll = poll_of(client(handler), 400)
    assert len(poll.tickers) == 300
    assert poll.errors == ["coins 101 to 200: HTTP status 500"]


def test_a_server_that_went_away_is_not_asked_for_every_page() -> None:
    handler, requests = answers(GOOD, httpx.ConnectError("refused"))
    poll = poll_of(client(handler, attempts=2), 14_000)
    assert (len(poll.tickers), len(poll.errors), len(requests)) == (100, 2, 5)


def test_pages_that_fail_now_and_then_do_not_add_up() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params["start"])
        return httpx.Response(500) if start % 200 else httpx.Response(200, json=page(*full(start)))

    assert len(poll_of(client(handler, attempts=1), 1000).tickers) == 500


def test_rejected_tickers_do_not_fail_the_poll() -> None:
    handler, _ = answers(httpx.Response(200, json=page(ticker(id="1", price_usd="n/a"), *full(2, 99))))
    poll = poll_of(client(handler), 100)
    assert len(poll.tickers) == 99
    assert [item.payload["id"] for item in poll.rejected] == ["1"]


def test_numbers_that_are_none_cost_one_ticker_not_a_page() -> None:
    body = json.dumps(page(ticker(price_usd=math.nan), ticker(id="1", price_usd="BIG"), *full(2, 98))).encode()
    handler, _ = answers(httpx.Response(200, content=body.replace(b'"BIG"', b"9" * 5000)))
    poll = poll_of(client(handler), 100)
    assert (len(poll.tickers), len(poll.rejected), poll.errors) == (98, 2, [])


class Drip(httpx.AsyncByteStream):
    """A body that comes a byte at a time, for ten seconds."""

    async def __aiter__(self) -> Any:
        for _ in range(1000):
            await asyncio.sleep(0.01)
            yield b" "


def test_an_answer_that_trickles_in_fails_at_its_deadline() -> None:
    handler, _ = answers(httpx.Response(200, stream=Drip()))
    poll = poll_of(client(handler, attempts=1, request_timeout_seconds=0.3), 100)
    assert poll.errors == ["coins 1 to 100: no whole answer within 0.3 s"]


def test_an_answer_without_an_end_is_cut_off() -> None:
    handler, _ = answers(httpx.Response(200, content=b" " * 6_000_000))
    assert "more than 5000000 bytes" in poll_of(client(handler, attempts=1), 100).errors[0]


def test_waiting_is_offered_before_each_request() -> None:
    """So that a service can tell its watchdog, even when nothing has to be waited for."""
    clock = Clock()
    handler, requests = answers(GOOD, httpx.Response(200, json=page(*full(100))))
    poll_of(client(handler, clock, request_interval_seconds=0), 200)
    assert len(clock.sleeps) == len(requests) == 2


def test_the_limiter_does_not_save_up_turns() -> None:
    clock = Clock()
    limiter = RateLimiter(1, clock, clock.sleep)
    limiter.acquire()
    clock.now += 100
    limiter.acquire()
    limiter.acquire()
    assert clock.sleeps == [0, 0, 1]


def test_the_limiter_refuses_to_wait_for_ever() -> None:
    clock = Clock()
    limiter = RateLimiter(1, clock, clock.sleep)
    limiter.keep_away(300)
    with pytest.raises(CoinLoreError, match="another 300 s"):
        limiter.acquire()


# ---- against the real simulator


def real(simulator: Server, clock: Clock, **market: Any) -> CoinLore:
    host, port = simulator.server_address[:2]
    return CoinLore(Market(api_url=f"http://{host!s}:{port}/api", **market), clock=clock, sleep=clock.sleep)


def test_every_coin_of_the_simulator_is_understood(simulator: Server) -> None:
    with real(simulator, Clock()) as api:
        poll = poll_of(api, 1000)
    assert len(poll.tickers) == 250
    assert (poll.rejected, poll.errors) == ([], [])
    assert [found.rank for found in poll.tickers] == list(range(1, 251))
    assert all(found.volume24 and found.market_cap_usd for found in poll.tickers)


def test_coins_by_their_ids(simulator: Server) -> None:
    with real(simulator, Clock()) as api:
        (first,) = api.these(["80", "90", "nobody"])
        many = list(api.these([str(number) for number in range(250)]))
    assert {found.id for found in first.tickers} == {"80", "90"}
    assert first.error == "coins nobody: the API does not know them"
    assert len(many) == 3


def test_a_coin_whose_ticker_is_rejected_is_known_to_the_api() -> None:
    handler, _ = answers(httpx.Response(200, json=[ticker(id="90", price_usd="n/a")]))
    with client(handler) as api:
        (page,) = api.these(["90"])
    assert (len(page.rejected), page.error) == (1, "")


def test_ids_whose_page_fails_are_named_and_two_in_a_row_are_enough() -> None:
    handler, requests = answers(httpx.Response(404))
    with client(handler, request_interval_seconds=0) as api:
        pages = list(api.these([str(number) for number in range(450)]))
    assert len(pages) == len(requests) == 2
    assert pages[1].error.startswith("coins 100, 101, ")
    assert pages[1].error.endswith(": HTTP status 404")


def test_the_market_as_a_whole(simulator: Server) -> None:
    with real(simulator, Clock()) as api:
        world = api.world()
    assert isinstance(world, World)
    assert world.coins_count == 250
    assert world.total_mcap > world.total_volume > 0
    assert 0 < (world.eth_d or 0) < (world.btc_d or 0) < 100


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ([], "not an object"),
        ([3], "not an object"),
        ([{"total_mcap": "x", "total_volume": 1}], "total_mcap"),
        ([{"total_mcap": 1}], "total_volume: missing"),
    ],
)
def test_a_market_that_is_none_is_rejected_with_its_reason(answer: Any, found: str) -> None:
    handler, _ = answers(httpx.Response(200, json=answer))
    with client(handler) as api:
        world = api.world()
    assert isinstance(world, Rejected)
    assert found in world.reason


def test_what_the_market_does_not_say_is_not_guessed() -> None:
    told = {"total_mcap": 1, "total_volume": "2", "btc_d": "101", "eth_d": "", "mcap_change": "x", "coins_count": "5"}
    handler, _ = answers(httpx.Response(200, json=[told]))
    with client(handler) as api:
        world = api.world()
    assert world == World(total_mcap=1, total_volume=2, coins_count=5)


def test_the_time_that_the_api_gives_its_values_comes_along(simulator: Server) -> None:
    with real(simulator, Clock()) as api:
        (fresh,) = api.top(1)
        simulator.faults.set("frozen", 2)
        frozen = [next(api.top(1)).market_time for _ in range(2)]
    assert fresh.market_time == pytest.approx(time.time(), abs=60)
    assert frozen == [FROZEN_TIME, FROZEN_TIME]


@pytest.mark.parametrize("kind", ["http_429", "http_500", "html", "truncated", "empty", "reset"])
def test_every_fault_of_the_simulator_is_overcome(simulator: Server, kind: str) -> None:
    simulator.faults.set(kind, 2)
    with real(simulator, Clock()) as api:
        assert len(poll_of(api, 100).tickers) == 100


@pytest.mark.parametrize("kind", ["hang", "trickle"])
def test_an_answer_that_does_not_end_is_given_up_and_asked_for_again(simulator: Server, kind: str) -> None:
    """Byte by byte, whichever part of the answer it is, against a real socket."""
    simulator.faults.set(kind, 2)
    with real(simulator, Clock(), request_timeout_seconds=3, attempts=1) as api:
        assert poll_of(api, 100).errors == ["coins 1 to 100: no whole answer within 3 s"]
    with real(simulator, Clock(), request_timeout_seconds=3) as api:
        assert len(poll_of(api, 100).tickers) == 100
    assert simulator.faults.take() == ""


def test_bad_prices_of_the_simulator_are_rejected(simulator: Server) -> None:
    simulator.faults.set("bad_price", 1)
    with real(simulator, Clock()) as api:
        poll = poll_of(api, 100)
        assert len(poll.rejected) == 5
        assert len(poll.tickers) == 95
        assert len(poll_of(api, 100).tickers) == 100
