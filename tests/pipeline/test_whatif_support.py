"""What a log could not show is known from its probabilities: what-if answers within it, or refuses."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import pytest

from zhiyin.pipeline.decision_record import DecisionInfo, DecisionRecord
from zhiyin.pipeline.list_policy import ListDecision
from zhiyin.pipeline.whatif import LoggedList, WhatIfResult, evaluate_lists
from zhiyin.pipeline.whatif_support import slot_support_terms
from zhiyin.policies.action_sets import action_keys

ITEMS = [f"i{number}" for number in range(6)]
KEYS = action_keys(ITEMS)
INFO = DecisionInfo("home", "LinTS", "online")
SLOTS = 3


def record_of(items: tuple[int, ...], pmfs: np.ndarray, propensities: np.ndarray | None = None) -> DecisionRecord:
    """A decision whose shortlist is all items, in an order of its own."""
    s = len(items)
    order = np.random.default_rng(len(pmfs)).permutation(len(ITEMS))
    chosen = np.array([int(np.flatnonzero(order == item)[0]) for item in items], dtype=np.int16)
    drawn = pmfs[np.arange(s), list(items)] if propensities is None else propensities
    return DecisionRecord(
        INFO, tuple(ITEMS[item] for item in items), np.arange(s, dtype=np.int16), chosen, chosen, chosen, drawn,
        np.cumprod(drawn), None, False, 0.0, keys=KEYS[order], pmfs=pmfs[:, order],
    )  # fmt: skip


def decision_of(pmfs: np.ndarray, slots: tuple[int, ...] = (0, 1, 2)) -> ListDecision:
    s = len(slots)
    none = np.full(s, -1, dtype=np.int16)
    return ListDecision(
        KEYS, np.arange(len(ITEMS)), np.array(slots, dtype=np.int16), none, none, none, pmfs, np.ones(s), np.ones(s),
        None, False, 0.0,
    )  # fmt: skip


# -- terms of one list -------------------------------------------------------------------------------------------------


def test_unlogged_probability_of_a_slot_is_exact() -> None:
    logging = np.array([[0.5, 0.5, 0, 0, 0, 0], [0.0, 0.25, 0.75, 0, 0, 0]])
    target = np.array([[0.5, 0.2, 0.3, 0, 0, 0], [0.0, 0, 0.6, 0.1, 0.3, 0]])
    items = [ITEMS[0], ITEMS[1]]
    terms = slot_support_terms(items, record_of((0, 1), logging), items, decision_of(target, (0, 1)))
    assert terms is not None
    assert terms[0] == pytest.approx([0.3, 0.4])
    assert terms[1] == pytest.approx([0.5**2 / 0.5 + 0.2**2 / 0.5, 0.6**2 / 0.75])
    # Without a draw it is all or nothing: an item of the log's, and one that it could not show.
    certain = slot_support_terms(items, record_of((0, 1), logging), [ITEMS[1], ITEMS[5]], None)
    assert certain is not None
    assert certain[0].tolist() == [0, 1]
    assert certain[1].tolist() == [2, 0]
    # A slot that is pinned in the target, and one that it leaves empty.
    pinned = slot_support_terms(items, record_of((0, 1), logging), [ITEMS[1]], decision_of(target[1:], (1,)))
    assert pinned is not None
    assert pinned[0] == pytest.approx([0, 0.4])
    shorter = slot_support_terms(items, record_of((0, 1), logging), [ITEMS[1]], None)
    assert shorter is not None
    assert shorter[0].tolist() == [0, 0]


def test_a_slot_that_was_not_drawn_has_its_own_item_alone() -> None:
    """As in lists of the baseline, whose pmfs say what the policy would have done."""
    pmfs = np.full((2, 6), 1 / 6)
    record = record_of((0, 1), pmfs, np.ones(2))
    same = slot_support_terms([ITEMS[0], ITEMS[1]], record, [ITEMS[0], ITEMS[1]], None)
    other = slot_support_terms([ITEMS[0], ITEMS[1]], record, [ITEMS[0], ITEMS[2]], None)
    assert same is not None
    assert other is not None
    assert [part.tolist() for part in same] == [[0, 0], [1, 1]]
    assert other[0].tolist() == [0, 1]


# -- logs --------------------------------------------------------------------------------------------------------------


def random_pmf(rng: np.random.Generator, n_items: int, zeros: float) -> np.ndarray:
    """Over a shortlist of some of the items, a share of whose probabilities are 0 as those of a few draws are."""
    pmf = np.zeros(6)
    pmf[rng.permutation(6)[:n_items]] = rng.dirichlet(np.ones(n_items))
    cut = pmf * (rng.random(6) >= zeros)
    pmf = cut if cut.sum() > 0 else pmf
    return pmf / pmf.sum()


def given_above(pmf: np.ndarray, bounds: np.ndarray, slot: int, above: tuple[int, ...]) -> np.ndarray:
    """The pmf of a slot after items above it, with the limits of exploration in force."""
    left = pmf.copy()
    left[list(above)] = 0
    if left.sum() == 0:
        left = np.ones(6)
        left[list(above)] = 0
    left = left / left.sum()
    greedy = int(np.argmax(left))
    share = min(1.0, bounds[slot] / max(1 - left[greedy], 1e-12))
    mixed = share * left
    mixed[greedy] = 1 - share * (1 - left[greedy])
    return mixed


def random_log(seed: int, n: int = 400) -> tuple[list[LoggedList], float, float]:
    """Lists of a policy with limits, another configuration's probabilities of them, what it earns in truth, and the
    largest reward."""
    rng = np.random.default_rng(seed)
    largest = float(rng.choice([1, 3]))
    rates = rng.uniform(0, 0.8, (6, SLOTS))
    rates[:, : rng.integers(0, SLOTS)] = 0  # rewards of the later slots alone
    share, first_slot, slot_share = rng.choice([0.2, 0.6, 1.0]), rng.choice([1, 1, 2]), rng.choice([0.05, 1.0, 1.0])
    bounds = np.full(SLOTS, 1 - (1 - share) ** (1 / SLOTS))
    bounds[: first_slot - 1] = 0
    bounds[0] = min(bounds[0], slot_share)
    kind = rng.choice(["fixed", "other", "near", "moved", "moved", "without limits"])
    n_contexts, truth = 3, 0.0
    rows: list[dict[tuple[int, ...], dict[str, Any]]] = []
    for _ in range(n_contexts):
        base = random_pmf(rng, int(rng.integers(3, 7)), rng.choice([0, 0.3]))
        target, target_bounds = base, bounds
        if kind == "fixed":
            target, target_bounds = random_pmf(rng, 6, 0), np.zeros(SLOTS)
        elif kind == "other":
            target = random_pmf(rng, int(rng.integers(3, 7)), 0.3)
        elif kind == "near":
            target = base * rng.uniform(0.8, 1.2, 6) + rng.choice([0, 1e-3])
            target /= target.sum()
        elif kind == "moved":
            target = base.copy()
            lost, won = rng.permutation(6)[:2]
            target[[lost, won]] = 0, target[lost] + target[won]
        else:
            target_bounds = np.ones(SLOTS)
        lists = {}
        made_by = (base, bounds), (target, target_bounds), (base, np.zeros(SLOTS))
        pmfs = [functools.cache(functools.partial(given_above, pmf, limits)) for pmf, limits in made_by]
        for items in itertools.permutations(range(6), SLOTS):
            logged, asked, spent = (np.array([pmf(slot, items[:slot]) for slot in range(SLOTS)]) for pmf in pmfs)
            at = np.arange(SLOTS), list(items)
            truth += asked[at].prod() * largest * rates[list(items), np.arange(SLOTS)].sum() / n_contexts
            lists[items] = {"logged": logged, "target": asked, "spent": spent, "at": at}
        rows.append(lists)
    log = []
    chances = {
        name: [np.cumsum([one[name][one["at"]].prod() for one in lists.values()]) for lists in rows]
        for name in ("logged", "spent")
    }
    every = list(rows[0])
    for number, context, place in zip(range(n), rng.integers(0, n_contexts, n), rng.random(n), strict=True):
        is_spent = number % 10 == 9
        name = "spent" if is_spent else "logged"
        sums = chances[name][context]
        items = every[int(np.searchsorted(sums, place * sums[-1], side="right"))]
        one = rows[context][items]
        clicks = largest * (rng.random(SLOTS) < rates[list(items), np.arange(SLOTS)])
        key = f"terms {name}"
        if key not in one:
            ids = [ITEMS[item] for item in items]
            one[key] = slot_support_terms(ids, record_of(items, one[name]), ids, decision_of(one["target"]))
        log.append(LoggedList(
            clicks, one[name][one["at"]], one["target"][one["at"]], "loss_budget_spent" if is_spent else "drawn",
            unlogged=one[key][0], squared_weights=one[key][1],
        ))  # fmt: skip
    return log, truth, largest


def holds(result: WhatIfResult, truth: float) -> bool:
    assert result.evaluation is not None
    return all(one.low <= truth <= one.high for one in result.evaluation.estimates)


def test_a_log_with_limits_is_answered_rightly_or_refused() -> None:
    """In 100 small logs, of shares, slots and shortlists that leave out part of what the target shows."""
    right = answered = partly = 0
    for seed in range(100):
        log, truth, largest = random_log(seed)
        result = evaluate_lists(log, reward_range=(0, largest), interval="gamma")
        if result.refusal is None:
            answered += 1
            partly += any(slot.unlogged for slot in result.slots)
        right += result.refusal is not None or holds(result, truth)
    assert right >= 93
    assert answered >= 20
    assert partly >= 5  # some answers lack a little, and say so by their interval


def test_what_the_log_cannot_show_is_refused_in_plain_words() -> None:
    """The target shows item 2 in slot 1 of a third of its lists, which the log's probabilities leave no room for."""
    rng = np.random.default_rng(0)
    logging, target = np.array([[0.5, 0.5, 0, 0, 0, 0]]), np.array([[1 / 3, 1 / 3, 1 / 3, 0, 0, 0]])
    log = []
    for item in rng.integers(0, 2, 1000):
        terms = slot_support_terms(["i0"], record_of((0,), logging), ["i0"], decision_of(target, (0,)))
        assert terms is not None
        reward = np.array([float(rng.random() < 0.3)])
        log.append(
            LoggedList(reward, logging[0, [item]], target[0, [item]], unlogged=terms[0], squared_weights=terms[1])
        )
    result = evaluate_lists(log)
    assert result.refusal is not None
    assert "33.3% of the lists" in result.refusal.reasons[0]
    assert "no chance to show" in result.refusal.reasons[0]
    assert "floor" in result.refusal.remedies[0]
    assert result.slots[0].unlogged == pytest.approx(1 / 3)
    assert result.slots[0].lack == "33.3% cannot be shown"
    assert result.to_dict()["slots"][0]["unlogged"] == pytest.approx(1 / 3)


def test_a_mean_weight_that_chance_does_not_explain_is_refused_slot_by_slot() -> None:
    """One slot of five has wrong propensities; the mean over all slots hides it."""
    rng = np.random.default_rng(1)
    log = [
        LoggedList(
            np.zeros(5), np.full(5, 0.5), np.array([0.5, 0.5, 0.5, 0.5, 0.4]),
            unlogged=np.zeros(5), squared_weights=np.ones(5),
        )
        for _ in rng.random(500)
    ]  # fmt: skip
    result = evaluate_lists(log)
    assert result.refusal is not None
    assert any("mean weight down to slot 5" in reason for reason in result.refusal.reasons)


def test_rare_draws_that_did_not_happen_are_no_wrong_weight() -> None:
    """99 % of the weight is in what was drawn every time: 1 / .99 is what chance gives, though no list differs."""
    one = LoggedList(
        np.array([1.0]), np.array([0.99]), np.array([1.0]), unlogged=np.zeros(1), squared_weights=np.array([1 / 0.99])
    )
    result = evaluate_lists([one] * 200)
    assert result.refusal is None
    assert result["rips"].low <= 1 <= result["rips"].high


def test_a_slot_that_lacks_what_earns_is_not_hidden_by_the_others() -> None:
    """Slots 1 and 2 are well supported; slot 3 earns, by an item that the log cannot show, the target's in 30 %."""
    rng = np.random.default_rng(2)
    logging = np.array([[0.9, 0.1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]])
    target = np.array([[0.65, 0.35, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0.7, 0.3, 0]])
    rates, truth = 0.1, 0.7 * 0.1 + 0.3 * 1.0
    log = []
    for _ in range(400):
        items = (int(rng.random() < 0.1), 2, 3)
        ids = [ITEMS[item] for item in items]
        terms = slot_support_terms(ids, record_of(items, logging), ids, decision_of(target))
        assert terms is not None
        at = np.arange(3), list(items)
        rewards = np.array([0, 0, float(rng.random() < rates)])
        log.append(LoggedList(rewards, logging[at], target[at], unlogged=terms[0], squared_weights=terms[1]))
    without = [dataclasses.replace(one, unlogged=None, squared_weights=None) for one in log]
    for lists in (log, without):  # the probabilities of the log say so, and the weights of slot 3 do
        result = evaluate_lists(lists, interval="gamma")
        assert result.refusal is not None or result["rips"].low <= truth <= result["rips"].high
    assert "slot 3" in str(evaluate_lists(log).refusal)
