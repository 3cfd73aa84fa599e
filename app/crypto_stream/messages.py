"""What travels through Kafka: one price of one coin, or the market as a whole, and what decides whether bytes are one.

A message is one flat JSON object in UTF-8; the key of a price is the coin's id, so all prices of a coin stay in order
in one partition. A model says which fields there are, of what type and within which limits; the patterns below say what
such an object looks like. The producer encodes with the model, `parse` reads with it, and the stream job builds its
columns from the same model and the same patterns, so both find the same verdict on the same bytes. They are written in
what Python's and Java's regular expressions have in common, without repeated groups of varying length, for which Java
needs stack.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

# A time before 2010 is a clock that was never set.
MIN_TS = 1_262_304_000_000
MAX_TS = 253_402_300_799_000  # 9999-12-31, what Spark and Cassandra can still show
# How far a price may be ahead of the moment at which Kafka took it, in milliseconds. A row from further ahead would win
# over all true ones until that time has come.
CLOCK_TOLERANCE_MS = 3_600_000
# Far beyond any name, far below what Kafka or Cassandra refuse.
MAX_TEXT_CHARS = 500
# What a price needs is some 500 bytes, and at most 12 kB with names of the longest kind.
MAX_MESSAGE_BYTES = 65_536
# A dead letter keeps no more than this of a message; where it is in the topic, it is whole.
MAX_DEAD_LETTER_BYTES = 1_048_576
# A rejected ticker is kept for people to look at, not for machines; more of it than this helps nobody.
MAX_REJECTED_CHARS = 65_536

# Characters that give orders to terminals and pages instead of showing something, and characters that show nothing.
CONTROL = r"[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
VISIBLE = r"[^ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"

# A flat object, by reduction: escapes become a mark, then strings become `""`, other values `00`, and spaces go. What
# is left must be `{"":"","":00}` or the like, which nothing else is reduced to. Halves of surrogate pairs are no
# escapes.
ESCAPE = (
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|u(?:[0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2})"
    r'|["\\/bfnrt])'
)
ESCAPE_MARK = "\u007f"
STRING = r'"[^"\\\u0000-\u001f]*"'
# A number that is written with more characters than this is no price, and parsers differ in what they make of it.
SCALAR = r"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,39})?(?:[eE][+-]?[0-9]{1,3})?|true|false|null"
SPACES = " \t\n\r"
# `$` would leave room for what Java takes for the end of a line.
OBJECT = r'^\{(?:"":["0]["0](?:,"":["0]["0])*)?\}(?![\s\S])'

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(lambda value: _shows_something(value))]


class MessageError(ValueError):
    """Bytes that are no message of this version; the text says why in one line."""


def _shows_something(value: str | None) -> str | None:
    if value is not None and re.search(CONTROL, value):
        raise ValueError("must hold no control characters")
    if value is not None and not re.search(VISIBLE, value):
        raise ValueError("must not be blank")
    return value


class Message(BaseModel):
    """What all messages share: `ts`, when the answer that told it arrived, in epoch milliseconds. Money is in US
    dollars, changes and shares are in per cent; what is optional is what CoinLore leaves empty now and then.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    ts: int = Field(ge=MIN_TS, le=MAX_TS)


class PriceMessage(Message):
    """One coin at one moment."""

    id: Text
    name: Text
    price_usd: float = Field(ge=0)
    symbol: Text | None = None
    rank: int | None = Field(None, ge=1, le=2**31 - 1)
    volume24_usd: float | None = Field(None, ge=0)
    market_cap_usd: float | None = Field(None, ge=0)
    percent_change_1h: float | None = None
    percent_change_24h: float | None = None
    percent_change_7d: float | None = None


class MarketMessage(Message):
    """The market as a whole at one moment; `btc_d` and `eth_d` are the shares of Bitcoin and Ethereum in its cap.

    `rising` and `falling` are counted among the coins of the poll before it, by their change of 24 hours, and are not
    known of one that has missed a page.
    """

    total_mcap_usd: float = Field(ge=0)
    total_volume_usd: float = Field(ge=0)
    btc_d: float | None = Field(None, ge=0, le=100)
    eth_d: float | None = Field(None, ge=0, le=100)
    mcap_change: float | None = None
    volume_change: float | None = None
    avg_change_percent: float | None = None
    coins_count: int | None = Field(None, ge=0, le=2**31 - 1)
    active_markets: int | None = Field(None, ge=0, le=2**31 - 1)
    rising: int | None = Field(None, ge=0, le=2**31 - 1)
    falling: int | None = Field(None, ge=0, le=2**31 - 1)


AnyMessage = TypeVar("AnyMessage", bound=Message)


def printable(text: str) -> str:
    """Text from outside as a terminal or a page may have it."""
    return re.sub(CONTROL, "", text)


@dataclass(frozen=True)
class Rule:
    """What a field of a message may be. Text has the limits of `MAX_TEXT_CHARS`, `CONTROL` and `VISIBLE` besides."""

    kind: type
    required: bool
    least: float | None = None
    most: float | None = None


SCHEMA_VERSION: int = Message.model_fields["schema_version"].default


@functools.cache
def rules(model: type[Message]) -> Mapping[str, Rule]:
    """The rules by field, for those who cannot use the model. `schema_version` has one value and is none of them."""
    return {name: _rule(model, name) for name in model.model_fields if name != "schema_version"}


def _rule(model: type[Message], name: str) -> Rule:
    info = model.model_fields[name]
    inner = [part for part in get_args(info.annotation) or (info.annotation,) if part is not type(None)]
    kind = next(kind for kind in (str, float, int) if kind in inner or any(kind in get_args(part) for part in inner))
    least = next((limit.ge for limit in info.metadata if isinstance(limit, Ge)), None)
    most = next((limit.le for limit in info.metadata if isinstance(limit, Le)), None)
    return Rule(kind, info.is_required(), least, most)  # type: ignore[arg-type] # Ge and Le take anything comparable


@functools.cache
def mistyped(model: type[Message]) -> str:
    """The pattern of a field with a value of another type.

    On a flat object whose escapes are marked, so that every quotation mark is a string's: the name of a field is
    written with escapes, or text is no string (nor null), or a number is none.
    """
    texts = "|".join(name for name, rule in rules(model).items() if rule.kind is str)
    numbers = "|".join(["schema_version", *(name for name, rule in rules(model).items() if rule.kind is not str)])
    colon = rf"[{SPACES}]*:[{SPACES}]*"
    return (
        rf'{ESCAPE_MARK}[^"]*"{colon}'
        rf'|"(?:{numbers})"{colon}["tf]' + (rf'|"(?:{texts})"{colon}[^"n{SPACES}]' if texts else "")
    )


@functools.cache
def plain(model: type[Message]) -> str:
    """The pattern of what `encode` writes of usual values: of such an object, only `ts` is left to be looked at.

    It says less than it could (a name that begins with a space is not plain, nor is a rank of ten digits), and never
    yes to what the patterns above or the other rules would say no to. U+FFFD is what a decoder puts in the place of
    bytes that are no UTF-8.
    """
    other = CONTROL[1:-1] + r'"\\\ufffd'
    text = rf'"[^{other}{VISIBLE[2:-1]}][^{other}]{{0,{MAX_TEXT_CHARS - 1}}}"'
    fields = []
    for name, rule in rules(model).items():
        value = text if rule.kind is str else plain_number(rule)
        fields.append(f'"{name}":' + (value if rule.required else f"(?:{value}|null)"))
    return rf'^\{{"schema_version":{SCHEMA_VERSION},{",".join(fields)}\}}(?![\s\S])'


def plain_number(rule: Rule) -> str:
    """Numbers that keep a rule whose `least` is 0 or 1, or none: with a digit less than `most` has, and finite."""
    digits = 18 if rule.most is None else len(str(int(rule.most))) - 1
    whole = rf"[1-9][0-9]{{0,{digits - 1}}}"
    number = ("-?" if rule.least is None else "") + (whole if rule.least == 1 else f"(?:0|{whole})")
    if rule.kind is float:
        number += r"(?:\.[0-9]{1,39})?" + (r"(?:[eE][+-]?[0-9]{1,2})?" if rule.most is None else "")
    return number


@dataclass(frozen=True)
class Record:
    """A message on its way to Kafka; `ts` is when what it tells was fetched, in epoch milliseconds.

    Records of one key stay in order; those without one need none.
    """

    topic: str
    key: bytes | None
    value: bytes
    ts: int


def encode(message: Message) -> bytes:
    """The value of the Kafka message."""
    return message.model_dump_json().encode()


def parse(model: type[AnyMessage], value: bytes | None, appended_ts: int = MAX_TS) -> AnyMessage:
    """The opposite of `encode`; raises `MessageError` for anything else.

    `appended_ts` is the record's own timestamp, epoch milliseconds, which says how late its `ts` may be.
    """
    text = _flat_object(value, mistyped(model))
    try:
        message = model.model_validate_json(text)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in detail["loc"])
        raise MessageError(f"{field}: {detail['msg']}" if field else detail["msg"]) from None
    if "schema_version" not in message.model_fields_set:
        raise MessageError("schema_version is missing")
    if message.ts > appended_ts + CLOCK_TOLERANCE_MS:
        raise MessageError(f"ts is ahead of Kafka's clock: {message.ts}")
    return message


def _flat_object(value: bytes | None, wrong: str) -> str:
    """The text of a flat JSON object that names each known field once, without a value of the `wrong` kind."""
    if not value:
        raise MessageError("the message is empty")
    if len(value) > MAX_MESSAGE_BYTES:
        raise MessageError(f"the message has {len(value)} bytes, more than {MAX_MESSAGE_BYTES}")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise MessageError("the message is no UTF-8") from None
    marked = re.sub(ESCAPE, ESCAPE_MARK, text)
    shape = re.sub(SCALAR, "00", re.sub(STRING, '""', marked)).translate(dict.fromkeys(map(ord, SPACES)))
    if not re.search(OBJECT, shape):
        raise MessageError("the message is no flat JSON object")
    if re.search(wrong, marked):
        raise MessageError("a field has a value of another type")
    names = [name for name, _ in json.loads(text, object_pairs_hook=list)]
    if len(set(names)) < len(names):
        raise MessageError("a field is there twice")
    return text


def encode_rejected(payload: Any, reason: str, ts: int) -> bytes:
    """The value of a message in the topic of rejected tickers: `{"reason", "ts", "payload"}`.

    `payload` is the ticker's JSON as a string, because it may hold what strict JSON does not allow, such as NaN.
    """
    raw = json.dumps(payload)[:MAX_REJECTED_CHARS]
    return json.dumps({"reason": reason, "ts": ts, "payload": raw}).encode()
