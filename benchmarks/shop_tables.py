"""The tables of a synthetic shop of any size, as Parquet, with the skew that real ones have.

Item popularity follows a Zipf-Mandelbrot law and users' activity a log-normal one. Purchases come in baskets, a part of
them repeats what the user bought before, weekends and evenings sell more, and a part of the users and of the items
appears in the course of the year. What is bought says nothing of who buys: the shop is for time and memory, and a model
learns little more than what sells.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

DAY, DAYS = 86_400, 364
START = int(dt.datetime(2024, 1, 1, tzinfo=dt.UTC).timestamp())  # a Monday
END = START + DAYS * DAY
# Sales of the weekdays, from Monday on, and of the hours.
WEEK = np.array([1.0, 0.9, 0.9, 1.0, 1.4, 1.7, 1.1])
HOURS = np.array([1, 1, 1, 1, 1, 2, 4, 7, 10, 12, 13, 14, 14, 13, 12, 13, 15, 18, 20, 17, 13, 9, 5, 2], np.float64)
ZIPF_EXPONENT, ZIPF_SHIFT = 1.0, 10.0
ACTIVITY_SIGMA = 1.0
REPEAT_SHARE = 0.3
BASKET = 2.5
# Users and items that are there on the first day; the others appear evenly over the year.
OLD_SHARE = 0.7
ROWS_A_FILE = 1_000_000


@dataclass(frozen=True)
class Size:
    """A shop's size: purchases, users who buy at least once, and items of the catalogue."""

    rows: int
    users: int
    items: int

    def __post_init__(self) -> None:
        """Refuse a shop without anything, or with users that no row is left for; raises ValueError."""
        if not 0 < self.users <= self.rows or self.items < 1:
            raise ValueError(f"found {self}, expected an item, and from 1 to {self.rows:,} users")


@dataclass(frozen=True)
class Purchases:
    """Purchases in time order: rows of users and items, unix seconds, pieces; and when items appeared, [items]."""

    users: Int64
    items: Int64
    times: Int64
    pieces: Int64
    listed: Int64


def purchases(size: Size, seed: int) -> Purchases:
    """The purchases of a shop; the same ones for the same seed."""
    random = np.random.default_rng(seed)
    # Each buys once, and the rest goes by activity.
    activity = random.lognormal(0.0, ACTIVITY_SIGMA, size.users)
    counts = 1 + random.multinomial(size.rows - size.users, activity / activity.sum())
    users = np.repeat(np.arange(size.users), counts)
    times = _times(counts, _appear(size.users, random), random)
    order = np.lexsort((times, users))
    users, times = users[order], times[order]  # users are grouped: a user's events come in time order
    listed = START + _appear(size.items, random) * DAY
    items = _items(times, listed, random)
    items = _repeated(items, np.cumsum(counts) - counts, counts, random)
    pieces = random.geometric(0.7, size.rows)
    order = np.argsort(times, kind="stable")
    return Purchases(users[order], items[order], times[order], pieces[order], listed)


def write(folder: Path, size: Size, seed: int) -> None:
    """Write ``purchases-*.parquet``, ``users.parquet`` and ``items.parquet`` of a shop into a new folder."""
    folder.mkdir(parents=True)
    made, random = purchases(size, seed), np.random.default_rng((seed, 1))
    for number, start in enumerate(range(0, size.rows, ROWS_A_FILE)):
        part = slice(start, start + ROWS_A_FILE)
        columns = {
            "user": _names("u", made.users[part]),
            "item": _names("i", made.items[part]),
            "time": pa.array(made.times[part] * 1_000_000, pa.timestamp("us")),
            "pieces": pa.array(made.pieces[part]),
        }
        pa.parquet.write_table(pa.table(columns), folder / f"purchases-{number:05}.parquet")
    users = {
        "id": _names("u", np.arange(size.users)),
        "region": _names("region ", random.integers(0, 50, size.users)),
        "age": _names("age ", random.integers(0, 7, size.users)),
    }
    pa.parquet.write_table(pa.table(users), folder / "users.parquet")
    category = _zipf(300, size.items, random)
    items = {
        "id": _names("i", np.arange(size.items)),
        "category": _names("category ", category),
        "brand": _names("brand ", _zipf(2_000, size.items, random)),
        "price": pa.array(np.round(random.lognormal(2.0, 1.0, size.items), 2)),
        "title": pa.array([f"word{a} word{b} kind{c}" for a, b, c in _words(category, random)]),
    }
    pa.parquet.write_table(pa.table(items), folder / "items.parquet")


def _appear(count: int, random: np.random.Generator) -> Int64:
    """[count] days on which users or items appear; the first of them is always there."""
    days = np.where(random.random(count) < OLD_SHARE, 0, random.integers(1, DAYS, count))
    days[0] = 0
    return days


def _times(counts: Int64, joined: Int64, random: np.random.Generator) -> Int64:
    """[rows] moments of the purchases of users with ``counts`` of them, in baskets, from the day they joined on."""
    trips = np.maximum(1, np.round(counts / BASKET)).astype(np.int64)
    sales = np.append(0.0, np.cumsum(WEEK[np.arange(DAYS) % 7]))
    low = np.repeat(sales[joined], trips)
    day = np.searchsorted(sales, low + random.random(len(low)) * (sales[-1] - low), side="right") - 1
    hour = random.choice(24, len(low), p=HOURS / HOURS.sum())
    moments = START + np.minimum(day, DAYS - 1) * DAY + hour * 3_600 + random.integers(0, 3_600, len(low))
    first = np.cumsum(trips) - trips
    basket = np.floor(random.random(counts.sum()) * np.repeat(trips, counts)).astype(np.int64)
    return np.asarray(moments[np.repeat(first, counts) + basket])


def _items(times: Int64, listed: Int64, random: np.random.Generator) -> Int64:
    """[rows] items by popularity, among those that are listed at each moment."""
    popularity = 1.0 / (random.permutation(len(listed)) + 1.0 + ZIPF_SHIFT) ** ZIPF_EXPONENT
    oldest = np.argsort(listed, kind="stable")
    there = np.searchsorted(listed[oldest], times, side="right")
    running = np.append(0.0, np.cumsum(popularity[oldest]))
    place = np.searchsorted(running, random.random(len(times)) * running[there], side="right") - 1
    return np.asarray(oldest[np.minimum(place, there - 1)])


def _repeated(items: Int64, first: Int64, counts: Int64, random: np.random.Generator) -> Int64:
    """The items [rows], grouped by user, where a share of all but each user's first is that of an earlier purchase."""
    place = np.arange(len(items)) - np.repeat(first, counts)
    source = np.arange(len(items))
    again = (random.random(len(items)) < REPEAT_SHARE) & (place > 0)
    earlier = np.repeat(first, counts) + np.floor(random.random(len(items)) * place).astype(np.int64)
    source[again] = earlier[again]
    # An earlier purchase may be a repeat itself: halve the way to its origin until nothing moves.
    while (source != source[source]).any():
        source = source[source]
    return np.asarray(items[source])


def _zipf(kinds: int, count: int, random: np.random.Generator) -> Int64:
    share = 1.0 / (np.arange(kinds) + 1.0 + ZIPF_SHIFT)
    return np.asarray(random.choice(kinds, count, p=share / share.sum()))


def _words(category: Int64, random: np.random.Generator) -> zip[tuple[int, int, int]]:
    words = _zipf(5_000, 2 * len(category), random).reshape(2, -1)
    return zip(words[0].tolist(), words[1].tolist(), category.tolist(), strict=True)


def _names(prefix: str, numbers: Int64) -> pa.Array:
    return pa.array([f"{prefix}{number}" for number in numbers.tolist()])
