"""What travels through Kafka: one price of one coin.

A message is a JSON object in UTF-8; its key is the coin's id, so all prices of a coin stay in order in one partition.
Producer, stream job and tests take fields, types and limits from here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# A poll before 2010 is a clock that was never set. Later than now plus the tolerance is one that runs ahead: its row
# would win over all true ones until that time has come.
MIN_TS = 1_262_304_000_000
MAX_TS = 253_402_300_799_000  # 9999-12-31, what Spark and Cassandra can still show
CLOCK_TOLERANCE_MS = 3_600_000
# A rejected ticker is kept for people to look at, not for machines; more of it than this helps nobody.
MAX_REJECTED_CHARS = 65_536

Text = Annotated[str, Field(min_length=1)]


class MessageError(ValueError):
    """Bytes that are no message of this version."""


class PriceMessage(BaseModel):
    """One coin at one poll. `ts` is the time of the poll in epoch milliseconds, money is in US dollars.

    What is optional is what CoinLore leaves empty for some coins.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    id: Text
    name: Text
    price_usd: float = Field(ge=0)
    ts: int = Field(ge=MIN_TS, le=MAX_TS)
    symbol: str | None = None
    rank: int | None = None
    volume24_usd: float | None = None
    market_cap_usd: float | None = None
    percent_change_1h: float | None = None
    percent_change_24h: float | None = None
    percent_change_7d: float | None = None


SCHEMA_VERSION: int = PriceMessage.model_fields["schema_version"].default


@dataclass(frozen=True)
class Record:
    """A message on its way to Kafka, with the poll it belongs to."""

    topic: str
    key: bytes
    value: bytes
    ts: int


def encode(message: PriceMessage) -> bytes:
    """The value of the Kafka message."""
    return message.model_dump_json().encode()


def parse(value: bytes) -> PriceMessage:
    """The opposite of `encode`; raises `MessageError` for anything else."""
    try:
        return PriceMessage.model_validate_json(value)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in detail["loc"])
        raise MessageError(f"{field}: {detail['msg']}" if field else detail["msg"]) from None


def encode_rejected(payload: Any, reason: str, ts: int) -> bytes:
    """The value of a message in the topic of rejected tickers: `{"reason", "ts", "payload"}`.

    `payload` is the ticker's JSON as a string, because it may hold what strict JSON does not allow, such as NaN.
    """
    raw = json.dumps(payload)[:MAX_REJECTED_CHARS]
    return json.dumps({"reason": reason, "ts": ts, "payload": raw}).encode()
