"""Numbers and times as market sites write them. A dash is what is not known; nothing here ever fails on a number."""

from __future__ import annotations

import math
import re
import time
from datetime import datetime

from crypto_stream.tables import DAY_SECONDS

UNKNOWN = "-"
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
# The last second of the year 9999, and the first of 1970: what a date can show.
MAX_SECONDS = 253_402_300_799


def is_known(value: float | None) -> bool:
    """A number that can be shown."""
    return value is not None and math.isfinite(value)


def price(value: float | None) -> str:
    """US dollars: cents for dear coins, four significant digits for cheap ones; zeros behind the point are counted from
    the fifth one on: $0.0₅1234 has five.
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 0:
        return f"-{price(-value)}"
    if value >= 1e15:
        return f"${value:.2e}"
    if value >= 1:
        return f"${value:,.2f}"
    if value == 0:
        return "$0.00"
    digits, exponent = f"{value:.3e}".split("e")
    zeros = -int(exponent) - 1
    if zeros < 0:  # rounded up to one
        return "$1.00"
    figures = digits.replace(".", "")
    return f"$0.{'0' * zeros}{figures}" if zeros < 5 else f"$0.0{str(zeros).translate(SUBSCRIPTS)}{figures}"


def amount(value: float | None) -> str:
    """US dollars in thousands, millions and so on: $1.23T."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 0:
        return f"-{amount(-value)}"
    if value >= 1e16:
        return f"${value:.2e}"
    for size, unit in UNITS:
        if value >= size:
            return f"${value / size:,.2f}{unit}"
    return f"${value:,.2f}"


def change(value: float | None) -> str:
    """Per cent, with its sign."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= 1e6:
        return f"{value:+.2e} %"
    text = f"{value:+,.2f} %"
    return text if text.strip("+-0.% ") else "0.00 %"


def points(value: float | None) -> str:
    """Percentage points, with their sign."""
    return change(value).replace("%", "pp")


def more(count: float | None) -> str:
    """How many more, or fewer; whole ones."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    return f"{count:+,.0f}" if abs(count) < 1e15 else f"{count:+.2e}"


def share(value: float | None) -> str:
    """Per cent of a whole."""
    return f"{value:.1f} %" if value is not None and 0 <= value <= 100 else UNKNOWN


def age(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(0.0, seconds) // 1:.0f} s ago"


def moment(seconds: float) -> str:
    """Epoch seconds as date and time, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(max(0.0, seconds), MAX_SECONDS)))


def clock(seconds: float, now: datetime) -> str:
    """Epoch seconds as a time in the zone of `now`, with the date where that is another one."""
    # A day less, because a zone may be ahead of UTC.
    then = datetime.fromtimestamp(min(max(0.0, seconds), MAX_SECONDS - DAY_SECONDS), now.tzinfo)
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"


def plain(text: str) -> str:
    """Text from outside, where Markdown would be read out of it."""
    escaped = re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~:^&])", r"\\\1", text)
    # Two escaped ones in a line make a browser load what draws formulas, all the same.
    return escaped.replace("$", "&#36;")
