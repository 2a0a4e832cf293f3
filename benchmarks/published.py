"""The published splits that benchmarks and quality tests measure by, each as a `Split` of a `Dataset`.

All are read from the folder that the variable ZHIYIN_DATA names; none is part of the project.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import polars as pl

from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import Split, split


def folder(name: str) -> Path:
    """Where a data set lies; ends the program with a remedy where it does not."""
    found = Path(os.environ.get("ZHIYIN_DATA", ".")) / name
    if not found.exists():
        sys.exit(f"set ZHIYIN_DATA to the folder that holds {name}/")
    return found


def movielens_100k() -> Split:
    """Three quarters of each user's ratings to learn from, all of them relevant: 943 users, 1,682 items.

    The draw is that of `python_stratified_split` of Microsoft's Recommenders (seed 42, by user, ratings in the file's
    order), rounded down. Its README says so of the table; versions of the notebook stratify by item.
    """
    pairs = np.loadtxt(folder("movielens-100k") / "u.data", dtype=np.int64)[:, :2]
    counts = np.bincount(pairs[:, 0])
    order = np.lexsort((np.random.RandomState(42).rand(len(pairs)), pairs[:, 0]))
    rank = np.empty(len(pairs), dtype=np.int64)
    rank[order] = np.arange(len(pairs)) - (np.cumsum(counts) - counts)[pairs[order, 0]]
    taught = (rank + 1) / counts[pairs[:, 0]] <= 0.75
    parts = [(part[:, 0], part[:, 1]) for part in (pairs[taught], pairs[~taught])]
    return _split(parts, "a random quarter of each user's ratings is test")


def movielens_1m() -> Split:
    """SASRec's file: 6,040 users, 3,416 items, 999,611 events; each user's last item is test."""
    pairs = np.loadtxt(folder("movielens-1m") / "sequences.txt", dtype=np.int64)
    return split(Dataset.build(pl.DataFrame({"user": pairs[:, 0], "item": pairs[:, 1]})), "last")


def beauty() -> Split:
    """Amazon Beauty, 5-core: 22,363 users, 12,101 items, 198,502 events; each user's last item is test."""
    user, item = ragged(folder("amazon-beauty") / "sequences.txt")
    return split(Dataset.build(pl.DataFrame({"user": user, "item": item})), "last")


def gowalla() -> Split:
    """NGCF's and LightGCN's random split: 29,858 users, 40,981 items, 810,128 / 217,242 pairs."""
    where = folder("gowalla")
    return _split([ragged(where / name) for name in ("train.txt", "test.txt")], "the split published with LightGCN")


def diginetica(validation: float = 0.0) -> Split:
    """SR-GNN's protocol: 186,670 sessions to learn from; 60,858 prefixes, each with the item that came next.

    Every prefix is a user of its own. Rank all items and mask nothing: evaluate(..., exclude_seen=False).
    With `validation` the test part is not read: the last such share of the sessions, which stand in order of time, is
    judged in the same way instead, by a learner of those before.
    """
    where = folder("diginetica")
    lines = [np.array(line.split(), dtype=np.int64) for line in (where / "train_sessions.txt").read_text().splitlines()]
    if validation:
        cut = round(len(lines) * (1 - validation))
        known = np.zeros(1 + max(line.max() for line in lines), dtype=bool)
        known[np.concatenate(lines[:cut])] = True
        later = [line[known[line]] for line in lines[cut:]]
        pairs = [(line[:end], line[end]) for line in later for end in range(1, len(line))]
        return _sessions(lines[:cut], [shown for shown, _ in pairs], np.array([wanted for _, wanted in pairs]))
    asked = [line.split("\t") for line in (where / "test.txt").read_text().splitlines()]
    shown = [np.array(prefix.split(), dtype=np.int64) for prefix, _ in asked]
    return _sessions(lines, shown, np.array([int(target) for _, target in asked]))


def _sessions(lines: list[np.ndarray], shown: list[np.ndarray], wanted: np.ndarray) -> Split:
    """Sessions to learn from, prefixes that are shown, and the item that came after each."""
    sizes = [len(row) for row in (*lines, *shown)]
    user = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), len(lines) + np.arange(len(wanted))])
    item = np.concatenate([*lines, *shown, wanted])
    part = np.repeat([1.0, 2.0, 3.0], [sum(sizes[: len(lines)]), sum(sizes[len(lines) :]), len(wanted)])
    whole = Dataset.build(pl.DataFrame({"user": user, "item": item, "weight": part}))
    mark = whole.events["weight"].to_numpy()
    events = whole.events.with_columns(pl.lit(1.0, dtype=pl.Float32).alias("weight"))
    plain = Dataset(events, whole.users, whole.items, has_times=False)
    known = np.zeros(plain.n_items, dtype=bool)
    known[events["item"].to_numpy()[mark == 1]] = True
    train = plain.subset(mark == 1, candidates=known)
    protocol = "sessions of SR-GNN's split: each prefix of a later session, and the item after it"
    return Split(train, plain.subset(mark == 3), "published", protocol, shown=plain.subset(mark == 2))


def ragged(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """User and item of every pair in a file of "user item item ..." lines."""
    rows = [np.array(line.split(), dtype=np.int64) for line in path.read_text().splitlines()]
    user = np.repeat([row[0] for row in rows], [len(row) - 1 for row in rows])
    return user, np.concatenate([row[1:] for row in rows])


def _split(parts: list[tuple[np.ndarray, np.ndarray]], protocol: str) -> Split:
    """Pairs of users and items to learn from and to be judged by, without times; every item is a candidate."""
    user, item = (np.concatenate(column) for column in zip(*parts))
    mark = np.repeat([1.0, 2.0], [len(users) for users, _ in parts])
    whole = Dataset.build(pl.DataFrame({"user": user, "item": item, "weight": mark}))
    taught = whole.events["weight"].to_numpy() == 1
    events = whole.events.with_columns(pl.lit(1.0, dtype=pl.Float32).alias("weight"))
    plain = Dataset(events, whole.users, whole.items, has_times=False)
    return Split(plain.subset(taught), plain.subset(~taught), "published", protocol)
