"""Charts, from rows of the tables to Altair."""

from __future__ import annotations

import altair as alt
import pandas as pd

from crypto_stream.store import Candle

UP, DOWN = "#1a9c5b", "#d64545"
# Of a day with 24 hours; Vega's own have twelve.
TIMES = {"hours": "%H:%M", "minutes": "%H:%M"}


def candle_frame(candles: list[Candle]) -> pd.DataFrame:
    """Columns time (of the candle's beginning, UTC), open, high, low, close, volume, rises."""
    return pd.DataFrame(
        {
            "time": pd.to_datetime([candle.start_ts for candle in candles], unit="ms", utc=True),
            "open": [candle.open for candle in candles],
            "high": [candle.high for candle in candles],
            "low": [candle.low for candle in candles],
            "close": [candle.close for candle in candles],
            "volume": pd.array([candle.volume24_usd for candle in candles], dtype="Float64").astype("float64"),
            "rises": [candle.close >= candle.open for candle in candles],
        }
    )


def candle_charts(
    candles: list[Candle], seconds: int, span: tuple[int, int], *, log: bool, utc: bool
) -> tuple[alt.LayerChart, alt.Chart]:
    """The candles of `seconds` each, and the 24 h volume to stand below them, from one time to another (`span`, epoch
    milliseconds). Each is as wide as its time, so where none was computed there is a gap.
    """
    frame = candle_frame(candles)
    frame["end"] = frame["time"] + pd.to_timedelta(seconds * 0.8, unit="s")
    frame["middle"] = frame["time"] + pd.to_timedelta(seconds * 0.4, unit="s")
    clock = alt.Scale(type="utc" if utc else "time", domain=list(span))
    # A logarithm has no zero.
    is_log = log and bool((frame["low"] > 0).all())
    scale = alt.Scale(type="log", nice=False) if is_log else alt.Scale(zero=False, nice=True)
    colour = alt.condition("datum.rises", alt.value(UP), alt.value(DOWN))
    time = alt.Axis(grid=False, title=None, labelOverlap=True, format=TIMES)
    # As wide as each other, so that the two stand in line.
    dollars = alt.Axis(format=",.2f" if frame["high"].max() >= 1 else ".4~g", minExtent=64, maxExtent=64, title=None)
    volumes = alt.Axis(
        labelExpr="replace(format(datum.value, '$.2~s'), 'G', 'B')", tickCount=2, minExtent=64, maxExtent=64, title=None
    )
    day = "%d %b %Y %H:%M"
    hint = [
        alt.Tooltip("time:T", title="UTC" if utc else "Local time", format=day, formatType="utc" if utc else "time"),
        *(alt.Tooltip(f"{name}:Q", title=name, format=",.6~g") for name in ("open", "high", "low", "close")),
        alt.Tooltip("volume:Q", title="24 h volume", format="$.3~s"),
    ]
    base = alt.Chart(frame).encode(tooltip=hint)
    wicks = base.mark_rule(clip=True).encode(
        x=alt.X("middle:T", axis=time, scale=clock),
        y=alt.Y("low:Q", scale=scale, axis=dollars),
        y2="high:Q",
        color=colour,
    )
    bodies = base.mark_bar(clip=True).encode(
        x=alt.X("time:T", axis=time, scale=clock),
        x2="end:T",
        y=alt.Y("open:Q", scale=scale, axis=dollars),
        y2="close:Q",
        color=colour,
    )
    volume: alt.Chart = (
        base.mark_bar(color="#8a8f98", opacity=0.6, clip=True)
        .encode(
            x=alt.X("time:T", axis=time, scale=clock),
            x2="end:T",
            y=alt.Y("volume:Q", axis=volumes),
            y2=alt.Y2(datum=0),
        )
        .properties(height=90)
    )
    prices: alt.LayerChart = (wicks + bodies).properties(height=340)
    return prices, volume
