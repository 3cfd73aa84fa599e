"""The page of the dashboard: latest prices, and the course of one coin. `dashboard_server` runs it in Streamlit.

Each fragment refreshes itself. It shows what the process' one reader has read last, and what goes wrong is said in one
sentence beside it.
"""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd
import streamlit as st

from crypto_stream import board, config
from crypto_stream.board import Reader, Snapshot
from crypto_stream.config import Settings
from crypto_stream.store import Board, LatestPrice, PricePoint, StoreError

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

# Bitcoin's id.
FAVOURITE = "90"
GREY, UP, DOWN = "#9a9a9a", "#1a9c5b", "#d64545"


def format_price(price: float) -> str:
    """US dollars as market sites write them: cents for dear coins, significant digits for cheap ones."""
    if price >= 1:
        return f"${price:,.2f}"
    if price == 0:
        return "$0.00"
    decimals = max(4, 3 - int(f"{price:e}".split("e")[1]))
    return f"${price:.{decimals}f}"


def format_change(change: float) -> str:
    """Per cent, with its sign; a dash where nothing is known."""
    return "-" if math.isnan(change) else f"{change:+,.2f} %"


def format_amount(amount: float) -> str:
    """US dollars in thousands, millions and so on; a dash where nothing is known."""
    if math.isnan(amount):
        return "-"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if amount >= size:
            return f"${amount / size:,.2f}{unit}"
    return f"${amount:,.2f}"


def format_age(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(0, seconds) // 1:.0f} s ago"


def format_moment(seconds: float) -> str:
    """Epoch seconds as date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def plain(text: str) -> str:
    """Text from outside, where Markdown would be read out of it."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~:$^])", r"\\\1", text)


def latest_table(rows: list[LatestPrice], now: float) -> pd.DataFrame:
    """Coins in the order of their ranks; true numbers, so that they can be sorted by. Changes in per cent, Updated in
    seconds.
    """
    return pd.DataFrame(
        {
            "Rank": pd.array([row.rank for row in rows], dtype="Int64"),
            "Name": [row.name for row in rows],
            "Symbol": [row.symbol or "" for row in rows],
            "Price": [row.price_usd for row in rows],
            "1 h": [row.percent_change_1h for row in rows],
            "24 h": [row.percent_change_24h for row in rows],
            "7 d": [row.percent_change_7d for row in rows],
            "Volume 24 h": [row.volume24_usd for row in rows],
            "Market cap": [row.market_cap_usd for row in rows],
            "Updated": [max(0, round(now - row.ts / 1000)) for row in rows],
        }
    ).astype(dict.fromkeys(("1 h", "24 h", "7 d", "Volume 24 h", "Market cap"), "float64"))


def styled(frame: pd.DataFrame, *, reachable: bool) -> Styler:
    """As market sites write it; what may be out of date is grey."""

    def direction(value: Any) -> str:
        return f"color: {UP if value > 0 else DOWN}" if reachable and value and not math.isnan(value) else ""

    changes = ["1 h", "24 h", "7 d"]
    amounts = ["Volume 24 h", "Market cap"]
    words: dict[Any, Any] = {"Price": format_price, "Updated": format_age}
    words |= dict.fromkeys(changes, format_change) | dict.fromkeys(amounts, format_amount)
    style = frame.style.format(words).map(direction, subset=pd.Index(changes))
    return style if reachable else style.set_properties(color=GREY)


def price_chart(points: list[PricePoint], name: str) -> alt.Chart:
    """The course of a coin; the axis does not begin at zero, or nothing could be seen."""
    frame = pd.DataFrame(
        {
            "time": pd.to_datetime([point.ts for point in points], unit="ms", utc=True),
            "price": [point.price_usd for point in points],
        }
    )
    scale = alt.Scale(zero=False, nice=True)
    chart: alt.Chart = (
        alt.Chart(frame, height=340)
        .mark_line(interpolate="monotone", strokeWidth=2, point=len(points) < 40)
        .encode(
            x=alt.X(
                "time:T", title="Time (UTC)", axis=alt.Axis(grid=False, format="%H:%M"), scale=alt.Scale(type="utc")
            ),
            y=alt.Y("price:Q", title=f"{name} in US dollars", scale=scale),
            tooltip=[
                alt.Tooltip("utcyearmonthdatehoursminutesseconds(time):T", title="Time (UTC)", format="%d %b %H:%M:%S"),
                alt.Tooltip("price:Q", title="Price", format=",.6~f"),
            ],
        )
    )
    return chart


def show_freshness(board: Board, now: float, settings: Settings, *, reachable: bool) -> None:
    """Three figures above the table, and a plain word when nothing new comes."""
    rows = board.rows
    age = now - (board.newest_ts or max(row.ts for row in rows)) / 1000
    is_stale = age > settings.freshness.stale_after_seconds
    coins, newest, state = st.columns(3)
    coins.metric("Coins", f"{len(rows):,}", help=f"{len(board.left):,} more have left the ranking")
    newest.metric("Newest price", format_age(age))
    state.metric("State", "unknown" if not reachable else "stale" if is_stale else "live")
    if reachable and is_stale:
        st.warning(
            f"No new prices for {format_age(age).removesuffix(' ago')}. What is shown is old; "
            "`crypto-check` on the host tells which hop is broken."
        )


def show_outage(snapshot: Snapshot) -> None:
    """Since when Cassandra does not answer, and of when what is still shown is."""
    since, read = snapshot.failing_since, snapshot.read_at
    if since is None:
        return
    kept = "" if read is None else f" What is shown was read at {format_moment(read)}."
    st.error(
        f"Cassandra has not answered since {format_moment(since)}, when it was asked first.{kept}"
        " This page tries again by itself."
    )
    st.caption(plain(snapshot.error))


def show_ahead(ahead: list[LatestPrice], now: float) -> None:
    """Prices of the future are a clock's fault, and no news."""
    if ahead:
        most = max(ahead, key=lambda row: row.ts)
        lead = format_age(most.ts / 1000 - now).removesuffix(" ago")
        whose = "1 coin has a price that is" if len(ahead) == 1 else f"{len(ahead):,} coins have prices that are"
        st.warning(
            f"A wrong clock: {whose} ahead of this host's time ({plain(most.name)} by {lead})."
            " They are shown with the others."
        )


def show(settings: Settings, reader: Reader) -> None:
    """Everything below the title, once."""
    now = time.time()
    snapshot = reader.snapshot
    show_outage(snapshot)
    if snapshot.board is None:
        if snapshot.failing_since is None:
            st.info("Reading the prices.")
        return
    rows = snapshot.board.rows
    show_ahead(snapshot.board.ahead, now)
    if not rows:
        st.info("No prices yet. The first ones arrive within a minute after the stream was started.")
        return
    reachable = snapshot.failing_since is None
    show_freshness(snapshot.board, now, settings, reachable=reachable)
    table, course = st.columns([3, 2], gap="large")
    with table:
        st.subheader("Latest prices")
        st.dataframe(styled(latest_table(rows, now), reachable=reachable), hide_index=True, height=420)
    with course:
        show_course(settings, reader, rows, now)


def show_course(settings: Settings, reader: Reader, rows: list[LatestPrice], now: float) -> None:
    """The price line of the coin that was chosen."""
    names = {row.id: row.name for row in sorted(rows, key=lambda row: row.name.lower())}
    ids = list(names)
    favourite = FAVOURITE if FAVOURITE in names else ids[0]
    st.subheader("Price")
    coin = st.selectbox("Coin", ids, index=ids.index(favourite), format_func=names.__getitem__, key="coin")
    hours = settings.dashboard.history_hours
    try:
        points = reader.prices.history(coin, int((now - hours * 3600) * 1000), int(now * 1000))
    except StoreError as error:
        st.error("Cassandra did not answer for this coin. This page tries again by itself.")
        st.caption(plain(str(error)))
        return
    if points:
        st.altair_chart(price_chart(points, names[coin]), width="stretch")
    else:
        st.info(f"No prices of {plain(names[coin])} in the last {hours:g} hours.")


def main() -> None:
    """The page."""
    st.set_page_config(page_title="crypto-stream", page_icon=":material/monitoring:", layout="wide")
    st.title("Live market data")
    try:
        settings = board.settings()
    except config.SettingsError as error:
        st.error("The settings are wrong; the dashboard cannot start.")
        st.code(str(error), language=None)
        return
    st.caption("CoinLore → Kafka → Spark → Cassandra")
    st.fragment(show, run_every=settings.dashboard.refresh_seconds)(settings, board.reader())


if __name__ == "__main__":
    main()
