"""One request through the whole pipeline, in process, on one thread: sources, features, ranker, rules, variety.

    python benchmarks/request.py                       # 100,000 items, 4 sources, 300 candidates, trees, MMR, a filter
    python benchmarks/request.py --items 20000 --requests 300
    python benchmarks/request.py --folder /tmp/shop    # fitted at the first run, read at the next ones
    python benchmarks/request.py --folder /tmp/shop --against glue
    python benchmarks/request.py --service /tmp/shop   # the shop of `service.py prepare`, its list without the service

The log is made: 2 M events of 100,000 users over items of Zipf popularity in 200 categories. The ranker is learned on a
window of it, and used whether or not it would be chosen: what is measured is time. Printed: CPU time of the thread and
wall time of a list, wall time of its stages, and the Python functions that are called for a list.

`--against glue` makes the same list by `implicit`, LightGBM and NumPy too (`glue.py`), on one thread, in turns with
ours, for the same users.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import zhiyin as zy
from zhiyin.data.catalogue import Catalogue
from zhiyin.pipeline import ranker_training, window_candidates
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import DEFAULT_RANKER, Pipeline
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.time_windows import plan_windows
from zhiyin.ranking import registry as rankers
from zhiyin.ranking.feature_builder import FeatureBuilder

SOURCES = "popular:half_life=7d; itemknn; transitions; als:epochs=4"
DAY = 86_400_000_000
FILTER = "price < 50 AND category <> 'c7'"
# Lists before those that are measured: they compile and warm caches.
WARM_UP = 50


def tables(n_items: int, n_users: int, n_events: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A log of clicks, each within the user's few favourite categories four times of five; and the items."""
    rng = np.random.default_rng(0)
    category = rng.integers(0, 200, n_items)
    weight = 1 / np.arange(1, n_items + 1) ** 0.8
    order = rng.permutation(n_items)
    user = np.sort(rng.integers(0, n_users, n_events))
    liked = rng.integers(0, 200, (n_users, 3))[user, rng.integers(0, 3, n_events)]
    by = np.argsort(category, kind="stable")
    first = np.searchsorted(category[by], np.arange(201))
    within = first[liked] + (rng.random(n_events) ** 2 * (first[liked + 1] - first[liked])).astype(int)
    popular = order[rng.choice(n_items, n_events, p=weight / weight.sum())]
    item = np.where(rng.random(n_events) < 0.8, by[within], popular)
    events = pl.DataFrame({"user": user, "item": item, "time": rng.integers(0, 60 * DAY, n_events) + 19_000 * DAY})
    items = pl.DataFrame({
        "id": np.arange(n_items), "category": [f"c{c}" for c in category], "price": rng.gamma(2, 20, n_items).round(2),
    })  # fmt: skip
    return events, items


def shop(n_items: int, n_users: int, n_events: int) -> zy.Dataset:
    events, items = tables(n_items, n_users, n_events)
    return zy.Dataset.build(events, items=items)


def fit(data: zy.Dataset, run: zy.Run) -> Pipeline:
    """A pipeline whose ranker orders the candidates of all users."""
    pipeline = Pipeline(sources=SOURCES, candidates=100, ranker="none", windows=1).fit(data, run)
    part, window = plan_windows(data, 1, 0.02, True, run).choose[0]
    past = window_candidates.retrieve_window(pipeline.sources_, part, window, 100, run)
    pipeline.ranker_ = ranker_training.train_ranker(rankers.parse(DEFAULT_RANKER), [past], run, past.builder(run))
    pipeline.builder_ = FeatureBuilder.learn(data, pipeline.sources_, run=run)
    pipeline.choices_ = dict.fromkeys(pipeline.choices_, "ranker")
    return pipeline


def fitted_shop(n_items: int, n_users: int, n_events: int, folder: Path | None) -> tuple[Pipeline, pl.DataFrame]:
    """The pipeline and the items of a shop. folder: where it is read from, or written to where it is not there yet."""
    size = [n_items, n_users, n_events]
    if folder is not None and (folder / "size.json").exists():
        if json.loads((folder / "size.json").read_text()) != size:
            sys.exit(f"{folder} is a shop of another size: remove it, or name another folder")
        pipeline = zy.load(folder / "model")
        assert isinstance(pipeline, Pipeline)
        return pipeline, pl.read_parquet(folder / "items.parquet")
    begun = time.perf_counter()
    data = shop(*size)
    pipeline = fit(data, zy.Run())
    print(f"fitted in {time.perf_counter() - begun:.0f} s", flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        pipeline.save(folder / "model")
        data.items.write_parquet(folder / "items.parquet")
        (folder / "size.json").write_text(json.dumps(size))
    return pipeline, data.items


def served_shop(folder: Path) -> tuple[Pipeline, pl.DataFrame]:
    """The newest version of a folder of `service.py prepare`, and its items."""
    bundles = Bundles(folder / "models" / "bundles")
    version = bundles.get(bundles.versions()[-1])
    pipeline = version.load()
    assert isinstance(pipeline, Pipeline)
    return pipeline, Catalogue.load(version.folder).items


def count_calls(work: Callable[[], Any]) -> int:
    """Python functions that are called."""
    n = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal n
        n += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return n


class Clock:
    """Times of calls in milliseconds: CPU of the thread, and wall."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def __call__(self, work: Callable[[], Any]) -> Any:
        cpu, wall = time.thread_time(), time.perf_counter()
        result = work()
        self.cpu.append(1e3 * (time.thread_time() - cpu))
        self.wall.append(1e3 * (time.perf_counter() - wall))
        return result

    def report(self, title: str) -> None:
        for name, values in (("CPU of the thread", self.cpu), ("wall", self.wall)):
            cuts = "  ".join(f"{share} %: {np.percentile(values, share):6.2f}" for share in (50, 95, 99))
            print(f"  {title:14} {name:17} ms  {cuts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--explain", action="store_true", help="with reasons")
    parser.add_argument("--variety", default="mmr")
    parser.add_argument("--by", default="", help="column of categories for variety; empty: the vectors of ALS")
    parser.add_argument("--folder", type=Path, help="of the fitted shop")
    parser.add_argument("--service", type=Path, help="folder of `service.py prepare`, whose newest version is used")
    parser.add_argument("--against", choices=["glue"], help="make the same lists by implicit, LightGBM and NumPy, too")
    given = parser.parse_args()
    if given.service is not None:
        pipeline, items = served_shop(given.service)
    else:
        pipeline, items = fitted_shop(given.items, given.users, given.events, given.folder)
    one = zy.Run(threads=1)
    answers = Answers(pipeline, items, by=given.by, run=one)
    known = pipeline.context_.user_ids
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, len(known), given.requests + WARM_UP)
    users = known.values.gather(numbers).to_list()

    def ask(user: Any) -> Any:
        return answers.ask(Request(user=user, k=20, filter=FILTER, diversity=given.variety, explain=given.explain))

    glue = None
    if given.against:
        from glue import Glue

        assert pipeline.ranker_ is not None
        glue = Glue.made(pipeline.context_.histories, items, len(pipeline.ranker_.forest_.roots), given.folder)  # type: ignore[attr-defined]
    clock, glue_clock, stored_clock = Clock(), Clock(), Clock()
    stages, listed, glue_listed = [], [], []
    for at, (number, user) in enumerate(zip(numbers.tolist(), users)):
        if at == WARM_UP:
            clock, glue_clock, stored_clock = Clock(), Clock(), Clock()
            stages, listed, glue_listed = [], [], []
        answer = clock(lambda user=user: ask(user))  # type: ignore[misc]
        stages.append(answer.seconds)
        listed.append(len(answer))
        if glue is not None:
            glue_listed.append(len(glue_clock(lambda number=number: glue.list_for(number, 20))))  # type: ignore[misc]
            stored_clock(lambda number=number: glue.list_for(number, 20, fold_in=False))  # type: ignore[misc]
    candidates = [len(pipeline.retrieve(pipeline.context_.histories.take(np.array([u])), 20, run=one).items)
                  for u in rng.integers(0, len(known), 50)]  # fmt: skip
    builder, trees = pipeline.builder_, len(pipeline.ranker_.forest_.roots)  # type: ignore[union-attr]
    print(f"{len(items):,} items, {len(pipeline.sources_)} sources, {np.median(candidates):.0f} candidates, "
          f"{len(builder.number_names) + len(builder.code_names)} features, {trees} trees, "
          f"{np.mean(listed):.1f} items a list, {len(listed):,} lists")  # fmt: skip
    clock.report("zhiyin")
    calls = [count_calls(lambda user=user: ask(user)) for user in users[-50:]]  # type: ignore[misc]
    print(f"  {statistics.median(calls):.0f} calls of Python functions a list")
    for stage in stages[0]:
        values = [1e3 * s[stage] for s in stages]
        print(f"  {stage:9} median {np.median(values):6.2f} ms  99 %: {np.percentile(values, 99):6.2f} ms")
    if glue is not None:
        print(f"by implicit, LightGBM ({glue.booster.num_trees()} trees) and NumPy: "
              f"{np.median(glue.sizes):.0f} candidates, {glue.n_features} features, "
              f"{np.mean(glue_listed):.1f} items a list")  # fmt: skip
        glue_clock.report("glue")
        stored_clock.report("  stored users")
        glue_calls = [count_calls(lambda n=n: glue.list_for(n, 20)) for n in numbers[-50:].tolist()]  # type: ignore[misc]
        print(f"  {statistics.median(glue_calls):.0f} calls of Python functions a list")
        for name, other in (("glue", glue_clock), ("glue with stored vectors of users", stored_clock)):
            print(f"  {name} / zhiyin: {np.median(other.cpu) / np.median(clock.cpu):.2f} of CPU, median; "
                  f"{np.percentile(other.cpu, 99) / np.percentile(clock.cpu, 99):.2f}, 99 %")  # fmt: skip


if __name__ == "__main__":
    main()
