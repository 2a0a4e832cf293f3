"""A log whose right answer is known: even users take even items, odd users odd ones."""

from __future__ import annotations

import polars as pl

from zhiyin.data.dataset import Dataset
from zhiyin.models.recommender import Recommender

USERS, ITEMS = 40, 20


def checkerboard() -> Dataset:
    """Each user has all items of their parity but one: item (user · 2 + parity) mod ITEMS is missing."""
    pairs = [
        (f"u{user}", item) for user in range(USERS) for item in range(user % 2, ITEMS, 2) if item != missing_of(user)
    ]
    return Dataset.build(pl.DataFrame(pairs, schema=["user", "item"], orient="row"))


def missing_of(user: int) -> int:
    """The one item of the user's parity that they have not had."""
    return (user // 2 * 2) % ITEMS + user % 2


def assert_checkerboard(model: Recommender) -> None:
    """Everybody gets exactly the item they lack; a stranger with two even items gets even ones."""
    model.fit(checkerboard())
    frame = model.recommend([f"u{user}" for user in range(USERS)], k=1)
    assert frame["item"].to_list() == [missing_of(user) for user in range(USERS)]
    stranger = model.recommend(histories={"visitor": [0, 4]}, k=8)["item"].to_list()
    assert sorted(stranger) == [2, 6, 8, 10, 12, 14, 16, 18]
    assert all(item % 2 for item in model.similar(3, k=9)["similar"])
