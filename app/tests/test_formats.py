from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone

import pytest
from crypto_stream.dashboard import formats
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (64000.126, "$64,000.13"),
        (1, "$1.00"),
        (0.99994, "$0.9999"),
        (0.999996, "$1.00"),
        (0.5, "$0.5000"),
        (0.012345, "$0.01235"),
        (0.00001234, "$0.00001234"),
        (0.000001234, "$0.0₅1234"),
        (1e-12, "$0.0₁₁1000"),
        (5e-324, "$0.0₃₂₃4941"),
        (0, "$0.00"),
        (1e20, "$1.00e+20"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_prices(value: float | None, text: str) -> None:
    assert formats.price(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234e12, "$1.23T"), (5.6e9, "$5.60B"), (1e6, "$1.00M"), (1500, "$1.50K"), (3, "$3.00"), (-2e6, "-$2.00M")],
)
def test_amounts(value: float, text: str) -> None:
    assert formats.amount(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.105, "+2.10 %"), (-1234.5, "-1,234.50 %"), (0.001, "0.00 %"), (-0.0, "0.00 %"), (3e9, "+3.00e+09 %")],
)
def test_changes(value: float, text: str) -> None:
    assert formats.change(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s ago"),
        (59.9, "59 s ago"),
        (3599, "59 min ago"),
        (86_399, "23 h ago"),
        (60, "1 min ago"),
        (7200, "2 h ago"),
        (864000, "10 d ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert formats.age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1_000_000, "15:46:40"),
        (1_000_000 - 56_800, "00:00:00"),
        (1_000_000 - 56_801, "1970-01-11 23:59"),
        (-5, "1970-01-01 02:00"),
        (1e300, "9999-12-31 01:59"),
    ],
)
def test_times_are_of_the_viewers_zone_with_the_date_of_another_day(seconds: float, text: str) -> None:
    assert formats.clock(seconds, datetime.fromtimestamp(1_000_000, timezone(timedelta(hours=2)))) == text


@given(st.floats() | st.none())
def test_every_number_has_a_short_text(value: float | None) -> None:
    for text in (
        formats.price(value),
        formats.amount(value),
        formats.change(value),
        formats.points(value),
        formats.share(value),
        formats.more(value),
    ):
        assert 0 < len(text) <= 25


@given(st.floats(1e-300, 1e14))
def test_prices_are_short_and_close(value: float) -> None:
    text = formats.price(value)
    assert len(text) < 24
    if value >= 1e-4:
        assert float(text.replace("$", "").replace(",", "")) == pytest.approx(
            value, rel=1e-3, abs=0.005 if value >= 1 else 0
        )


@given(st.integers(-(10**14), 10**14))
def test_every_moment_has_a_text(seconds: int) -> None:
    assert formats.moment(seconds).endswith("UTC")


def test_markdown_of_a_name_is_text() -> None:
    assert formats.plain("$a$ [x](y) :red[z] <b>") == r"&#36;a&#36; \[x\]\(y\) \:red\[z\] \<b\>"
