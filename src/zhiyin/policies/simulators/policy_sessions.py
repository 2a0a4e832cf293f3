"""Policies in simulated environments: features of candidates, rewards by step, learning after each step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.policies.action_sets import ActionSets, Outcomes
from zhiyin.policies.policy import Policy
from zhiyin.policies.registry import parse
from zhiyin.policies.simulators.counter_random import session_seeds
from zhiyin.policies.simulators.film_shop_slates import FilmShopSlates
from zhiyin.policies.simulators.film_texts import GENRES
from zhiyin.policies.simulators.interest_evolution import TOPIC_QUALITY, InterestEvolution
from zhiyin.policies.simulators.long_term_satisfaction import LongTermSatisfaction
from zhiyin.policies.simulators.slate_environment import Observation, SlateEnvironment, top_slates

ENVIRONMENTS: dict[str, type[SlateEnvironment]] = {
    "film-shop": FilmShopSlates,
    "interest-evolution": InterestEvolution,
    "long-term-satisfaction": LongTermSatisfaction,
}
# Policies that are not of the registry: uniformly random slates, and those of who knows the truth of one step.
RANDOM, MYOPIC = "random", "myopic"


def candidate_features(environment: SlateEnvironment, observation: Observation) -> np.ndarray:
    """float64[n, m, d]: features of every candidate, for policies that are linear in them; the first is 1.

    Film shop: the film, the shares of its genres times those of what the user has clicked, and their sum. Interest
    evolution: the topic, the interest in it, both multiplied. Long-term satisfaction: the clickbait score of the item
    and of the last one, their squares and product.
    """
    users, items = observation.users, observation.items
    ones = np.ones((*items.shape[:2], 1))
    if isinstance(environment, FilmShopSlates):
        shared = users[:, None, -len(GENRES) :] * items[:, :, : len(GENRES)]
        return np.concatenate([ones, items, shared, shared.sum(axis=2, keepdims=True)], axis=2)
    if isinstance(environment, InterestEvolution):
        interest = np.einsum("nd,nmd->nm", users, items)[:, :, None]
        return np.concatenate([ones, items, interest, interest * items], axis=2)
    now = items[:, :, :1]
    last = np.broadcast_to(users[:, None, :1], now.shape)
    return np.concatenate([ones, now, now**2, last, last**2, now * last], axis=2)


def true_values(environment: SlateEnvironment) -> np.ndarray:
    """float64[n, m]: what each candidate brings in this step, as far as an order of them: what `myopic` shows."""
    if isinstance(environment, FilmShopSlates):
        return environment.values()
    if isinstance(environment, InterestEvolution):
        return TOPIC_QUALITY[environment.topics]
    if isinstance(environment, LongTermSatisfaction):
        return environment.clickbait
    raise ConfigError("the truth of this environment is not known", remedy=f"one of {', '.join(ENVIRONMENTS)}")


@dataclasses.dataclass(frozen=True, eq=False)
class StepRewards:
    """Rewards of one policy with one seed. rewards: float64[steps], means over the users; a session that has ended
    begins anew. returns: float64, total rewards of the sessions that ended; none where the steps were too few."""

    rewards: np.ndarray
    returns: np.ndarray


def run_policy(
    environment: SlateEnvironment,
    text: str,
    steps: int,
    seed: int = 0,
    run: Run | None = None,
    on_step: Callable[[], None] | None = None,
) -> StepRewards:
    """Have a policy choose slates for `steps` steps, and learn after each of them.

    Parameters
    ----------
    text: as the registry takes it, such as "lints:scale=0.5"; or "random", or "myopic", which knows the truth of a
        step and nothing of what follows.
    seed: of the policy's draws.
    on_step: called after each step.
    """
    choose = _chooser(environment, text, seed, run or Run(threads=1))
    rewards, returns = np.zeros(steps), []
    total = np.zeros(environment.n_users)
    environment.reset()
    for step in range(steps):
        response = choose(step)
        rewards[step] = response.mean()
        total += response
        ended = ~environment.active
        if ended.any():
            returns.append(total[ended])
            total[ended] = 0.0
            environment.reset(ended)
        if on_step is not None:
            on_step()
    return StepRewards(rewards, np.concatenate(returns) if returns else np.zeros(0))


def _chooser(environment: SlateEnvironment, text: str, seed: int, run: Run) -> Callable[[int], np.ndarray]:
    """A function of the step that shows slates and returns the rewards of the users, float64[n]."""
    k = environment.slate_size
    if text == RANDOM:
        rng, shape = run.rng(31, seed), (environment.n_users, environment.n_candidates)
        return lambda step: environment.step(top_slates(rng.random(shape), k)).rewards
    if text == MYOPIC:
        return lambda step: environment.step(top_slates(true_values(environment), k)).rewards
    policy = parse(text)
    return lambda step: _learning_step(environment, policy, seed, step, run)


def _learning_step(environment: SlateEnvironment, policy: Policy, seed: int, step: int, run: Run) -> np.ndarray:
    n, m, k = environment.n_users, environment.n_candidates, environment.slate_size
    features = candidate_features(environment, environment.observe())
    keys = environment.candidates if isinstance(environment, FilmShopSlates) else np.tile(np.arange(m), (n, 1))
    flat = features.reshape(n * m, -1)
    sets = ActionSets(np.arange(n + 1) * m, keys.ravel(), flat)
    seeds = session_seeds(seed, np.arange(n), np.full(n, step))
    chosen = policy.choose_slates(sets, k, seeds, run).rows
    slates = chosen - (np.arange(n) * m)[:, None]
    response = environment.step(slates)
    # A linear reward of an item that is looked at with a known probability is linear in that probability · features.
    looked_at = environment.examination if isinstance(environment, FilmShopSlates) else np.ones(k)
    seen = flat[chosen.ravel()] * np.tile(looked_at, n)[:, None]
    policy.update(Outcomes(keys.ravel()[chosen.ravel()], response.slot_rewards.ravel(), seen))
    return response.rewards
