"""Small planted shops with saved models: the same on every machine, for recorded answers.

The log, the catalogue and the users of a shop are computed from its name with the numbers of `random.Random.random`,
which are the same in every version of Python. Its models were fitted once by `write_models`, and lie in `golden/`.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import functools
import random
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

import zhiyin as zy
from zhiyin.data.dataset import Dataset
from zhiyin.pipeline import ranker_training, window_candidates
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.time_windows import plan_windows
from zhiyin.ranking import registry as rankers
from zhiyin.ranking.asof import AsOf
from zhiyin.ranking.feature_builder import FeatureBuilder

T = TypeVar("T")
FOLDER = Path(__file__).with_name("golden")
DAY = 86_400_000_000
START = 19_000 * DAY
DAYS = 90
NOW = START + (DAYS + 1) * DAY
RANKER = "trees:trees=40,leaves=7,min_leaf=20,learning_rate=0.1,patience=0"
# Methods by segment of users: strangers, short histories, long ones.
MIXED, RANKED = "mixed", "ranker"


class Draw:
    """Random numbers that do not depend on the version of Python or NumPy."""

    def __init__(self, seed: int | str) -> None:
        self.real = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self.real() < probability

    def integer(self, n: int) -> int:
        """From 0 to n - 1."""
        return int(self.real() * n)

    def choice(self, values: Sequence[T]) -> T:
        return values[self.integer(len(values))]

    def some(self, values: Sequence[T], n: int) -> list[T]:
        """n different ones, or all where there are fewer."""
        rest = list(values)
        return [rest.pop(self.integer(len(rest))) for _ in range(min(n, len(rest)))]


@dataclasses.dataclass(frozen=True)
class Shop:
    """What a shop is made of.

    Parameters
    ----------
    sources: of its pipeline; a single one is wrapped.
    whole: ids are whole numbers, else texts.
    times: events have times. kinds: events have kinds and values.
    new: number of items that the model has not seen.
    ranker: what is learned to order candidates; "": blends alone do.
    tolerance: relative and absolute difference of scores. Networks are computed by libraries that round differently.
    """

    name: str
    sources: str
    n_items: int = 240
    n_users: int = 150
    whole: bool = False
    times: bool = True
    kinds: bool = True
    new: int = 0
    ranker: str = RANKER
    candidates: int = 30
    tolerance: float = 1e-6


SHOPS = {shop.name: shop for shop in (
    Shop("books", "popular:half_life=7d; itemknn:k_neighbors=15; transitions:k_neighbors=12; als:factors=8,epochs=4",
         n_items=180),
    Shop("films", "popular; itemknn:k_neighbors=15; content; bpr:factors=8,epochs=3; ease", whole=True, times=False,
         kinds=False, new=12, ranker="", n_items=110),
    Shop("songs", "als:factors=6,epochs=4; content; popular", new=9, kinds=False, candidates=40),
    Shop("games",
         "popular:half_life=3d; slim; rp3beta:k_neighbors=20; userknn:k_neighbors=30; transitions:k_neighbors=10",
         whole=True, candidates=25, n_items=120),
    Shop("als", "als:factors=8,epochs=3", ranker="", new=5),
    Shop("ease", "ease", whole=True, times=False, kinds=False, ranker="", n_items=90, n_users=80),
    Shop("clips", "sasrec:factors=8,blocks=1,epochs=3,max_len=16; twotower:factors=8,epochs=2; popular:half_life=9d",
         n_items=80, n_users=100, ranker="deepfm:factors=4,hidden=8,layers=1,epochs=2", tolerance=2e-5),
)}  # fmt: skip


def raw_id(shop: Shop, prefix: str, number: int) -> Any:
    return 1_000 + 7 * number if shop.whole else f"{prefix}{number}"


def events(shop: Shop) -> pl.DataFrame:
    """Users like two of eight categories; what they do within them leans to popular items."""
    draw, rows = Draw(f"events of {shop.name}"), []
    for user in range(shop.n_users):
        liked = [draw.integer(8), draw.integer(8)]
        for _ in range(draw.choice((0, 1, 2, 3, 8, 15, 30, 45))):
            item = int(draw.real() ** 2 * shop.n_items)
            if draw.chance(0.8):
                item = min(shop.n_items - 1, item - item % 8 + draw.choice(liked))
            kind = draw.choice(("view", "view", "view", "cart", "purchase"))
            row = {"user": raw_id(shop, "u", user), "item": raw_id(shop, "i", item)}
            if shop.times:
                row["time"] = START + int(draw.real() * DAYS * DAY)
            if shop.kinds:
                row |= {"kind": kind, "value": draw.choice((None, 1.0, 2.5, 4.0))}
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def catalogue(shop: Shop, changed: bool = False) -> pl.DataFrame:
    """Columns of the items and of the new ones, in the order of their numbers; `changed`: with other values."""
    draw, rows = Draw(f"catalogue of {shop.name} {changed}"), []
    day = datetime.datetime(2022, 1, 8)
    for number in range(shop.n_items + shop.new):
        variant = number if changed else number // 2
        rows.append({
            "id": raw_id(shop, "i" if number < shop.n_items else "n", number),
            "category": None if draw.chance(0.05) else f"c{number % 8}",
            "genres": None if draw.chance(0.05) else draw.some([f"g{n}" for n in range(7)], draw.integer(4)),
            "price": None if draw.chance(0.05) else round(draw.real() * 100, 2),
            "margin": None if draw.chance(0.1) else round(draw.real(), 3),
            "stock": None if draw.chance(0.05) else draw.integer(5),
            "seller": None if draw.chance(0.1) else f"s{draw.integer(12)}",
            "variant": None if draw.chance(0.2) else f"v{variant}",
            "is_new": None if draw.chance(0.1) else draw.chance(0.25),
            "begins": None if draw.chance(0.5) else (day + datetime.timedelta(days=draw.integer(110))).date(),
            "ends": None if draw.chance(0.5) else (day + datetime.timedelta(days=60 + draw.integer(110))).date(),
            "released": None if draw.chance(0.1) else day + datetime.timedelta(hours=draw.integer(2_400)),
        })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col("genres").cast(pl.List(pl.String)))


def people(shop: Shop) -> pl.DataFrame:
    draw = Draw(f"people of {shop.name}")
    return pl.DataFrame({
        "id": [raw_id(shop, "u", user) for user in range(shop.n_users)],
        "age": [None if draw.chance(0.1) else 10 + draw.integer(60) for _ in range(shop.n_users)],
        "country": [None if draw.chance(0.1) else draw.choice(("de", "fr", "jp")) for _ in range(shop.n_users)],
    })  # fmt: skip


def dataset(shop: Shop) -> Dataset:
    return Dataset.build(events(shop), items=catalogue(shop)[: shop.n_items], users=people(shop))


def fit(shop: Shop) -> Pipeline:
    data, run = dataset(shop), zy.Run(threads=1)
    pipeline = Pipeline(sources=shop.sources, candidates=shop.candidates, ranker="none", windows=2).fit(data, run)
    if shop.ranker:
        part, window = plan_windows(data, 1, 0.3, True, run).choose[0]
        past = window_candidates.retrieve_window(pipeline.sources_, part, window, shop.candidates, run)
        like = past.builder(run)
        pipeline.ranker_ = ranker_training.train_ranker(rankers.parse(shop.ranker), [past], run, like)
        assert pipeline.ranker_ is not None
        pipeline.builder_ = FeatureBuilder.learn(data, pipeline.sources_, like=like, run=run)
    return pipeline


def write_models() -> None:
    """Fit the models of all shops and write them into `golden/`."""
    for shop in SHOPS.values():
        with tempfile.TemporaryDirectory() as folder:
            fit(shop).save(Path(folder) / "model")
            with zipfile.ZipFile(FOLDER / f"{shop.name}.zip", "w", zipfile.ZIP_LZMA) as archive:
                for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                    entry = zipfile.ZipInfo(str(file.relative_to(folder)))  # of no date: the same each time
                    archive.writestr(entry, file.read_bytes(), zipfile.ZIP_LZMA)


def read_model(name: str) -> Pipeline:
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(FOLDER / f"{name}.zip") as archive:
            archive.extractall(folder)
        pipeline = zy.load(Path(folder) / "model", mmap=False)
    assert isinstance(pipeline, Pipeline)
    return pipeline


@functools.cache
def fitted(name: str, choices: str = "") -> Pipeline:
    """The pipeline of a shop. choices: the method of all users; `MIXED`: one for each segment; "": as fitted."""
    if choices:
        pipeline = copy.copy(fitted(name))
        first = next(iter(pipeline.sources_))
        methods = (first, "weighted", "ranker" if pipeline.ranker_ is not None else "rrf")
        if choices != MIXED:
            methods = (choices,) * 3
        pipeline.choices_ = dict(zip(("strangers", "short", "long"), methods)) | {"all": methods[2]}  # type: ignore[misc]
        return pipeline
    pipeline = read_model(name)
    pipeline.prepare(zy.Run(threads=1))
    return pipeline


def methods(name: str) -> list[str]:
    """What may order the candidates of a shop."""
    pipeline = fitted(name)
    ranked = [RANKED, RANKED, RANKED, RANKED, MIXED] if pipeline.ranker_ is not None else []
    return [*ranked, MIXED, "rrf", "weighted", next(iter(pipeline.sources_))]


@functools.cache
def live_index(name: str, n_events: int) -> AsOf | None:
    """What the ranker of a shop knows of items after more events; None: there is no ranker, or no event."""
    shop, pipeline = SHOPS[name], fitted(name)
    if pipeline.builder_ is None or not n_events:
        return None
    draw = Draw(f"live events of {name} {n_events}")
    rows = [{
        "user": draw.integer(shop.n_users), "item": draw.integer(shop.n_items),
        "time": START + DAYS * DAY + int(draw.real() * DAY), "kind": draw.choice(("view", "cart", "purchase")),
        "value": draw.choice((1.0, 2.0)), "weight": draw.choice((1.0, 1.0, 0.0)),
    } for _ in range(n_events)]  # fmt: skip
    schema = {"user": pl.Int32, "item": pl.Int32, "time": pl.Int64, "kind": pl.String, "value": pl.Float64,
              "weight": pl.Float32}  # fmt: skip
    index = pipeline.builder_.index.branch()
    frame = pl.DataFrame(rows, schema=schema)
    for start in range(0, n_events, 37):  # in several parts, as a service hears of them
        index.append(frame[start : start + 37])
    return index


def codes(values: Sequence[Any] | pl.Series, ids: Any) -> np.ndarray:
    return np.asarray(ids.encode(list(values)), dtype=np.int32)
