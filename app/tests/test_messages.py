from __future__ import annotations

import json
import math
import re

import pytest
from crypto_stream.messages import (
    CONTROL,
    MAX_MESSAGE_BYTES,
    MAX_TEXT_CHARS,
    MAX_TS,
    MIN_TS,
    VISIBLE,
    MarketMessage,
    MessageError,
    PriceMessage,
    Rule,
    _flat_object,
    encode,
    encode_rejected,
    mistyped,
    parse,
    plain,
    plain_number,
    printable,
    rules,
)
from hypothesis import given
from hypothesis import strategies as st

TS = 1_700_000_000_000
# What UTF-8 can carry; half surrogate pairs never get as far as a message.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_TEXT_CHARS).filter(
    lambda text: not re.search(CONTROL, text) and re.search(VISIBLE, text) is not None
)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
amounts = st.none() | st.floats(min_value=0, allow_nan=False, allow_infinity=False)
messages = st.builds(
    PriceMessage,
    id=texts,
    name=texts,
    price_usd=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    ts=st.integers(MIN_TS, MAX_TS),
    symbol=st.none() | texts,
    rank=st.none() | st.integers(1, 2**31 - 1),
    volume24_usd=amounts,
    market_cap_usd=amounts,
    percent_change_1h=numbers,
    percent_change_24h=numbers,
    percent_change_7d=numbers,
)


@given(messages)
def test_what_is_encoded_is_parsed_again(message: PriceMessage) -> None:
    assert parse(PriceMessage, encode(message)) == message


@given(messages)
def test_what_is_encoded_is_plain_unless_a_value_is_odd(message: PriceMessage) -> None:
    odd = rf'^[{VISIBLE[2:-1]}]|["\\\ufffd]'
    is_odd = any(re.search(odd, text) for text in (message.id, message.name, message.symbol or "x"))
    text = encode(message).decode()
    floats = [value for value in message.model_dump().values() if isinstance(value, float) and value]
    # Exponents of three digits, or one digit less than the most that is allowed.
    is_large = any(not 1e-99 <= abs(value) < 1e100 for value in floats)
    is_large |= (message.rank or 0) >= 10**9 or message.ts >= 10**14
    assert (re.search(plain(PriceMessage), text) is not None) == (not is_odd and not is_large)


@given(
    messages, st.integers(0, 400), st.sampled_from(["", '"', ",", "0", " ", "e", ".", "-", "}", "\\", "\ufffd", "\n"])
)
def test_plain_never_says_yes_to_what_is_no_message(message: PriceMessage, at: int, put: str) -> None:
    text = encode(message).decode()
    for changed in (text[:at] + put + text[at:], text[:at] + put + text[at + 1 :], text + text):
        if re.search(plain(PriceMessage), changed):
            value = json.loads(changed)
            # All rules hold but those of `ts`, which is looked at by itself.
            assert parse(PriceMessage, json.dumps(value | {"ts": TS}).encode())
            _flat_object(changed.encode(), mistyped(PriceMessage))


NUMBERS = [
    rule
    for model in (PriceMessage, MarketMessage)
    for name, rule in rules(model).items()
    if rule.kind is not str and name != "ts"
]


@given(
    st.sampled_from(NUMBERS).flatmap(
        lambda rule: st.tuples(st.just(rule), st.from_regex(plain_number(rule), fullmatch=True))
    )
)
def test_a_plain_number_keeps_its_rule(found: tuple[Rule, str]) -> None:
    rule, text = found
    value = json.loads(text)
    assert isinstance(value, int) or rule.kind is float
    assert math.isfinite(value)
    assert rule.least is None or value >= rule.least
    assert rule.most is None or value <= rule.most
    for beyond in ([] if rule.most is None else [rule.most + 1]) + ([] if rule.least is None else [rule.least - 1]):
        assert not re.fullmatch(plain_number(rule), str(beyond))


@given(st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_parsing_raises_nothing_but_its_own_error(value: bytes) -> None:
    with pytest.raises(MessageError):
        parse(PriceMessage, value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from(list(PriceMessage.model_fields)), json_values))
def test_an_object_of_wrong_values_is_an_error_or_a_whole_message(fields: dict[str, object]) -> None:
    try:
        message = parse(PriceMessage, json.dumps(fields).encode())
    except MessageError:
        return
    assert message.id
    assert message.price_usd >= 0


@pytest.mark.parametrize(
    "change",
    [
        {"price_usd": -1},
        {"price_usd": "1.5"},
        {"price_usd": None},
        {"price_usd": float("nan")},
        {"id": ""},
        {"id": 90},
        {"ts": 0},
        {"ts": 1.5},
        {"schema_version": 2},
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(change: dict[str, object]) -> None:
    good = {"schema_version": 1, "id": "90", "name": "Bitcoin", "price_usd": 1.5, "ts": TS}
    assert parse(PriceMessage, json.dumps(good).encode()).price_usd == 1.5
    with pytest.raises(MessageError):
        parse(PriceMessage, json.dumps(good | change).encode())


def test_the_encoding_is_plain_json_of_all_fields() -> None:
    fields = json.loads(encode(PriceMessage(id="90", name="Bitcoin", price_usd=1.5, ts=TS, rank=1)))
    assert fields["schema_version"] == 1
    assert (fields["id"], fields["name"], fields["price_usd"], fields["ts"]) == ("90", "Bitcoin", 1.5, TS)
    assert set(fields) == set(PriceMessage.model_fields)


@given(json_values)
def test_a_rejected_ticker_is_strict_json_whatever_it_was(payload: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    fields = json.loads(encode_rejected(payload, "no number", TS), parse_constant=refuse)
    assert set(fields) == {"reason", "ts", "payload"}
    assert isinstance(fields["payload"], str)


def test_a_huge_rejected_ticker_still_fits_into_a_message() -> None:
    assert len(encode_rejected({"name": '"' * 5_000_000}, "too long", TS)) < 1_000_000


def test_the_rules_are_the_models_own() -> None:
    assert list(rules(PriceMessage)) == [name for name in PriceMessage.model_fields if name != "schema_version"]
    assert rules(PriceMessage)["id"] == Rule(str, required=True)
    assert rules(PriceMessage)["price_usd"] == Rule(float, required=True, least=0)
    assert rules(PriceMessage)["ts"] == Rule(int, required=True, least=MIN_TS, most=MAX_TS)
    assert rules(PriceMessage)["symbol"] == Rule(str, required=False)
    assert rules(PriceMessage)["rank"] == Rule(int, required=False, least=1, most=2**31 - 1)


def test_the_longest_message_is_within_the_limit() -> None:
    text = "\U0001f600" * MAX_TEXT_CHARS
    longest = PriceMessage(id=text, name=text, symbol=text, price_usd=1.7e308, ts=MAX_TS, volume24_usd=1.7e308)
    assert len(encode(longest)) < MAX_MESSAGE_BYTES / 5


def test_text_from_outside_gives_no_orders_to_a_terminal() -> None:
    assert printable("a\x1b[2J\nb\u202ec\x9bd\x7f") == "a[2Jbcd"
    assert printable("Ether ✓ é") == "Ether ✓ é"


@given(
    st.builds(
        MarketMessage,
        ts=st.integers(MIN_TS, MAX_TS),
        total_mcap_usd=st.floats(0, allow_infinity=False),
        total_volume_usd=st.floats(0, allow_infinity=False),
        btc_d=st.none() | st.floats(0, 100),
        mcap_change=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        coins_count=st.none() | st.integers(0, 2**31 - 1),
        rising=st.none() | st.integers(0, 2**31 - 1),
    )
)
def test_the_market_survives_the_way_through_kafka(message: MarketMessage) -> None:
    assert parse(MarketMessage, encode(message)) == message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"total_mcap_usd": None}, "total_mcap_usd"),
        ({"total_mcap_usd": "5"}, "another type"),
        ({"btc_d": 100.5}, "btc_d"),
        ({"coins_count": -1}, "coins_count"),
        ({"falling": 0.5}, "falling"),
        ({"ts": 5}, "ts"),
    ],
)
def test_a_market_with_wrong_values_is_none(changes: dict[str, object], reason: str) -> None:
    good = {"schema_version": 1, "ts": TS, "total_mcap_usd": 1.0, "total_volume_usd": 2.0}
    assert parse(MarketMessage, json.dumps(good).encode()).total_volume_usd == 2
    with pytest.raises(MessageError, match=reason):
        parse(MarketMessage, json.dumps(good | changes).encode())
