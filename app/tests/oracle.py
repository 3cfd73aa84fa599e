"""What candles must be, computed by plain Python from the prices that are in the topic."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

SECONDS = {"1m": 60, "15m": 900, "1h": 3600, "1d": 86_400}


class Sample(NamedTuple):
    """A price of a coin; `ts` in epoch milliseconds."""

    coin: str
    ts: int
    price: float
    volume: float | None


class Candle(NamedTuple):
    """Of all its samples, each counted once; `volume` is the last one that is known."""

    open: float
    high: float
    low: float
    close: float
    samples: int
    volume: float | None


# The coin, the name of the interval, and the start in epoch milliseconds.
Key = tuple[str, str, int]


def candles(samples: Iterable[Sample]) -> dict[Key, Candle]:
    """Each candle of these samples. Of two with one coin and time, the first one counts."""
    once: dict[tuple[str, int], Sample] = {}
    for sample in samples:
        once.setdefault((sample.coin, sample.ts), sample)
    found: dict[Key, list[Sample]] = {}
    for sample in sorted(once.values(), key=lambda sample: sample.ts):
        for name, seconds in SECONDS.items():
            found.setdefault((sample.coin, name, sample.ts - sample.ts % (seconds * 1000)), []).append(sample)
    return {key: _candle(of_one) for key, of_one in found.items()}


def _candle(samples: list[Sample]) -> Candle:
    prices = [sample.price for sample in samples]
    volumes = [sample.volume for sample in samples if sample.volume is not None]
    return Candle(prices[0], max(prices), min(prices), prices[-1], len(samples), volumes[-1] if volumes else None)
