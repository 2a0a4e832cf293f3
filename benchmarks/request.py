"""One request through the whole pipeline, in process, on one thread: sources, features, ranker, rules, variety.

    python benchmarks/request.py                       # 100,000 items, 4 sources, 300 candidates, trees, MMR, a filter
    python benchmarks/request.py --items 20000 --requests 300

The log is made: 2 M events of 100,000 users over items of Zipf popularity in 200 categories. The ranker is learned on a
window of it, and used whether or not it would be chosen: what is measured is time. Printed: milliseconds of a request,
of its stages, and of the stages' medians.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl

import zhiyin as zy
from zhiyin.pipeline import pipeline_fitting
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.pipeline import DEFAULT_RANKER
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.time_windows import plan_windows
from zhiyin.ranking import registry as rankers

SOURCES = "popular:half_life=7d; itemknn; transitions; als:epochs=4"
DAY = 86_400_000_000


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--explain", action="store_true", help="with reasons")
    parser.add_argument("--variety", default="mmr")
    given = parser.parse_args()
    run, one = zy.Run(), zy.Run(threads=1)
    data = shop(given.items, given.users, given.events)
    begun = time.perf_counter()
    pipeline = zy.Pipeline(sources=SOURCES, candidates=100, ranker="none", windows=1).fit(data, run)
    part, window = plan_windows(data, 1, 0.02, True, run).choose[0]
    window_candidates = pipeline_fitting.retrieve_window(pipeline.sources_, part, window, 100, run)
    pipeline.ranker_ = pipeline_fitting._train_ranker(
        rankers.parse(DEFAULT_RANKER), [window_candidates], run, window_candidates.builder(run)
    )
    pipeline.builder_ = pipeline_fitting.FeatureBuilder.learn(data, pipeline.sources_, run=run)
    pipeline.choices_ = dict.fromkeys(pipeline.choices_, "ranker")
    print(f"fitted in {time.perf_counter() - begun:.0f} s", flush=True)
    answers = Answers(pipeline, data.items, run=one)
    rng = np.random.default_rng(1)
    users = data.user_ids.values.gather(rng.integers(0, data.n_users, given.requests + 50)).to_list()
    total, stages, found = [], [], []
    for number, user in enumerate(users):
        request = Request(user=user, k=20, filter="price < 50 AND category <> 'c7'", diversity=given.variety,
                          explain=given.explain)  # fmt: skip
        begun = time.perf_counter()
        answer = answers.ask(request)
        if number >= 50:  # the first ones compile and warm caches
            total.append(1e3 * (time.perf_counter() - begun))
            stages.append(answer.seconds)
            found.append(len(answer))
    candidates = [len(pipeline.retrieve(pipeline.context_.histories.take(np.array([u])), 20, run=one).items)
                  for u in rng.integers(0, data.n_users, 50)]  # fmt: skip
    print(f"{given.items:,} items, {len(pipeline.sources_)} sources, {np.median(candidates):.0f} candidates, "
          f"{np.mean(found):.1f} items a list")  # fmt: skip
    for share in (50, 95, 99):
        print(f"  {share:2} %: {np.percentile(total, share):6.2f} ms")
    for stage in stages[0]:
        values = [1e3 * s[stage] for s in stages]
        print(f"  {stage:9} median {np.median(values):6.2f} ms  99 %: {np.percentile(values, 99):6.2f} ms")


if __name__ == "__main__":
    main()
