"""A client of the CoinLore API (no key; public clients of it are the source of what is known about its answers).

It never asks more often than it is told to, repeats what may work a second time, and gives every ticker back: as a
`Ticker`, or as a `Rejected` with the reason and what was received.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, NamedTuple, TypeVar

import httpx
import tenacity
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from crypto_stream.config import Market
from crypto_stream.messages import CONTROL, MAX_TEXT_CHARS, VISIBLE

PAGE_SIZE = 100
# A page of 100 tickers has 50 kB.
MAX_ANSWER_BYTES = 5_000_000
# Asked to stay away for longer than this, the poll is given up; later polls still keep away until then.
LONGEST_WAIT_SECONDS = 20.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
# When pages fail in a row it is the server, not the page.
FAILED_PAGES_IN_A_ROW = 2
# Python refuses to read an integer of more than 4300 digits, and with it all of the answer that it is in.
MAX_INTEGER_DIGITS = 400


class CoinLoreError(Exception):
    """An answer could not be had, or was of no use."""


class TransientError(CoinLoreError):
    """Trying again may help."""


def _number(value: Any) -> float:
    """A number as CoinLore writes it: a JSON number, or one in a string."""
    if isinstance(value, str) and "_" not in value:  # float() takes 1_000, nobody else does
        try:
            value = float(value)
        except ValueError:
            raise ValueError("no number") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("no number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("no finite number") from None
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number


def _optional_number(value: Any) -> float | None:
    """What some coins lack comes as "", as null or as words; none of it makes the price worthless."""
    try:
        return _number(value)
    except ValueError:
        return None


def _optional_amount(value: Any) -> float | None:
    number = _optional_number(value)
    return number if number is not None and number >= 0 else None


def _optional_rank(value: Any) -> int | None:
    number = _optional_number(value)
    return int(number) if number is not None and 0 < number < 2**31 else None


def _optional_count(value: Any) -> int | None:
    number = _optional_number(value)
    return int(number) if number is not None and 0 <= number < 2**31 else None


def _optional_share(value: Any) -> float | None:
    number = _optional_number(value)
    return number if number is not None and 0 <= number <= 100 else None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not re.search(VISIBLE, value):
        raise ValueError("no text")
    text = value.strip()
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError("too long")
    if re.search(CONTROL, text):
        raise ValueError("control characters")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: valid JSON, but no text that anything else could store
        raise ValueError("no valid text") from None
    return text


def _identifier(value: Any) -> str:
    return _text(str(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def _optional_text(value: Any) -> str | None:
    try:
        return _text(value)
    except ValueError:
        return None


OptionalNumber = Annotated[float | None, BeforeValidator(_optional_number)]
OptionalAmount = Annotated[float | None, BeforeValidator(_optional_amount)]


class Ticker(BaseModel):
    """What is used of a coin as CoinLore describes it; money in US dollars, changes in per cent.

    Only id, name and price must be there. `volume24` in particular comes in several shapes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, BeforeValidator(_identifier)]
    name: Annotated[str, BeforeValidator(_text)]
    price_usd: Annotated[float, BeforeValidator(_number), Field(ge=0)]
    symbol: Annotated[str | None, BeforeValidator(_optional_text)] = None
    rank: Annotated[int | None, BeforeValidator(_optional_rank)] = None
    percent_change_1h: OptionalNumber = None
    percent_change_24h: OptionalNumber = None
    percent_change_7d: OptionalNumber = None
    market_cap_usd: OptionalAmount = None
    volume24: OptionalAmount = None


OptionalCount = Annotated[int | None, BeforeValidator(_optional_count)]
OptionalShare = Annotated[float | None, BeforeValidator(_optional_share)]


class World(BaseModel):
    """What is used of the market as a whole, as CoinLore describes it. Its all-time highs are implausible."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    total_mcap: Annotated[float, BeforeValidator(_number), Field(ge=0)]
    total_volume: Annotated[float, BeforeValidator(_number), Field(ge=0)]
    btc_d: OptionalShare = None
    eth_d: OptionalShare = None
    mcap_change: OptionalNumber = None
    volume_change: OptionalNumber = None
    avg_change_percent: OptionalNumber = None
    coins_count: OptionalCount = None
    active_markets: OptionalCount = None


@dataclass(frozen=True)
class Rejected:
    """A ticker, or a market, that cannot be used, and why."""

    payload: Any
    reason: str


AnyAnswer = TypeVar("AnyAnswer", Ticker, World)
Key = TypeVar("Key")
Answer = TypeVar("Answer")


@dataclass
class Page:
    """What one page of a poll brought, at `ts` (epoch milliseconds). `error` says what is missing, if anything;
    `market_time` is the API's own time of its values, in epoch seconds.
    """

    ts: int
    tickers: list[Ticker] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    error: str = ""
    market_time: float | None = None


def parse_ticker(payload: Any) -> Ticker | Rejected:
    """Never raises: what is no usable ticker comes back as `Rejected`."""
    return _parse(Ticker, payload)


def _parse(model: type[AnyAnswer], payload: Any) -> AnyAnswer | Rejected:
    if not isinstance(payload, dict):
        return Rejected(payload, "not an object")
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        return Rejected(payload, "; ".join(_reason(detail) for detail in error.errors(include_url=False)))


def _reason(detail: Any) -> str:
    key = str(detail["loc"][0])
    if detail["type"] == "missing":
        return f"{key}: missing"
    # The value itself is cut: it may be anything, and this goes into a log line.
    return f"{key}: {str(detail['msg']).removeprefix('Value error, ')}, got {ascii(detail['input'])[:80]}"


class RateLimiter:
    """Spaces requests by `interval` seconds and keeps away for as long as the server asked for."""

    def __init__(self, interval: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._interval = interval
        self._clock = clock
        self._sleep = sleep
        self._next = -math.inf
        self._away_until = -math.inf

    def acquire(self) -> None:
        """Wait for the next request's turn; raises `CoinLoreError` when the server wants to be left alone for longer
        than a poll may wait.
        """
        away = self._away_until - self._clock()
        if away > LONGEST_WAIT_SECONDS:
            raise CoinLoreError(f"the server asked to stay away for another {away:.0f} s")
        self._sleep(max(0.0, away, self._next - self._clock()))
        self._next = self._clock() + self._interval

    def keep_away(self, seconds: float) -> None:
        """No request for this long."""
        self._away_until = max(self._away_until, self._clock() + seconds)


class Tickers(NamedTuple):
    """A page of tickers, how many coins there are in all, and the time that the API says its values have."""

    payloads: list[Any]
    known: int
    market_time: float | None


class CoinLore:
    """One session with the API. Not for several threads at once.

    `sleep` is called before each request and wherever else it waits, so a service can go on telling its watchdog that
    it lives. `now` gives the time of an answer, in epoch milliseconds.
    """

    def __init__(
        self,
        market: Market,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._limiter = RateLimiter(market.request_interval_seconds, clock, sleep)
        self._now = now
        self._deadline = market.request_timeout_seconds
        # Only a task can be ended in whatever it is doing: a read timeout does not end an answer that trickles in.
        self._loop = asyncio.new_event_loop()
        self._http = httpx.AsyncClient(
            base_url=market.api_url,
            timeout=market.request_timeout_seconds,
            transport=transport,
            headers={"Accept": "application/json", "User-Agent": "crypto-stream"},
        )
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=tenacity.stop_after_attempt(market.attempts),
            wait=tenacity.wait_exponential(multiplier=0.5, max=8) + tenacity.wait_random(0, 0.5),
            sleep=sleep,
            reraise=True,
        )

    def close(self) -> None:
        """Close the connections."""
        self._loop.run_until_complete(self._http.aclose())
        self._loop.close()

    def __enter__(self) -> CoinLore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def top(self, coins: int) -> Iterator[Page]:
        """The first `coins` coins by rank, page by page as they come, each coin once.

        A page that cannot be had costs only its own coins; after two of them in a row the rest is given up.
        """
        seen: set[str] = set()
        for start, answer in self._each((start, self._tickers, (start, coins)) for start in range(0, coins, PAGE_SIZE)):
            limit = min(PAGE_SIZE, coins - start)
            name = f"coins {start + 1} to {start + limit}"
            if isinstance(answer, CoinLoreError):
                yield Page(self._now(), error=f"{name}: {answer}")
                continue
            payloads, known, market_time = answer
            # Of two numbers that contradict each other, the tickers that came are the better one.
            short = len(payloads) < limit
            is_last = start + len(payloads) >= known if short else start + len(payloads) == known
            if not payloads and start + PAGE_SIZE >= known:
                return
            page = _sort_out(payloads, seen, self._now())
            page.market_time = market_time
            if short and not is_last:
                page.error = f"{name}: only {len(payloads)} came, of {known} that there are"
            yield page
            if is_last or not payloads:
                return

    def these(self, coins: Sequence[str]) -> Iterator[Page]:
        """The coins with these ids, page by page as they come; one that the API does not know is an error of its page.

        A page that cannot be had costs only its own coins; after two of them in a row the rest is given up.
        """
        seen: set[str] = set()
        pages = [coins[start : start + PAGE_SIZE] for start in range(0, len(coins), PAGE_SIZE)]
        for wanted, answer in self._each((page, self._list, ("/ticker/", {"id": ",".join(page)})) for page in pages):
            if isinstance(answer, CoinLoreError):
                yield Page(self._now(), error=f"coins {', '.join(wanted)}: {answer}")
                continue
            page = _sort_out(answer[:PAGE_SIZE], seen, self._now())
            told = {str(payload["id"]) for payload in answer if isinstance(payload, dict) and "id" in payload}
            if missing := [coin for coin in wanted if coin not in told]:
                page.error = f"coins {', '.join(missing)}: the API does not know them"
            yield page

    def _each(
        self, requests: Iterable[tuple[Key, Callable[..., Answer], tuple[Any, ...]]]
    ) -> Iterator[tuple[Key, Answer | CoinLoreError]]:
        """What each request brings, by its key, until too many in a row have failed."""
        failed_in_a_row = 0
        for key, request, arguments in requests:
            answer: Answer | CoinLoreError
            try:
                answer = self._retrying(request, *arguments)
                failed_in_a_row = 0
            except CoinLoreError as error:
                answer = error
                failed_in_a_row += 1
            yield key, answer
            if failed_in_a_row == FAILED_PAGES_IN_A_ROW:
                return

    def world(self) -> World | Rejected:
        """The market as a whole. Raises `CoinLoreError` when it cannot be had."""
        (payload,) = self._retrying(self._list, "/global/", {})[:1] or [None]
        return _parse(World, payload)

    def _list(self, path: str, query: dict[str, str]) -> list[Any]:
        answer = self._get(path, query)
        if not isinstance(answer, list):
            raise TransientError("the answer is no list")
        return answer

    def _tickers(self, start: int, coins: int) -> Tickers:
        """The page that begins there, of so many coins that are wanted in all."""
        limit = min(PAGE_SIZE, coins - start)
        answer = self._get("/tickers/", {"start": str(start), "limit": str(limit)})
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list):
            raise TransientError("the answer holds no list of tickers")
        if not data and start == 0:
            raise TransientError("the list of tickers is empty")
        info = answer.get("info")
        known = info.get("coins_num") if isinstance(info, dict) else None
        if not isinstance(known, int) or known <= 0:  # then a full page is not the last one
            known = start + len(data) + (len(data) >= limit)
        told = info.get("time") if isinstance(info, dict) else None
        return Tickers(data[:limit], known, _optional_number(told))

    def _get(self, path: str, query: dict[str, str]) -> Any:
        """One request: JSON, or `TransientError` where another try may help, or `CoinLoreError`."""
        self._limiter.acquire()
        try:
            answer = asyncio.wait_for(self._fetch(path, query), self._deadline)
            status, headers, body = self._loop.run_until_complete(answer)
        except (asyncio.TimeoutError, httpx.TimeoutException):
            raise TransientError(f"no whole answer within {self._deadline:g} s") from None
        except httpx.HTTPError as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= 500:
            self._limiter.keep_away(_retry_after(headers.get("Retry-After")))
            raise TransientError(f"HTTP status {status}")
        if status != httpx.codes.OK:
            raise CoinLoreError(f"HTTP status {status}")
        try:
            return json.loads(body, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            kind = ascii(headers.get("Content-Type", "nothing"))
            raise TransientError(f"no JSON but {kind}, {len(body)} bytes: {error}") from error

    async def _fetch(self, path: str, query: dict[str, str]) -> tuple[int, httpx.Headers, bytes]:
        body = bytearray()
        async with self._http.stream("GET", path, params=query) as response:
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise CoinLoreError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            return response.status_code, response.headers, bytes(body)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else math.inf


def _sort_out(payloads: list[Any], seen: set[str], ts: int) -> Page:
    """A coin that changes its rank between two requests is on both pages: the first one counts."""
    page = Page(ts)
    for payload in payloads:
        result = parse_ticker(payload)
        if isinstance(result, Rejected):
            page.rejected.append(result)
        elif result.id not in seen:
            seen.add(result.id)
            page.tickers.append(result)
    return page


def _retry_after(value: str | None) -> float:
    """The header in seconds from now; it may hold seconds or a date. 0 when it is missing or makes no sense."""
    if value is None:
        return 0
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return 0
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        seconds = (moment - datetime.now(timezone.utc)).total_seconds()
    return min(max(seconds, 0), LONGEST_RETRY_AFTER_SECONDS) if math.isfinite(seconds) else 0
