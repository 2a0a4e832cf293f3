"""Estimators of lists: unbiasedness by enumeration of every list, under each one's assumption."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.policies.off_policy.logged_slates import LoggedSlates
from zhiyin.policies.off_policy.slate_estimators import (
    SLATE_ESTIMATORS,
    enumerated_pseudo_inverse_weights,
    evaluate_slates,
)

N_CONTEXTS, N_ITEMS, N_SLOTS = 2, 4, 3
LISTS = np.array(list(itertools.permutations(range(N_ITEMS), N_SLOTS)))


@dataclass(frozen=True)
class Problem:
    """Every list of every context, with the policies' probabilities; rewards are expected ones."""

    log: LoggedSlates
    chances: np.ndarray  # of each row when the logging policy decides
    target_chances: np.ndarray

    def value(self) -> float:
        return float(self.target_chances @ self.log.rewards.sum(axis=1))

    def expectation(self, name: str, log: LoggedSlates | None = None) -> float:
        return float(self.chances @ SLATE_ESTIMATORS[name].contributions(log or self.log))


def plackett_luce(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conditional probabilities [n_lists, n_slots], of whole lists [n_lists], of items at slots."""
    conditional = np.empty(LISTS.shape)
    for row, items in enumerate(LISTS):
        for slot, item in enumerate(items):
            rest = np.delete(np.arange(N_ITEMS), items[:slot])
            conditional[row, slot] = np.exp(scores[item]) / np.exp(scores[rest]).sum()
    whole = conditional.prod(axis=1)
    at_slot = np.array([[whole[LISTS[:, k] == row[k]].sum() for k in range(N_SLOTS)] for row in LISTS])
    return conditional, whole, at_slot


def make(kind: str, seed: int = 0) -> Problem:
    """kind of the reward of a slot: of its item alone ("independent"), of the items up to it, or of the whole list."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[np.ndarray]] = {
        name: [] for name in ("r", "p", "t", "pp", "pt", "chance", "target", "q", "qt")
    }
    for share in (0.3, 0.7):
        behaviour, target = plackett_luce(rng.normal(0, 1, N_ITEMS)), plackett_luce(rng.normal(0, 1, N_ITEMS))
        table = rng.uniform(0, 1, (N_SLOTS, N_ITEMS, N_ITEMS + 1, N_ITEMS))
        rewards = np.empty(LISTS.shape)
        for row, items in enumerate(LISTS):
            for k, item in enumerate(items):
                before = items[k - 1] if k and kind != "independent" else N_ITEMS
                after = items[(k + 1) % N_SLOTS] if kind == "whole" else 0
                rewards[row, k] = table[k, item, before, after]
        predicted = np.clip(rewards + rng.normal(0, 0.2, rewards.shape), 0, 1)
        expected = np.empty(LISTS.shape)
        for row, items in enumerate(LISTS):
            for k in range(N_SLOTS):  # what is predicted for slot k may look at the items up to it only
                same = (LISTS[:, : k + 1] == items[: k + 1]).all(axis=1)
                predicted[row, k] = predicted[np.flatnonzero(same)[0], k]
        for row, items in enumerate(LISTS):
            for k in range(N_SLOTS):
                alike = (LISTS[:, :k] == items[:k]).all(axis=1)
                expected[row, k] = (target[1] * alike) @ predicted[:, k] / (target[1] * alike).sum()
        for name, values in zip(rows, (rewards, behaviour[0], target[0], behaviour[2], target[2], share * behaviour[1],
                                       share * target[1], predicted, expected), strict=True):  # fmt: skip
            rows[name].append(values)
    joined = {name: np.concatenate(values) for name, values in rows.items()}
    log = LoggedSlates(joined["r"], joined["p"], joined["t"], joined["pp"], joined["pt"], joined["q"], joined["qt"])
    return Problem(log, joined["chance"], joined["target"])


@pytest.mark.parametrize(
    ("kind", "unbiased"),
    [
        ("independent", {"sips", "iips", "rips", "cascade_dr"}),
        ("cascade", {"sips", "rips", "cascade_dr"}),
        ("whole", {"sips"}),
    ],
)
def test_unbiased_under_the_stated_assumption_and_no_other(kind: str, unbiased: set[str]) -> None:
    problem = make(kind)
    for name in ("sips", "iips", "rips", "cascade_dr"):
        difference = problem.expectation(name) - problem.value()
        assert (abs(difference) < 1e-12) == (name in unbiased), (name, difference)


def test_conditional_probabilities_alone_are_biased() -> None:
    """What each slot's own weight gives, without the product over the slots before it."""
    problem = make("cascade", seed=3)
    log = problem.log
    conditional = (log.target_probabilities / log.propensities * log.rewards).sum(axis=1)
    assert abs(problem.chances @ conditional - problem.value()) > 0.03
    assert problem.expectation("rips") == pytest.approx(problem.value(), rel=1e-12)


def test_variance_falls_with_the_assumption() -> None:
    problem = make("independent")
    variance = {
        name: float(problem.chances @ (SLATE_ESTIMATORS[name].contributions(problem.log) - problem.value()) ** 2)
        for name in ("sips", "iips", "rips", "cascade_dr")
    }
    assert variance["iips"] < variance["rips"] < variance["sips"]
    assert variance["cascade_dr"] < variance["rips"]


def test_the_logging_policy_itself_is_worth_its_mean_reward() -> None:
    log = make("whole").log
    same = replace(log, target_probabilities=log.propensities, position_target_probabilities=log.position_propensities)
    for name in ("sips", "iips", "rips", "pi"):
        assert SLATE_ESTIMATORS[name].estimate(same) == pytest.approx(log.rewards.sum(axis=1).mean(), rel=1e-12)
    no_model = replace(same, predicted_chosen=np.zeros(log.rewards.shape), predicted_target=np.zeros(log.rewards.shape))
    assert SLATE_ESTIMATORS["cascade_dr"].estimate(no_model) == SLATE_ESTIMATORS["rips"].estimate(same)


def test_pseudo_inverse_of_independent_slots() -> None:
    """Slots chosen independently, with repeats: the closed form is what inverting the second moments gives."""
    rng = np.random.default_rng(5)
    lists = np.array(list(itertools.product(range(3), repeat=2)))
    behaviour, target = rng.dirichlet(np.full(3, 2.0), 2), rng.dirichlet(np.ones(3), 2)
    at = (np.arange(2), lists)
    propensities, probabilities = behaviour[at], target[at]
    additive = rng.uniform(0, 1, (2, 3))[at].sum(axis=1)
    log = LoggedSlates(
        np.column_stack([np.zeros(9), additive]), propensities, probabilities, propensities, probabilities
    )
    chances = propensities.prod(axis=1)
    assert chances @ SLATE_ESTIMATORS["pi"].contributions(log) == pytest.approx(probabilities.prod(axis=1) @ additive)
    weights = enumerated_pseudo_inverse_weights(lists, chances, probabilities.prod(axis=1))
    assert SLATE_ESTIMATORS["pi"].weights(log)[:, 0] == pytest.approx(weights, rel=1e-9)


def test_pseudo_inverse_of_lists_without_repeats() -> None:
    """Uniform over all lists: unbiased for additive rewards, with less variance than whole-list weights."""
    rng = np.random.default_rng(6)
    uniform, target = np.full(len(LISTS), 1 / len(LISTS)), plackett_luce(rng.normal(0, 2, N_ITEMS))[1]
    additive = rng.uniform(0, 1, (N_SLOTS, N_ITEMS))[np.arange(N_SLOTS), LISTS].sum(axis=1)
    weights = enumerated_pseudo_inverse_weights(LISTS, uniform, target)
    value = float(target @ additive)
    assert uniform @ (weights * additive) == pytest.approx(value, rel=1e-9)
    one_list = np.eye(len(LISTS))[7]
    by_slots = enumerated_pseudo_inverse_weights(LISTS, uniform, one_list)
    assert uniform @ (by_slots * additive) == pytest.approx(additive[7], rel=1e-9)
    assert uniform @ by_slots**2 < 0.5 * (uniform @ (one_list / uniform) ** 2)
    interacting = rng.uniform(0, 1, len(LISTS))
    assert abs(uniform @ (weights * interacting) - target @ interacting) > 1e-3


def drawn(n: int, seed: int = 0) -> tuple[LoggedSlates, float]:
    problem = make("cascade", seed=1)
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(problem.log), n, p=problem.chances)
    values = {name: getattr(problem.log, name) for name in LoggedSlates.__dataclass_fields__}
    columns = {name: column[rows] for name, column in values.items() if column is not None}
    columns["rewards"] = (rng.random(columns["rewards"].shape) < columns["rewards"]).astype(float)
    return LoggedSlates(**columns), problem.value()


def test_evaluation_of_lists() -> None:
    log, value = drawn(20_000)
    for method in ("clopper_pearson", "gamma", "empirical_bernstein", "normal", "anytime"):
        result = evaluate_slates(log, interval=method)
        assert result.refusal is None
        assert [entry.estimator for entry in result.estimates] == list(SLATE_ESTIMATORS)
        for name in ("sips", "rips", "cascade_dr"):
            estimate = result[name]
            assert estimate.value == pytest.approx(SLATE_ESTIMATORS[name].estimate(log), rel=1e-9)
            assert estimate.low < value < estimate.high
            assert abs(estimate.value - value) < 4 * estimate.standard_error
        assert result["pi"].interval == ("empirical_bernstein" if method in ("clopper_pearson", "gamma") else method)
    assert result.support.mean_reward == pytest.approx(log.rewards.sum(axis=1).mean())
    contributions = SLATE_ESTIMATORS["rips"].contributions(log)
    assert result["rips"].standard_error == pytest.approx(contributions.std(ddof=1) / np.sqrt(len(log)), rel=1e-6)
    assert result["cascade_dr"].standard_error < result["rips"].standard_error < result["sips"].standard_error


def test_groups_of_lists() -> None:
    log, _ = drawn(3000)
    rows = np.repeat(np.arange(len(log)), 2)
    values = {name: getattr(log, name) for name in LoggedSlates.__dataclass_fields__}
    columns = {name: column[rows] for name, column in values.items() if column is not None}
    once, twice = evaluate_slates(log), evaluate_slates(LoggedSlates(**columns, groups=rows))
    for name in ("sips", "iips", "rips", "cascade_dr"):
        assert twice[name].standard_error == pytest.approx(once[name].standard_error)
        assert (twice[name].low, twice[name].high) == pytest.approx((once[name].low, once[name].high), rel=1e-6)


def test_unsupported_estimators_are_left_out_and_named() -> None:
    """The product over many slots has no support where the prefixes still have some."""
    rng = np.random.default_rng(0)
    n, n_slots = 4000, 12
    p = np.full((n, n_slots), 0.5)
    log = LoggedSlates(
        (rng.random((n, n_slots)) < 0.2).astype(float), p, np.where(rng.random((n, n_slots)) < 0.5, 0.9, 0.1)
    )
    result = evaluate_slates(log, ["sips", "rips"])
    assert "SIPS is not supported" in result.warnings[0]
    with pytest.raises(ConfigError):
        result["sips"]
    assert result["rips"].low < result["rips"].value < result["rips"].high
    alone = evaluate_slates(log, ["sips"])
    assert alone.refusal is not None
    assert not alone.estimates
    assert evaluate_slates(log, ["sips"], refuse=False)["sips"].high > 0


def test_what_is_no_log_of_lists() -> None:
    ones = np.ones((3, 2))
    with pytest.raises(DataError, match="propensities has shape"):
        LoggedSlates(ones, np.ones((3, 3)), ones)
    with pytest.raises(DataError, match="row 2 of propensities"):
        LoggedSlates(ones, np.array([[1.0, 0.5], [0.5, 0.0], [1.0, 1.0]]), ones)
    with pytest.raises(DataError, match="come together"):
        LoggedSlates(ones, ones, ones, position_propensities=ones)
    log = LoggedSlates(ones, ones, ones)
    with pytest.raises(DataError, match="needs the probabilities of items at positions"):
        evaluate_slates(log, ["iips"])
    with pytest.raises(DataError, match="needs a reward model"):
        evaluate_slates(log, ["cascade_dr"])
    with pytest.raises(ConfigError, match="no estimator of lists 'ripps'"):
        evaluate_slates(log, ["ripps"])
    with pytest.raises(DataError, match=r"outside 0 to 0\.5"):
        evaluate_slates(log, reward_range=(0, 0.5))
