"""Policies: regret on problems whose curves are known, and decisions and updates a second.

    python benchmarks/policies.py regret --rounds 5000 --seeds 20
    python benchmarks/policies.py drift --seeds 10
    python benchmarks/policies.py speed

`regret`: a linear problem; θ is a unit vector of 10 numbers, each round has 20 fresh unit vectors as actions, rewards
are xᵀθ + N(0, 0.5²). `drift`: another θ from half time on. `speed`: processor time of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

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
    parser.add_argument("what", choices=("regret", "drift", "speed"))
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
    else:
        speed(given.actions, given.features)


if __name__ == "__main__":
    main()
