"""Simulated users: returns of fixed policies beside RecSim's, and what SlateQ earns.

    python benchmarks/simulators.py recsim --users 10000
    python benchmarks/simulators.py satisfaction --users 2000
    python benchmarks/simulators.py slateq --seeds 5 --choice proportional
    python benchmarks/simulators.py conflict --seeds 5
    python benchmarks/simulators.py optimizer
    python benchmarks/simulators.py speed

`slateq`: interest evolution, 10 candidates, slates of 3. Each seed trains on 1,000 users for 6 sessions (the first at
random, then 10 % random slates) and is judged on 2,000 others, without exploration; intervals are over the seeds.
`conflict`: the same on long-term satisfaction. `optimizer`: greedy slates against all slates of 3 of 8.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
from scipy import stats

from zhiyin.policies.simulators.interest_evolution import TOPIC_QUALITY, InterestEvolution
from zhiyin.policies.simulators.long_term_satisfaction import LongTermSatisfaction
from zhiyin.policies.simulators.slate_environment import SlateEnvironment, session_returns, top_slates
from zhiyin.policies.simulators.slate_sessions import (
    InterestEvolutionStates,
    LongTermSatisfactionStates,
    StatesOf,
    run_sessions,
)
from zhiyin.policies.slate_optimizer import greedy_slates
from zhiyin.policies.slate_q import SlateQ


def fixed_policy(name: str, environment: InterestEvolution, seed: int = 0):
    """A policy that does not learn: at random, the oracle of affinity, the true quality of topics."""
    rng, shape = np.random.default_rng(seed), (environment.n_users, environment.n_candidates)
    scores = {
        "random": lambda: rng.random(shape),
        "affinity": environment.affinities,
        "topic quality": lambda: TOPIC_QUALITY[environment.topics],
    }[name]
    return lambda observation: top_slates(scores(), environment.slate_size)


def fixed_satisfaction(name: str, environment: LongTermSatisfaction, seed: int = 0):
    """A policy that does not learn: at random, always the most clickbait, always the least."""
    rng, shape = np.random.default_rng(seed), (environment.n_users, environment.n_candidates)
    sign = {"random": 0.0, "choc": 1.0, "kale": -1.0}[name]
    return lambda observation: top_slates(sign * observation.items[:, :, 0] if sign else rng.random(shape), 1)


def interval(values: np.ndarray) -> str:
    """Mean and half width of the 95 % interval of independent values."""
    values = np.asarray(values)
    width = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():8.2f} ± {width:.2f}"


def train(environment: SlateEnvironment, states_of: StatesOf, rounds: int, **settings) -> SlateQ:
    slate_q = SlateQ(**settings)
    for number in range(rounds):
        slate_q.explore = 1.0 if number == 0 else 0.1
        run_sessions(environment, slate_q, states_of, seed=number)
    slate_q.explore = 0.0
    return slate_q


def compare_recsim(arguments: argparse.Namespace) -> None:
    for choice in ("proportional", "logit"):
        for name in ("random", "affinity", "topic quality"):
            environment = InterestEvolution(n_users=arguments.users, choice=choice)
            returns = session_returns(environment, fixed_policy(name, environment))
            print(f"{choice:13} {name:14} {interval(returns)}", flush=True)


def compare_satisfaction(arguments: argparse.Namespace) -> None:
    for sensitivity in (0.01, 0.0669, 0.1, 0.3):
        for name in ("random", "choc", "kale"):
            environment = LongTermSatisfaction(n_users=arguments.users, sensitivity=sensitivity)
            returns = session_returns(environment, fixed_satisfaction(name, environment))
            print(f"s = {sensitivity:<7} {name:8} {interval(returns)}", flush=True)


def compare_slate_q(arguments: argparse.Namespace) -> None:
    learners = {
        "SlateQ, SARSA": {"target": "sarsa"},
        "SlateQ, Q": {"target": "q"},
        "SlateQ, Q, γ = .99": {"target": "q", "gamma": 0.99},
        "SlateQ, Q, no choice worth 0": {"target": "q", "null_value": False},
    }
    fixed = ("random", "affinity", "topic quality")
    means: dict[str, list[float]] = {name: [] for name in (*fixed, *learners)}
    begin = time.process_time()
    for seed in range(arguments.seeds):
        fresh = InterestEvolution(n_users=2000, choice=arguments.choice, seed=1000 + seed)
        for name in fixed:
            means[name].append(session_returns(fresh, fixed_policy(name, fresh, seed)).mean())
        for name, settings in learners.items():
            environment = InterestEvolution(n_users=1000, choice=arguments.choice, seed=seed)
            states_of = InterestEvolutionStates(environment)
            slate_q = train(environment, states_of, 6, memory=300_000, reg=10.0, **settings)
            means[name].append(run_sessions(fresh, slate_q, states_of, learn=False).mean())
    for name, values in means.items():
        difference = np.array(values) - means["topic quality"]
        print(f"{name:30} {interval(values)}   less topic quality {interval(difference)}")
    print(f"{time.process_time() - begin:.0f} s of processor time")


def compare_conflict(arguments: argparse.Namespace) -> None:
    for sensitivity in (0.01, 0.0669, 0.1, 0.3):
        means: dict[str, list[float]] = {}
        for seed in range(arguments.seeds):
            fresh = LongTermSatisfaction(n_users=1000, sensitivity=sensitivity, seed=1000 + seed)
            for name in ("choc", "kale"):
                means.setdefault(name, []).append(session_returns(fresh, fixed_satisfaction(name, fresh)).mean())
            for name, gamma in (("SlateQ, γ = 0", 0.0), ("SlateQ, γ = .9", 0.9), ("SlateQ, γ = .95", 0.95)):
                environment = LongTermSatisfaction(n_users=1000, sensitivity=sensitivity, seed=seed)
                slate_q = train(environment, LongTermSatisfactionStates(), 6, gamma=gamma, memory=200_000)
                returns = run_sessions(fresh, slate_q, LongTermSatisfactionStates(), learn=False)
                means.setdefault(name, []).append(returns.mean())
        for name, values in means.items():
            print(f"s = {sensitivity:<7} {name:16} {interval(values)}", flush=True)


def compare_optimizer(arguments: argparse.Namespace) -> None:
    """Values of slates as shares of the best of all, for weights of no choice that are random or 1."""
    rng, n, m, k = np.random.default_rng(0), 1000, 8, 3
    every = np.array(list(itertools.combinations(range(m), k)))
    for label, null_weights in (("s₀ uniform", rng.random(n)), ("s₀ = 1", np.ones(n))):
        weights, values = rng.random((n, m)), rng.random((n, m))

        def value(slates, weights=weights, values=values, null_weights=null_weights):
            rows = np.arange(n)[:, None, None]
            shown = weights[rows, slates]
            return (shown * values[rows, slates]).sum(axis=2) / (shown.sum(axis=2) + null_weights[:, None])

        best = value(np.broadcast_to(every, (n, *every.shape))).max(axis=1)
        greedy = greedy_slates(weights, null_weights, values, np.zeros(n), k)
        for name, slates in (("greedy", greedy), ("k best by s · q", top_slates(weights * values, k))):
            share = value(slates[:, None, :])[:, 0] / best
            exact = (share > 1 - 1e-12).mean()
            print(f"{label:12} {name:16} mean {share.mean():.5f}  worst {share.min():.3f}  the best {exact:.3f}")


def measure_speed(arguments: argparse.Namespace) -> None:
    environment = InterestEvolution(n_users=10_000)
    slate_q, states_of = SlateQ(), InterestEvolutionStates(environment)
    slates, began = np.tile([0, 1, 2], (10_000, 1)), np.zeros(10_000, dtype=bool)
    states = states_of(environment.observe(), began)
    environment.step(slates)
    slate_q.best_slates(states, 3)
    for name, work in (
        ("interest evolution, steps", lambda: environment.step(slates)),
        ("greedy slates of 3 of 10", lambda: slate_q.best_slates(states, 3)),
    ):
        begin = time.process_time()
        for _ in range(20):
            work()
        print(f"{name:28} {200_000 / (time.process_time() - begin):12,.0f} a second of processor time")


COMMANDS = {
    "recsim": compare_recsim,
    "satisfaction": compare_satisfaction,
    "slateq": compare_slate_q,
    "conflict": compare_conflict,
    "optimizer": compare_optimizer,
    "speed": measure_speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--choice", choices=("proportional", "logit"), default="proportional")
    arguments = parser.parse_args()
    COMMANDS[arguments.what](arguments)


if __name__ == "__main__":
    main()
