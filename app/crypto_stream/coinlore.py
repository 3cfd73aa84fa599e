"""A client of the CoinLore API (no key; public clients of it are the source of what is known about its answers).

It never asks more often than it is told to, repeats what may work a second time, and gives every ticker back: as a
`Ticker`, or as a `Rejected` with the reason and what was received.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

import httpx
import tenacity
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from crypto_stream.config import Market

PAGE_SIZE = 100
# Far beyond any name, far below what Kafka or Cassandra refuse.
MAX_TEXT_CHARS = 500
# Asked to stay away for longer than this, the poll is given up; later polls still keep away until then.
LONGEST_WAIT_SECONDS = 20.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
# When pages fail in a row it is the server, not the page.
FAILED_PAGES_IN_A_ROW = 2


class CoinLoreError(Exception):
    """An answer could not be had, or was of no use."""


class TransientError(CoinLoreError):
    """Trying again may help."""


class PollFailedError(CoinLoreError):
    """Not one ticker could be fetched."""


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


def _optional_rank(value: Any) -> int | None:
    number = _optional_number(value)
    return int(number) if number is not None and 0 < number < 2**31 else None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("no text")
    if len(value) > MAX_TEXT_CHARS:
        raise ValueError("too long")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: valid JSON, but no text that anything else could store
        raise ValueError("no valid text") from None
    return value.strip()


def _identifier(value: Any) -> str:
    return _text(str(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def _optional_text(value: Any) -> str | None:
    try:
        return _text(value)
    except ValueError:
        return None


OptionalNumber = Annotated[float | None, BeforeValidator(_optional_number)]


class Ticker(BaseModel):
    """One coin as CoinLore describes it; money in US dollars, changes in per cent, supplies in coins.

    Only id, name and price must be there. `volume24` and `msupply` in particular come in several shapes.
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
    price_btc: OptionalNumber = None
    market_cap_usd: OptionalNumber = None
    volume24: OptionalNumber = None
    csupply: OptionalNumber = None
    tsupply: OptionalNumber = None
    msupply: OptionalNumber = None


@dataclass(frozen=True)
class Rejected:
    """A ticker that cannot be used, and why."""

    payload: Any
    reason: str


@dataclass
class Poll:
    """What one poll brought. Each coin is there once; `errors` names the pages that could not be had."""

    tickers: list[Ticker] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def parse_ticker(payload: Any) -> Ticker | Rejected:
    """Never raises: what is no usable ticker comes back as `Rejected`."""
    if not isinstance(payload, dict):
        return Rejected(payload, "not an object")
    try:
        return Ticker.model_validate(payload)
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

    def acquire(self) -> None:
        """Wait for the next request's turn; raises `CoinLoreError` when that is further away than a poll may wait."""
        wait = self._next - self._clock()
        if wait > LONGEST_WAIT_SECONDS:
            raise CoinLoreError(f"the server asked to stay away for another {wait:.0f} s")
        if wait > 0:
            self._sleep(wait)
        self._next = self._clock() + self._interval

    def keep_away(self, seconds: float) -> None:
        """No request for this long."""
        self._next = max(self._next, self._clock() + seconds)


class CoinLore:
    """One session with the API. Not for several threads at once.

    `sleep` is where all waiting happens, so a service can go on telling its watchdog that it lives.
    """

    def __init__(
        self,
        market: Market,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limiter = RateLimiter(market.request_interval_seconds, clock, sleep)
        self._http = httpx.Client(
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
        self._http.close()

    def __enter__(self) -> CoinLore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def top(self, coins: int) -> Poll:
        """The first `coins` coins by rank, page by page.

        A page that cannot be had costs only its own coins and is named in `errors`. Raises `PollFailedError` when
        nothing came back at all.
        """
        poll = Poll()
        payloads: list[Any] = []
        failed_in_a_row = 0
        known = coins  # until the first answer says how many there are
        for start in range(0, coins, PAGE_SIZE):
            if start >= known:
                break
            limit = min(PAGE_SIZE, coins - start)
            try:
                page, known = self._retrying(self._tickers, start, limit)
            except CoinLoreError as error:
                poll.errors.append(f"coins {start + 1} to {start + limit}: {error}")
                failed_in_a_row += 1
                if failed_in_a_row == FAILED_PAGES_IN_A_ROW:
                    break
            else:
                failed_in_a_row = 0
                payloads += page
        if not payloads:
            raise PollFailedError("; ".join(poll.errors))
        _sort_out(payloads, poll)
        return poll

    def by_ids(self, ids: Iterable[str]) -> Poll:
        """Some coins by their ids; ids that CoinLore does not know are missing in the answer."""
        poll = Poll()
        wanted = list(ids)
        for start in range(0, len(wanted), PAGE_SIZE):
            _sort_out(self._retrying(self._tickers_by_id, wanted[start : start + PAGE_SIZE]), poll)
        return poll

    def _tickers(self, start: int, limit: int) -> tuple[list[Any], int]:
        """One page, and how many coins there are in all."""
        answer = self._get("/tickers/", {"start": str(start), "limit": str(limit)})
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list):
            raise TransientError("the answer holds no list of tickers")
        if not data:
            raise TransientError("the list of tickers is empty")
        info = answer.get("info")
        known = info.get("coins_num") if isinstance(info, dict) else None
        return data, known if isinstance(known, int) and known > 0 else start + len(data) + 1

    def _tickers_by_id(self, ids: list[str]) -> list[Any]:
        answer = self._get("/ticker/", {"id": ",".join(ids)})
        if not isinstance(answer, list):
            raise TransientError("the answer is no list of tickers")
        return answer

    def _get(self, path: str, query: dict[str, str]) -> Any:
        """One request: JSON, or `TransientError` where another try may help, or `CoinLoreError`."""
        self._limiter.acquire()
        try:
            response = self._http.get(path, params=query)
        except httpx.HTTPError as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.status_code >= 500:
            self._limiter.keep_away(_retry_after(response.headers.get("Retry-After")))
            raise TransientError(f"HTTP status {response.status_code}")
        if response.status_code != httpx.codes.OK:
            raise CoinLoreError(f"HTTP status {response.status_code}")
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError) as error:
            kind = response.headers.get("Content-Type", "nothing")
            raise TransientError(f"no JSON but {kind}, {len(response.content)} bytes: {error}") from error


def _sort_out(payloads: list[Any], poll: Poll) -> None:
    """A coin that changes its rank between two requests is on both pages: the first one counts."""
    seen = {ticker.id for ticker in poll.tickers}
    for payload in payloads:
        result = parse_ticker(payload)
        if isinstance(result, Rejected):
            poll.rejected.append(result)
        elif result.id not in seen:
            seen.add(result.id)
            poll.tickers.append(result)


def _retry_after(value: str | None) -> float:
    """The header in seconds from now; it may hold seconds or a date. 0 when it is missing or makes no sense."""
    if value is None:
        return 0
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return 0
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        seconds = (moment - datetime.now(timezone.utc)).total_seconds()
    return min(max(seconds, 0), LONGEST_RETRY_AFTER_SECONDS) if math.isfinite(seconds) else 0
