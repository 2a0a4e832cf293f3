"""A small shop with the files, users and items that the documents name."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import polars as pl

DAYS, FIRST = 60, datetime.datetime(2024, 1, 1)
USERS = ["alice", "bob", *(f"u{n}" for n in range(40))]
ITEMS = [*(f"film {n}" for n in range(1, 20)), *(f"item {n}" for n in range(1, 10)), "sku-7"]


def make(folder: Path) -> None:
    """Write ratings.csv, movies.csv, users.csv, plays.csv, friends.csv and follows.csv. Two tastes: even users like
    even items, and what follows what is nearly certain, so that models beat what is popular."""
    rng = np.random.default_rng(5)
    rows = []
    for u, user in enumerate(USERS):
        start = int(rng.integers(0, len(ITEMS)))
        for step in range(24):
            item = ITEMS[(start + 2 * step + u) % len(ITEMS)]
            when = FIRST + datetime.timedelta(days=DAYS * step / 24, minutes=int(rng.integers(0, 1000)))
            rows.append((user, item, int(rng.integers(3, 6)), when.isoformat(sep=" ")))
    ratings = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    ratings.write_csv(folder / "ratings.csv")
    ratings.write_csv(folder / "plays.csv")
    n = len(ITEMS)
    pl.DataFrame({
        "item_id": ITEMS, "title": [f"The {item} of {('rockets', 'roses')[at % 2]}" for at, item in enumerate(ITEMS)],
        "price": [float(5 + at % 40) for at in range(n)], "category": [("drama", "comedy")[at % 2] for at in range(n)],
        "adult": [at % 9 == 8 for at in range(n)], "in_stock": [at % 7 != 6 for at in range(n)],
    }).write_csv(folder / "movies.csv")  # fmt: skip
    pl.DataFrame({"user_id": USERS, "budget": [20.0 + at for at in range(len(USERS))]}).write_csv(folder / "users.csv")
    pairs = [(user, USERS[(at + step) % len(USERS)]) for at, user in enumerate(USERS) for step in (2, 4)]
    friends = [*pairs, ("newcomer", "alice"), ("newcomer", "u0")]
    pl.DataFrame(friends, schema=["user", "friend"], orient="row").write_csv(folder / "friends.csv")
    pl.DataFrame(pairs, schema=["follower", "followee"], orient="row").write_csv(folder / "follows.csv")
