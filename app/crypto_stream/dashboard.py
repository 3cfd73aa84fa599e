"""The dashboard: latest prices, and the course of one coin. Run by `streamlit run dashboard.py`.

Each fragment refreshes itself. What it shows comes from a `Store` only, and what goes wrong there is said in one
sentence where the data would have been.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import altair as alt
import pandas as pd
import streamlit as st

from crypto_stream import config, store
from crypto_stream.config import Settings
from crypto_stream.store import LatestPrice, PricePoint, Store, StoreError

FAVOURITE = "Bitcoin"


@dataclass
class Outage:
    """Since when Cassandra has not answered, in epoch seconds; shared by all who look at the dashboard."""

    since: float | None = None

    def text(self, now: float) -> str:
        """What to say; the first call since all was well sets the beginning. `now` in epoch seconds."""
        if self.since is None:
            self.since = now
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"Cassandra is unreachable since {moment}. This page tries again by itself."


@st.cache_resource
def load_settings() -> Settings:
    """Read once for each process."""
    return config.load()


@st.cache_resource
def get_store() -> Store:
    """One session with Cassandra for each process."""
    store.quiet_driver()
    return store.open_store(load_settings().cassandra)


@st.cache_resource
def get_outage() -> Outage:
    """One for each process."""
    return Outage()


def format_price(price: float) -> str:
    """US dollars as market sites write them: cents for dear coins, significant digits for cheap ones."""
    if price >= 1:
        return f"${price:,.2f}"
    if price == 0:
        return "$0.00"
    decimals = max(4, 3 - int(f"{price:e}".split("e")[1]))
    return f"${price:.{decimals}f}"


def format_age(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"


def latest_table(rows: list[LatestPrice], now: float) -> pd.DataFrame:
    """For display, the dearest coin first; columns Name, Price, Updated (both text) and Time (UTC)."""
    ordered = sorted(rows, key=lambda row: row.price_usd, reverse=True)
    return pd.DataFrame(
        {
            "Name": [row.name for row in ordered],
            "Price": [format_price(row.price_usd) for row in ordered],
            "Updated": [format_age(now - row.ts / 1000) for row in ordered],
            "Time": pd.to_datetime([row.ts for row in ordered], unit="ms", utc=True),
        }
    )


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


def show_freshness(rows: list[LatestPrice], now: float, stale_after: float) -> None:
    """Three figures above the table, and a plain word when nothing new comes."""
    age = now - max(row.ts for row in rows) / 1000
    coins, newest, state = st.columns(3)
    coins.metric("Coins", f"{len(rows):,}")
    newest.metric("Newest price", format_age(age))
    state.metric("State", "live" if age <= stale_after else "stale")
    if age > stale_after:
        st.warning(
            f"No new prices for {format_age(age).removesuffix(' ago')}. What is shown is old; "
            "`crypto-check` on the host tells which hop is broken."
        )


def show(settings: Settings, prices: Store, outage: Outage) -> None:
    """Everything below the title, once."""
    now = time.time()
    try:
        rows = prices.latest()
    except StoreError as error:
        st.error(outage.text(now))
        st.caption(str(error))
        return
    outage.since = None
    if not rows:
        st.info("No prices yet. The first ones arrive within a minute after the stream was started.")
        return
    show_freshness(rows, now, settings.dashboard.stale_after_seconds)
    table, course = st.columns([2, 3], gap="large")
    with table:
        st.subheader("Latest prices")
        st.dataframe(
            latest_table(rows, now),
            hide_index=True,
            height=420,
            column_config={"Time": st.column_config.DatetimeColumn("Time (UTC)", format="HH:mm:ss")},
        )
    with course:
        show_course(settings, prices, rows, now)


def show_course(settings: Settings, prices: Store, rows: list[LatestPrice], now: float) -> None:
    """The price line of the coin that was chosen."""
    names = {row.id: row.name for row in sorted(rows, key=lambda row: row.name.lower())}
    ids = list(names)
    favourite = next((coin for coin in ids if names[coin] == FAVOURITE), ids[0])
    st.subheader("Price")
    coin = st.selectbox("Coin", ids, index=ids.index(favourite), format_func=names.__getitem__, key="coin")
    hours = settings.dashboard.history_hours
    try:
        points = prices.history(coin, int((now - hours * 3600) * 1000))
    except StoreError as error:
        st.error("Cassandra did not answer for this coin. This page tries again by itself.")
        st.caption(str(error))
        return
    if points:
        st.altair_chart(price_chart(points, names[coin]), width="stretch")
    else:
        st.info(f"No prices of {names[coin]} in the last {hours:g} hours.")


def main() -> None:
    """The page."""
    st.set_page_config(page_title="crypto-stream", page_icon=":material/monitoring:", layout="wide")
    st.title("Live market data")
    try:
        settings = load_settings()
    except config.SettingsError as error:
        st.error("The settings are wrong; the dashboard cannot start.")
        st.code(str(error), language=None)
        return
    st.caption("CoinLore → Kafka → Spark → Cassandra")
    st.fragment(show, run_every=settings.dashboard.refresh_seconds)(settings, get_store(), get_outage())


if __name__ == "__main__":
    main()
