"""Policies: regret on problems whose curves are known, and decisions and updates a second.

    python benchmarks/policies.py regret --rounds 5000 --seeds 20
    python benchmarks/policies.py drift --seeds 10
    python benchmarks/policies.py speed
    python benchmarks/policies.py stage

`regret`: a linear problem; θ is a unit vector of 10 numbers, each round has 20 fresh unit vectors as actions, rewards
are xᵀθ + N(0, 0.5²). `drift`: another θ from half time on. `speed`: processor time of one thread. `stage`: what the
choosing stage adds to a list of 10 out of a shortlist of 50, processor time of the thread, features included.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import polars as pl

from zhiyin.data.dataset import Dataset
from zhiyin.models.als import ALS
from zhiyin.models.neighbors import ItemKNN
from zhiyin.models.popularity import Popular
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.list_features import ListFeatures
from zhiyin.pipeline.list_policy import ExplorationLimits, ListPolicy
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.rules import Rules
from zhiyin.policies.action_sets import ActionSets, Outcomes
from zhiyin.policies.registry import make, parse

N_FEATURES, N_ACTIONS, NOISE = 10, 20, 0.5
POLICIES = (
    "linucb:floor=1",  # uniformly at random
    "epsilongreedy",
    "epsilongreedy:floor=0.1",
    "linucb:alpha=0.25",
    "linucb:alpha=0.5",
    "linucb:alpha=1",
    "lints:scale=0.25",
    "lints:scale=0.5",
    "squarecb:scale=1",
    "squarecb:scale=4",
)
DISCOUNTS = (1.0, 0.9995, 0.999, 0.998, 0.995, 0.99)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def regret(text: str, rounds: int, seed: int, change_at: int | None = None) -> np.ndarray:
    """float64[rounds]: cumulative regret. change_at: round from which another θ holds."""
    rng = np.random.default_rng(seed)
    theta, policy, lost = unit(rng, N_FEATURES), parse(text), np.empty(rounds)
    contexts, noise = unit(rng, rounds, N_ACTIONS, N_FEATURES), NOISE * rng.normal(size=rounds)
    seeds = rng.integers(0, 2**63, rounds).astype(np.uint64)
    offsets, actions = np.array([0, N_ACTIONS]), np.arange(N_ACTIONS)
    for now in range(rounds):
        if now == change_at:
            theta = unit(rng, N_FEATURES)
        features = contexts[now]
        row = policy.choose(ActionSets(offsets, actions, features), seeds[now : now + 1]).rows[0]
        values = features @ theta
        lost[now] = values.max() - values[row]
        policy.update(Outcomes(actions[[row]], values[[row]] + noise[now], features[[row]]))
    return np.cumsum(lost)


def table(texts: tuple[str, ...], rounds: int, seeds: int, change_at: int | None, columns: list[int]) -> None:
    print(f"{'regret after':34s}" + "".join(f"{column:>20,}" for column in columns))
    for text in texts:
        curves = np.array([regret(text, rounds, seed, change_at) for seed in range(seeds)])
        cells = []
        for column in columns:
            values = curves[:, column - 1]
            cells.append(f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(seeds):.1f}")
        print(f"{text:34s}" + "".join(f"{cell:>20s}" for cell in cells), flush=True)


def speed(n_actions: int, n_features: int) -> None:
    rng = np.random.default_rng(0)
    n = 500
    m = n * n_actions
    features, keys = rng.normal(size=(m, n_features)) / 8, np.tile(np.arange(n_actions), n)
    offsets = np.arange(n + 1) * n_actions
    seeds = rng.integers(0, 2**63, n).astype(np.uint64)
    rows = 20_000
    outcomes = Outcomes(
        rng.integers(0, n_actions, rows), rng.integers(0, 2, rows), rng.normal(size=(rows, n_features)) / 8
    )
    print(f"{n_actions} actions, {n_features} features, one thread, a second of processor time, median of 5")
    print(f"{'policy':16s}{'decisions':>12s}{'slates of 10':>14s}{'outcomes':>12s}")
    for name in ("EpsilonGreedy", "Softmax", "SquareCB", "LinUCB", "LinTS", "BetaBernoulli"):
        policy = make(name)
        policy.update(outcomes)
        scored = name in ("EpsilonGreedy", "Softmax", "SquareCB")
        sets = ActionSets(offsets, keys, None if scored else features, rng.random(m) if scored else None)
        timed = (
            n / seconds(policy.choose, sets, seeds),
            n / seconds(policy.choose_slates, sets, 10, seeds),
            rows / seconds(policy.update, outcomes),
        )
        cells = [f"{rate:,.0f}" for rate in timed]
        print(f"{name:16s}{cells[0]:>12s}{cells[1]:>14s}{cells[2]:>12s}", flush=True)


def stage(rounds: int) -> None:
    """What a policy adds to a list: median processor time of `Answers.ask` with it less that without it."""
    data = shop_log()
    pipeline = Pipeline.wrapping(ALS(factors=64, epochs=3).fit(data))
    pipeline.sources_ = {"als": next(iter(pipeline.sources_.values())), "itemknn": ItemKNN().fit(data),
                         "popular": Popular().fit(data)}  # type: ignore[misc]  # fmt: skip
    pipeline.choices_ = dict.fromkeys(pipeline.choices_, "rrf")  # type: ignore[misc]
    caps, shares = [{"per": "seller", "at_most": 2}], [{"of": "is_new", "at_least": 0.2}]
    tables = {"no rules": {}, "caps, shares, variants": {"caps": caps, "shares": shares, "dedupe": "variant"}}
    print(f"{'policy':26s}{'rules':>26s}{'ms':>8s}")
    for title, rules in tables.items():
        answers = Answers(pipeline, data.items, rules=Rules.from_dict(rules))
        layout, rng = ListFeatures.of(answers), np.random.default_rng(0)
        n_features = len(layout.names)
        features = rng.normal(size=(5_000, n_features)) / 8
        outcomes = Outcomes(rng.integers(0, 500, 5_000), rng.integers(0, 2, 5_000), features)
        for name in ("LinTS", "SquareCB", "Softmax", "LinUCB", "EpsilonGreedy", "BetaBernoulli", "explore"):
            policy = None if name == "explore" else make(name)
            if policy is not None:
                policy.update(outcomes)
            limits = ExplorationLimits(0.2)
            whole = ListPolicy(policy, "home", layout, limits=limits)
            added = difference(answers, rounds, whole, None)
            print(f"{name + f', d = {n_features}':26s}{title:>26s}{1e3 * added:8.3f}", flush=True)


def difference(answers: Answers, rounds: int, policy: ListPolicy | None, other: ListPolicy | None) -> float:
    """Median seconds of the thread that a list takes longer with one policy than with another."""
    taken = []
    for number in range(rounds + 20):
        request = Request(user=f"u{number % 500}", k=10, now=1_800_000_000_000_000, seed=number, skip=("reasons",))
        begun = time.thread_time()
        answers.ask(dataclasses.replace(request, policy=other))
        middle = time.thread_time()
        answers.ask(dataclasses.replace(request, policy=policy))
        taken.append(time.thread_time() - middle - (middle - begun))
    return float(np.median(taken[20:]))


def shop_log() -> Dataset:
    """5,000 items, 2,000 users, 60,000 events."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 2_000, 60_000), rng.zipf(1.2, 60_000) % 5_000
    events = pl.DataFrame({"user": [f"u{u}" for u in users], "item": [f"i{i}" for i in items],
                           "time": 1_700_000_000_000_000 + np.sort(rng.integers(0, 10**12, 60_000))})  # fmt: skip
    numbers = np.arange(5_000)
    catalogue = pl.DataFrame({"id": [f"i{i}" for i in numbers], "price": rng.gamma(2, 10, 5_000),
                              "seller": [f"s{i % 50}" for i in numbers], "is_new": numbers % 4 == 0,
                              "variant": [f"v{i // 2}" for i in numbers]})  # fmt: skip
    return Dataset.build(events, items=catalogue)


def seconds(call: Callable[..., object], *arguments: object) -> float:
    """Median processor seconds of a call; the first one, which may compile, does not count."""
    call(*arguments)
    taken = []
    for _ in range(5):
        begun = time.process_time()
        call(*arguments)
        taken.append(time.process_time() - begun)
    return max(float(np.median(taken)), 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("regret", "drift", "speed", "stage"))
    parser.add_argument("--rounds", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--actions", type=int, default=200)
    parser.add_argument("--features", type=int, default=64)
    given = parser.parse_args()
    if given.what == "regret":
        columns = [column for column in (500, 1000, 2000, 5000) if column <= given.rounds]
        table(POLICIES, given.rounds, given.seeds, None, columns)
    elif given.what == "drift":
        texts = tuple(f"linucb:alpha=0.5,discount={discount}" for discount in DISCOUNTS)
        table(texts, 10_000, given.seeds, 5_000, [5_000, 10_000])
    elif given.what == "stage":
        stage(min(given.rounds, 1000))
    else:
        speed(given.actions, given.features)


if __name__ == "__main__":
    main()
