"""A stand-in for CoinLore: its endpoints, field names, types and quirks, over a seeded random walk.

Prices are a function of seed, coin and time step alone. Nothing is stored, so 14,000 coins need no more memory than
one, a restart continues where it was, and the changes over an hour, a day and a week are those of the walk itself.

For tests and demonstrations it can fail on purpose: `PUT /faults` with `{"kind": "http_429", "count": 3}` spoils the
next three answers of the API, `DELETE /faults` ends that, `GET /faults` shows it. Kinds: see `FAULTS`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from crypto_stream import config
from crypto_stream.systemd import notify

PAGE_SIZE = 100
FAULTS = (
    "http_429",
    "http_500",
    "html",
    "truncated",
    "empty",
    "bad_price",
    "short_page",
    "wrong_count",
    "frozen",
    "redirect",
    "hang",
    "trickle",
    "reset",
)
# Of a fault that keeps a client waiting: a byte so often, so many times. Nobody waits longer.
TRICKLE_SECONDS = 1.0
TRICKLE_BYTES = 120
# An API whose values stand still says the same time of them again and again.
FROZEN_TIME = 1_600_000_000
BAD_PRICES = ("n/a", "", "NaN", None, "-1.5")
# After 2**LEVELS steps the walk is back where it began, so no coin drifts away from its usual price for good.
LEVELS = 14
HEARTBEAT_SECONDS = 5.0
MAX_BODY_BYTES = 4096

# id, symbol, name, usual price in US dollars, coins in circulation in millions, how lively it is
KNOWN = (
    ("90", "BTC", "Bitcoin", 64_000.0, 19.7, 0.6),
    ("80", "ETH", "Ethereum", 3_200.0, 120.2, 0.8),
    ("518", "USDT", "Tether", 1.0, 112_000.0, 0.01),
    ("2710", "BNB", "Binance Coin", 580.0, 147.6, 0.7),
    ("48543", "SOL", "Solana", 145.0, 462.0, 1.2),
    ("33285", "USDC", "USD Coin", 1.0, 33_500.0, 0.01),
    ("58", "XRP", "XRP", 0.52, 55_500.0, 0.9),
    ("54683", "TON", "Toncoin", 7.2, 2_450.0, 1.1),
    ("2", "DOGE", "Dogecoin", 0.125, 144_800.0, 1.4),
    ("257", "ADA", "Cardano", 0.39, 35_700.0, 1.0),
    ("2713", "TRX", "TRON", 0.125, 87_200.0, 0.6),
    ("44883", "AVAX", "Avalanche", 27.5, 393.0, 1.3),
    ("45088", "SHIB", "Shiba Inu", 0.0000175, 589_270_000.0, 1.5),
    ("45219", "DOT", "Polkadot", 5.9, 1_380.0, 1.1),
    ("2751", "LINK", "ChainLink", 14.1, 608.0, 1.1),
    ("2321", "BCH", "Bitcoin Cash", 390.0, 19.7, 1.0),
    ("48563", "NEAR", "Near Protocol", 5.2, 1_090.0, 1.3),
    ("33536", "MATIC", "Polygon", 0.56, 9_900.0, 1.1),
    ("1", "LTC", "Litecoin", 74.0, 74.7, 0.8),
    ("47305", "UNI", "Uniswap", 9.3, 600.0, 1.3),
    ("12377", "LEO", "LEO Token", 5.8, 926.0, 0.4),
    ("33830", "DAI", "Dai", 1.0, 5_300.0, 0.01),
    ("47311", "ICP", "Internet Computer", 8.3, 465.0, 1.2),
    ("118", "ETC", "Ethereum Classic", 23.4, 147.5, 1.0),
    ("51469", "APT", "Aptos", 7.1, 455.0, 1.3),
    ("28", "XMR", "Monero", 165.0, 18.4, 0.6),
    ("89", "XLM", "Stellar", 0.091, 29_100.0, 0.9),
    ("33718", "CRO", "Cronos", 0.092, 26_600.0, 0.9),
    ("32607", "FIL", "Filecoin", 4.5, 565.0, 1.2),
    ("34406", "OKB", "OKB", 42.0, 60.0, 0.7),
    ("48555", "ATOM", "Cosmos", 6.7, 391.0, 1.0),
    ("45161", "ARB", "Arbitrum", 0.79, 3_200.0, 1.3),
    ("46018", "HBAR", "Hedera", 0.078, 35_700.0, 1.1),
    ("2741", "MKR", "Maker", 2_450.0, 0.93, 1.0),
    ("2737", "VET", "VeChain", 0.026, 72_700.0, 1.1),
    ("52460", "SUI", "Sui", 0.83, 2_480.0, 1.4),
    ("46981", "GRT", "The Graph", 0.21, 9_500.0, 1.2),
    ("46183", "AAVE", "Aave", 92.0, 14.8, 1.2),
    ("34391", "ALGO", "Algorand", 0.14, 8_200.0, 1.0),
    ("48561", "QNT", "Quant", 78.0, 14.5, 1.0),
    ("44082", "AXS", "Axie Infinity", 6.1, 146.0, 1.2),
    ("45985", "SAND", "The Sandbox", 0.33, 2_290.0, 1.2),
    ("3682", "XTZ", "Tezos", 0.79, 984.0, 0.9),
    ("45467", "EGLD", "MultiversX", 31.0, 27.1, 1.1),
    ("2679", "EOS", "EOS", 0.58, 1_500.0, 0.9),
    ("36072", "FTM", "Fantom", 0.58, 2_800.0, 1.4),
    ("133", "NEO", "NEO", 11.5, 70.5, 1.0),
    ("2335", "IOTA", "IOTA", 0.18, 3_400.0, 1.0),
    ("12", "DASH", "Dash", 26.0, 11.8, 0.8),
    ("134", "ZEC", "Zcash", 22.0, 16.3, 0.9),
)
GENERATED_FROM_ID = 100_000
SYLLABLES = (
    "al",
    "ba",
    "ce",
    "do",
    "en",
    "fi",
    "ga",
    "hel",
    "io",
    "ka",
    "lu",
    "me",
    "no",
    "or",
    "pi",
    "qua",
    "ri",
    "so",
    "ta",
)
SUFFIXES = ("Coin", "Token", "Protocol", "Network", "Finance", "Chain", "Swap", "Inu")
EXCHANGES = (("5", "Binance"), ("30", "Coinbase"), ("39", "Kraken"), ("13", "Bitfinex"), ("16", "Bitstamp"))
QUOTES = ("USDT", "USD", "USDC", "EUR", "BTC")


@dataclass(frozen=True)
class Coin:
    """What never changes about a coin. `supply` is in coins, `usual_price` in US dollars."""

    id: str
    symbol: str
    name: str
    rank: int
    usual_price: float
    supply: float
    liveliness: float


class Market:
    """All coins and their prices. `step` counts `refresh_seconds` since the epoch."""

    def __init__(self, coins: int, seed: int, refresh_seconds: float, volatility: float) -> None:
        self.coins = coins
        self._seed = seed
        self._refresh_seconds = refresh_seconds
        self._volatility = volatility

    def step(self, now: float) -> int:
        """The step that is current at `now`, in epoch seconds."""
        return math.floor(now / self._refresh_seconds)

    def coin(self, index: int) -> Coin:
        """The coin with rank `index + 1`."""
        if index < len(KNOWN):
            identifier, symbol, name, price, millions, liveliness = KNOWN[index]
            return Coin(identifier, symbol, name, index + 1, price, millions * 1e6, liveliness)
        dice = random.Random(f"{self._seed}/coin/{index}")  # noqa: S311 - no secret
        word = "".join(dice.choices(SYLLABLES, k=3))
        market_cap = 2e9 * (len(KNOWN) / (index + 1)) ** 1.6
        price = 10 ** dice.uniform(-5, 2)
        return Coin(
            id=str(GENERATED_FROM_ID + index),
            symbol=(word[:4] + str(index % 10)).upper(),
            name=f"{word.capitalize()} {dice.choice(SUFFIXES)} {index + 1}",
            rank=index + 1,
            usual_price=price,
            supply=market_cap / price,
            liveliness=dice.uniform(0.8, 2.5),
        )

    def index_of(self, identifier: str) -> int | None:
        """The opposite of `coin`; None for an id that does not exist."""
        index = _known_ids().get(identifier)
        if index is None and identifier.isascii() and identifier.isdigit() and len(identifier) < 10:
            index = int(identifier) - GENERATED_FROM_ID
            if index < len(KNOWN) or str(index + GENERATED_FROM_ID) != identifier:
                return None
        return index if index is not None and index < self.coins else None

    def price(self, coin: Coin, step: int) -> float:
        """In US dollars. The logarithm of a price is a Gaussian random walk, tied down every 2**LEVELS steps."""
        drift = self._walk(f"{self._seed}/{coin.id}", step) * self._volatility * coin.liveliness
        return coin.usual_price * math.exp(drift)

    def steps(self, seconds: float) -> int:
        """How many steps there are in that time, at least one."""
        return max(1, round(seconds / self._refresh_seconds))

    @staticmethod
    def _walk(key: str, step: int) -> float:
        """The walk's position in standard deviations of one step, by halving the interval that holds the step.

        The middle between two known points is their mean plus a deviation that fits the interval's length (Lévy's
        construction), so any step is reached in LEVELS draws and no step before it has to be computed.
        """
        period, position = divmod(step, 1 << LEVELS)
        low, high = 0, 1 << LEVELS
        at_low = at_high = 0.0
        while position not in (low, high):
            middle = (low + high) // 2
            at_middle = (at_low + at_high) / 2 + _gauss(f"{key}/{period}/{middle}") * math.sqrt(high - low) / 2
            if position < middle:
                high, at_high = middle, at_middle
            else:
                low, at_low = middle, at_middle
        return at_low if position == low else at_high


@lru_cache(maxsize=4096)
def _gauss(key: str) -> float:
    """A standard normal number that depends on the key alone, on every platform and in every process."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    first = (int.from_bytes(digest[:8], "big") + 1) / 2**64
    second = int.from_bytes(digest[8:], "big") / 2**64
    return math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)


@lru_cache(maxsize=1)
def _known_ids() -> dict[str, int]:
    return {row[0]: index for index, row in enumerate(KNOWN)}


class Api:
    """CoinLore's answers at one moment, as Python objects."""

    def __init__(self, market: Market, clock: Callable[[], float] = time.time) -> None:
        self._market = market
        self._clock = clock

    def tickers(self, start: int, limit: int) -> dict[str, Any]:
        """`/tickers/`: one page by rank."""
        start, limit = max(0, start), min(max(1, limit), PAGE_SIZE)
        stop = min(start + limit, self._market.coins)
        return {
            "data": [self._ticker(index) for index in range(start, stop)],
            "info": {"coins_num": self._market.coins, "time": int(self._clock())},
        }

    def ticker(self, identifiers: str) -> list[dict[str, Any]]:
        """`/ticker/`: some coins; ids that do not exist are left out."""
        indexes = [self._market.index_of(identifier.strip()) for identifier in identifiers.split(",")[:PAGE_SIZE]]
        return [self._ticker(index) for index in indexes if index is not None]

    def world(self) -> list[dict[str, Any]]:
        """`/global/`: sums over the known coins; the rest adds little and would cost much."""
        step = self._market.step(self._clock())
        day = self._market.steps(86_400)
        coins = [self._market.coin(index) for index in range(min(len(KNOWN), self._market.coins))]
        caps = [self._market.price(coin, step) * coin.supply for coin in coins]
        total = sum(caps)
        before = sum(self._market.price(coin, step - day) * coin.supply for coin in coins)
        change = f"{(total / before - 1) * 100:.2f}"
        return [
            {
                "coins_count": self._market.coins,
                "active_markets": self._market.coins * 3,
                "total_mcap": total,
                "total_volume": total * 0.05,
                "btc_d": f"{caps[0] / total * 100:.2f}",
                "eth_d": f"{(caps[1] if len(caps) > 1 else 0) / total * 100:.2f}",
                "mcap_change": change,
                "volume_change": change,
                "avg_change_percent": change,
                "volume_ath": 3_992_741_953_593.48,
                "mcap_ath": 2_912_593_726_674.33,
            }
        ]

    def markets(self, identifier: str) -> list[dict[str, Any]]:
        """`/coin/markets/`: where a coin is traded."""
        index = self._market.index_of(identifier)
        if index is None:
            return []
        coin = self._market.coin(index)
        now = self._clock()
        price = self._market.price(coin, self._market.step(now))
        volume = price * coin.supply * 0.01
        return [
            {
                "name": exchange,
                "base": coin.symbol,
                "quote": quote,
                "price": price,
                "price_usd": price,
                "volume": volume / (position + 1) / price,
                "volume_usd": volume / (position + 1),
                "time": int(now),
            }
            for position, ((_, exchange), quote) in enumerate(zip(EXCHANGES, QUOTES))
        ]

    def exchanges(self) -> dict[str, dict[str, Any]]:
        """`/exchanges/`: an object keyed by id."""
        return {
            identifier: {
                "id": identifier,
                "name": name,
                "name_id": name.lower(),
                "volume_usd": 9e9 / (position + 1),
                "active_pairs": 400 // (position + 1),
                "url": f"https://{name.lower()}.example",
                "country": "",
            }
            for position, (identifier, name) in enumerate(EXCHANGES)
        }

    def _ticker(self, index: int) -> dict[str, Any]:
        market = self._market
        step = market.step(self._clock())
        coin = market.coin(index)
        price = market.price(coin, step)
        bitcoin = market.price(market.coin(0), step)

        def change(seconds: float) -> str:
            return f"{(price / market.price(coin, step - market.steps(seconds)) - 1) * 100:.2f}"

        volume = round(price * coin.supply * 0.03 * coin.liveliness, 5)
        return {
            "id": coin.id,
            "symbol": coin.symbol,
            "name": coin.name,
            "nameid": coin.name.lower().replace(" ", "-"),
            "rank": coin.rank,
            "price_usd": _as_price(price),
            "percent_change_24h": change(86_400),
            "percent_change_1h": change(3_600),
            "percent_change_7d": change(7 * 86_400),
            "price_btc": _as_price(price / bitcoin),
            "market_cap_usd": f"{price * coin.supply:.2f}",
            # Seen as a string once, so now and then it is one here.
            "volume24": str(volume) if index % 97 == 96 else volume,
            "volume24a": round(volume * 0.9, 5),
            "csupply": f"{coin.supply:.2f}",
            "tsupply": f"{coin.supply:.0f}",
            # Empty for coins that are created without end, such as Ethereum.
            "msupply": "" if index % 3 == 1 else f"{coin.supply * 1.1:.0f}",
        }


def _as_price(value: float) -> str:
    """Cheap coins have more decimals, as on CoinLore; never in the form 1e-05."""
    if value >= 1:
        return f"{value:.2f}" if value >= 10 else f"{value:.4f}"
    decimals = max(12, 4 - math.floor(math.log10(value)))
    return f"{value:.{decimals}f}".rstrip("0")


class Faults:
    """Which of the next answers are spoilt, and how. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kind = ""
        self._count = 0

    def set(self, kind: str, count: int) -> None:
        """Spoil the next `count` answers; replaces what was set before."""
        with self._lock:
            self._kind, self._count = kind, count

    def take(self) -> str:
        """The fault for one answer, or ""."""
        with self._lock:
            if self._count == 0:
                return ""
            self._count -= 1
            return self._kind

    def state(self) -> dict[str, Any]:
        """What is left."""
        with self._lock:
            return {"kind": self._kind if self._count else None, "count": self._count}


# Answers that do not depend on what was asked for: status, content type, body and further headers.
RUDE_ANSWERS: dict[str, tuple[int, str, bytes, dict[str, str]]] = {
    "http_429": (429, "text/html", b"<h1>Too Many Requests</h1>", {"Retry-After": "1"}),
    "http_500": (500, "text/html", b"<h1>Internal Server Error</h1>", {}),
    "html": (200, "text/html", b"<!DOCTYPE html><html><body>Just a moment...</body></html>", {}),
    "redirect": (301, "text/html", b"", {"Location": "https://www.example/"}),
}


def spoil(fault: str, answer: Any) -> tuple[int, str, bytes, dict[str, str]]:
    """An answer with a fault (or with none, for ""): status, content type, body and further headers."""
    if fault in RUDE_ANSWERS:
        return RUDE_ANSWERS[fault]
    body = json.dumps(answer, separators=(",", ":")).encode()
    if fault == "truncated":
        return 200, "application/json", body[: len(body) // 2], {}
    if fault == "empty":
        empty: Any = {"data": [], "info": answer.get("info")} if isinstance(answer, dict) else []
        return 200, "application/json", json.dumps(empty).encode(), {}
    if fault == "bad_price":
        tickers = answer.get("data", []) if isinstance(answer, dict) else answer
        for position, ticker in enumerate(tickers[:: max(1, len(tickers) // len(BAD_PRICES))]):
            ticker["price_usd"] = BAD_PRICES[position % len(BAD_PRICES)]
        return 200, "application/json", json.dumps(answer).encode(), {}
    if fault == "short_page" and isinstance(answer, dict):
        return 200, "application/json", json.dumps(answer | {"data": answer["data"][:40]}).encode(), {}
    if fault == "wrong_count" and isinstance(answer, dict):
        return 200, "application/json", json.dumps(answer | {"info": {"coins_num": 1}}).encode(), {}
    if fault == "frozen" and isinstance(answer, dict):
        frozen = answer["info"] | {"time": FROZEN_TIME}
        return 200, "application/json", json.dumps(answer | {"info": frozen}).encode(), {}
    return 200, "application/json", body, {}


class Server(ThreadingHTTPServer):
    """The simulator on a socket; port 0 takes any free one."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, api: Api) -> None:
        self.api = api
        self.faults = Faults()
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "crypto-stream-simulator"
    timeout = 60  # of a connection that says nothing

    def do_GET(self) -> None:
        """CoinLore's endpoints, `/faults` and `/healthz`."""
        address = urlsplit(self.path)
        path = address.path.rstrip("/")
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        api = self.server.api
        if path == "/healthz":
            return self._answer(200, "text/plain", b"ok\n")
        if path == "/faults":
            return self._json(200, self.server.faults.state())
        routes: dict[str, Callable[[], Any]] = {
            "/api/tickers": lambda: api.tickers(int(query.get("start", "0")), int(query.get("limit", "100"))),
            "/api/ticker": lambda: api.ticker(query.get("id", "")),
            "/api/global": api.world,
            "/api/coin/markets": lambda: api.markets(query.get("id", "")),
            "/api/exchanges": api.exchanges,
        }
        if path not in routes:
            return self._json(404, {"error": "no such endpoint"})
        try:
            answer = routes[path]()
        except ValueError:
            return self._json(400, {"error": "start and limit are whole numbers"})
        fault = self.server.faults.take()
        if fault in ("hang", "trickle", "reset"):
            return self._stall(fault)
        status, kind, body, headers = spoil(fault, answer)
        return self._answer(status, kind, body, headers)

    def _stall(self, fault: str) -> None:
        """Faults of the connection: nothing comes, or a byte now and then, or it is cut."""
        self.close_connection = True
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if fault == "trickle":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
        for _ in range(TRICKLE_BYTES):
            time.sleep(TRICKLE_SECONDS)
            if fault == "trickle":
                self.wfile.write(b" ")

    def do_PUT(self) -> None:
        """`/faults`: set one."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return self._json(400, {"error": f"a body of at most {MAX_BODY_BYTES} bytes is needed"})
        body = self.rfile.read(int(length))
        if self.path.rstrip("/") != "/faults":
            return self._json(404, {"error": "no such endpoint"})
        try:
            wanted = json.loads(body)
            kind, count = wanted["kind"], wanted.get("count", 1)
        except (ValueError, TypeError, KeyError, AttributeError):
            kind, count = None, None
        if kind not in FAULTS or not isinstance(count, int) or isinstance(count, bool) or count < 0:
            return self._json(400, {"error": f'wanted: {{"kind": one of {", ".join(FAULTS)}, "count": 0 or more}}'})
        self.server.faults.set(kind, count)
        return self._json(200, self.server.faults.state())

    def do_DELETE(self) -> None:
        """`/faults`: no more of them."""
        if self.path.rstrip("/") != "/faults":
            return self._json(404, {"error": "no such endpoint"})
        self.server.faults.set("", 0)
        return self._json(200, self.server.faults.state())

    def _json(self, status: int, content: Any) -> None:
        self._answer(status, "application/json", json.dumps(content).encode())

    def _answer(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Nothing for each request: the journal has better things to keep."""


def main() -> None:
    """The command `python -m crypto_stream.simulator`."""
    settings = config.load_or_exit("simulator").simulator
    market = Market(settings.coins, settings.seed, settings.refresh_seconds, settings.volatility)
    try:
        server = Server(settings.host, settings.port, Api(market))
    except OSError as error:
        sys.exit(f"simulator: cannot listen on {settings.host}:{settings.port}: {error}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    print(f"simulator: {settings.coins} coins on http://{settings.host}:{settings.port}/api", flush=True)
    notify("READY=1")
    while not stop.wait(HEARTBEAT_SECONDS):
        notify("WATCHDOG=1")
    notify("STOPPING=1")
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
