from __future__ import annotations

import math
import socket
import statistics
import struct
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest
from crypto_stream import simulator as module
from crypto_stream.simulator import FAULTS, KNOWN, LEVELS, Api, Market, Server, _as_price
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_750_000_000.0


def market(**changes: Any) -> Market:
    return Market(**({"coins": 14_000, "seed": 1, "refresh_seconds": 10, "volatility": 0.001} | changes))


def api(**changes: Any) -> Api:
    return Api(market(**changes), clock=lambda: NOW)


def address(simulator: Server) -> str:
    host, port = simulator.server_address[:2]
    return f"http://{host!s}:{port}"


def test_the_same_seed_and_moment_give_the_same_answers() -> None:
    assert api().tickers(0, 100) == api().tickers(0, 100)
    assert api().tickers(0, 100) != api(seed=2).tickers(0, 100)


@given(st.floats(1e-30, 1e7))
def test_a_price_is_written_out_and_not_lost(price: float) -> None:
    text = _as_price(price)
    assert "e" not in text
    assert float(text) == pytest.approx(price, rel=0.01)


def test_prices_hold_still_within_a_step_and_move_with_the_next() -> None:
    first, same, later = (
        Api(market(), clock=lambda now=now: now).ticker("90")[0]["price_usd"]  # type: ignore[misc]
        for now in (NOW, NOW + 9, NOW + 10)
    )
    assert first == same
    assert first != later


def test_the_walk_has_the_volatility_it_was_given() -> None:
    walk = market()
    coin = walk.coin(60)
    prices = [walk.price(coin, step) for step in range(2000)]
    returns = [math.log(later / earlier) for earlier, later in pairwise(prices)]
    assert statistics.pstdev(returns) == pytest.approx(0.001 * coin.liveliness, rel=0.1)
    assert abs(statistics.mean(returns)) < 0.0002 * coin.liveliness


def test_the_walk_returns_so_no_coin_drifts_away() -> None:
    walk = market()
    coin = walk.coin(0)
    assert walk.price(coin, 5 << LEVELS) == coin.usual_price
    # and arrives there step by step, not with a jump
    assert walk.price(coin, (5 << LEVELS) - 1) == pytest.approx(coin.usual_price, rel=0.005)


def test_changes_are_those_of_the_prices() -> None:
    now, then = (
        Api(market(), clock=lambda now=now: now).ticker("80")[0]  # type: ignore[misc]
        for now in (NOW, NOW - 3600)
    )
    change = (float(now["price_usd"]) / float(then["price_usd"]) - 1) * 100
    assert float(now["percent_change_1h"]) == pytest.approx(change, abs=0.006)


def test_all_coins_differ_and_are_found_by_id() -> None:
    walk = market()
    coins = [walk.coin(index) for index in range(walk.coins)]
    assert len({coin.id for coin in coins}) == walk.coins
    assert len({coin.name for coin in coins}) == walk.coins
    assert [walk.index_of(coin.id) for coin in coins[::501]] == list(range(walk.coins))[::501]
    assert walk.coin(0).name == "Bitcoin"
    assert walk.coin(0).id == "90"


@pytest.mark.parametrize("identifier", ["", "x", "-1", "100000", str(100_000 + 14_000), "0100060", "9" * 40, "²"])
def test_ids_that_do_not_exist(identifier: str) -> None:
    assert market().index_of(identifier) is None
    assert api().ticker(identifier) == []


def test_fields_and_types_of_a_ticker() -> None:
    for ticker in api().tickers(0, 100)["data"]:
        kinds = {key: type(value) for key, value in ticker.items()}
        assert kinds.pop("rank") is int
        assert kinds.pop("volume24a") is float
        assert kinds.pop("volume24") in (float, str)
        assert set(kinds.values()) == {str}
        assert float(ticker["price_usd"]) > 0
        assert "e" not in ticker["price_usd"]
    assert len(kinds) + 3 == 16


def test_quirks_are_there_to_be_met() -> None:
    tickers = api().tickers(0, 100)["data"]
    assert any(ticker["msupply"] == "" for ticker in tickers)
    assert any(isinstance(ticker["volume24"], str) for ticker in tickers)


@pytest.mark.parametrize(
    ("start", "limit", "count"),
    [(0, 100, 100), (0, 5000, 100), (0, 0, 1), (-5, 10, 10), (13_950, 100, 50), (14_000, 100, 0)],
)
def test_pages(start: int, limit: int, count: int) -> None:
    answer = api().tickers(start, limit)
    assert len(answer["data"]) == count
    assert answer["info"] == {"coins_num": 14_000, "time": int(NOW)}


@pytest.mark.parametrize("coins", [1, 2, len(KNOWN) + 1])
def test_small_markets_answer_too(coins: int) -> None:
    small = api(coins=coins)
    assert len(small.tickers(0, 100)["data"]) == coins
    assert float(small.world()[0]["btc_d"]) > 0


def test_the_other_endpoints(simulator: Server) -> None:
    with httpx.Client(base_url=address(simulator)) as http:
        (world,) = http.get("/api/global/").json()
        markets = http.get("/api/coin/markets/", params={"id": "90"}).json()
        exchanges = http.get("/api/exchanges/").json()
        assert http.get("/healthz").text == "ok\n"
        assert http.get("/api/nothing/").status_code == 404
        assert http.get("/api/tickers/", params={"start": "x"}).status_code == 400
    assert {"coins_count", "active_markets", "total_mcap", "btc_d", "eth_d", "avg_change_percent"} <= set(world)
    assert isinstance(world["avg_change_percent"], str)
    assert all(isinstance(row["price_usd"], float) and isinstance(row["time"], int) for row in markets)
    assert all(key == value["id"] for key, value in exchanges.items())


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_spoils_as_many_answers_as_asked(simulator: Server, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only time tells two of them from answers that are slow.
    monkeypatch.setattr(module, "TRICKLE_SECONDS", 60)
    patience = 2 if kind in ("hang", "trickle") else 60
    with httpx.Client(base_url=address(simulator), timeout=60) as http:
        assert http.put("/faults", json={"kind": kind, "count": 2}).json() == {"kind": kind, "count": 2}
        for left in (1, 0):
            assert spoilt(http, patience)
            assert http.get("/faults").json()["count"] == left
        assert not spoilt(http, 60)


def spoilt(http: httpx.Client, patience: float) -> bool:
    """Whether a page of tickers is anything but what was asked for, or does not come within seconds."""
    try:
        response = http.get("/api/tickers/?start=0&limit=100", timeout=patience)
        answer = response.json()
    except (httpx.HTTPError, ValueError):
        return True
    if response.status_code != 200 or answer["info"]["coins_num"] != 250 or len(answer["data"]) != 100:
        return True
    if abs(answer["info"]["time"] - time.time()) > 60:
        return True
    try:
        return any(not float(ticker["price_usd"]) > 0 for ticker in answer["data"])
    except (TypeError, ValueError):
        return True


def test_faults_can_be_taken_back(simulator: Server) -> None:
    with httpx.Client(base_url=address(simulator)) as http:
        http.put("/faults", json={"kind": "http_500", "count": 1000})
        assert http.delete("/faults").json() == {"kind": None, "count": 0}
        assert http.get("/api/ticker/?id=90").status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b'{"kind": "nonsense"}', b'{"kind": "html", "count": -1}', b"x" * 10_000]
)
def test_a_wrong_fault_is_refused(simulator: Server, body: bytes) -> None:
    assert httpx.put(f"{address(simulator)}/faults", content=body).status_code == 400
    assert httpx.get(f"{address(simulator)}/faults").json()["count"] == 0


def test_a_client_that_hangs_up_does_no_harm(simulator: Server, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(simulator.server_address[:2]) as connection:  # type: ignore[arg-type]
        connection.sendall(b"GET /api/tick")
    assert httpx.get(f"{address(simulator)}/healthz").status_code == 200
    with socket.create_connection(simulator.server_address[:2]) as connection:  # type: ignore[arg-type]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(b"GET /api/tickers/?limit=100 HTTP/1.1\r\n\r\n" * 50)
    assert httpx.get(f"{address(simulator)}/healthz").status_code == 200
    assert capfd.readouterr().err == ""


def test_a_length_that_is_no_number_is_refused(simulator: Server) -> None:
    with socket.create_connection(simulator.server_address[:2]) as connection:  # type: ignore[arg-type]
        connection.sendall("PUT /faults HTTP/1.1\r\nContent-Length: ²\r\n\r\n".encode("latin-1"))
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
