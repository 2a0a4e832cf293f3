"""A policy as the last stage of a list: rules hold whatever is drawn, and the propensities are what was drawn by."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from tests.examples import examples
from tests.pipeline.test_rules_hold import ALL, DATA, ITEMS, MANY, NOW, REQUESTS, TABLES, answers, asked_of, request_of
from tests.rules_kept import check
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.core.run import Run
from zhiyin.models.als import ALS
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.choosing_stage import NEW_SHARE, ListChooser
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.item_statistics import ItemStatistics
from zhiyin.pipeline.list_features import ListFeatures
from zhiyin.pipeline.list_policy import ExplorationLimits, ListDecision, ListPolicy, redraw
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.rules import Rules
from zhiyin.pipeline.slate import RequestBatch, Slates
from zhiyin.policies.action_sets import ActionSets, Outcomes, action_keys
from zhiyin.policies.epsilon_greedy import EpsilonGreedy
from zhiyin.policies.policy import Policy
from zhiyin.policies.registry import parse
from zhiyin.policies.slot_probabilities import DRAWS, GREEDY, SOFTMAX, SQUARE_CB, SlotValues
from zhiyin.policies.softmax import Softmax

KINDS = ("lints:draws=20,scale=1", "squarecb:scale=3", "softmax:temperature=0.3", "linucb:alpha=1",
         "betabernoulli:draws=20", "epsilongreedy:floor=0.3", "lints:draws=7,floor=0.2")  # fmt: skip
N = 8
CATALOGUE = Filters(pl.DataFrame({
    "id": range(N), "seller": [f"s{i % 3}" if i != 7 else None for i in range(N)],
    "small": [i % 2 == 0 for i in range(N)],
}))  # fmt: skip
SLATES = Slates(np.array([0, N]), np.arange(N, dtype=np.int32), -np.arange(N, dtype=np.float32))
FEATURES = np.random.default_rng(3).normal(size=(N, 4)).astype(np.float32)


class Uniform(Policy):
    """A policy of the caller's own: it gives probabilities, and nothing that a kernel could read."""

    def _probabilities(self, sets: ActionSets, seeds: np.ndarray, run: Run) -> np.ndarray:
        return 1 / np.repeat(np.diff(sets.offsets), np.diff(sets.offsets)).astype(float)


def learned(spec: str, seed: int = 0) -> Policy:
    policy, rng = parse(spec), np.random.default_rng(seed)
    rows = rng.integers(0, N, 60)
    policy.update(Outcomes(rows, rng.integers(0, 2, 60), FEATURES[rows]))
    return policy


def chooser(policy: Policy | None, forced: Any = None, **options: Any) -> ListChooser:
    chosen = ListPolicy(policy, "test", **options)
    codes = None if forced is None else np.asarray(forced)
    return ListChooser(chosen, None, lambda owners, items, places, scores: FEATURES[items].copy(), forced=codes)


@functools.cache
def _book(table: str) -> Rulebook:
    rules = json.loads(table)
    return Rulebook(Rules.from_dict(rules | {"pins": {int(k): v for k, v in rules.get("pins", {}).items()}}), CATALOGUE)


def book(rules: dict[str, Any]) -> Rulebook:
    return _book(json.dumps(rules))


def decided(one: ListChooser, k: int = 3, seed: int = 0, **rules: Any) -> ListDecision:
    made = book(rules).rerank(SLATES, RequestBatch.one(seed=seed), k, chooser=one)[0]
    assert made.decision is not None
    return made.decision


def probability(one: ListChooser, listed: Any, k: int = 3, seed: int = 0, **rules: Any) -> float:
    """Of a list that is given."""
    given_list = dataclasses.replace(one, forced=np.array(listed))
    made = book(rules).rerank(SLATES, RequestBatch.one(seed=seed), k, chooser=given_list)
    assert made[0].forced is not None
    return float(np.prod(made[0].forced))


# -- rules -------------------------------------------------------------------------------------------------------------

LIMITS = st.builds(
    ExplorationLimits, share=st.sampled_from([0.05, 0.5, 1.0]), first_slot=st.sampled_from([1, 2]),
    slot_shares=st.dictionaries(st.integers(1, 4), st.sampled_from([0.0, 0.3]), max_size=2),
    greedy=st.sampled_from([False, False, False, True]),
)  # fmt: skip
POLICIES = st.builds(
    lambda kind, **options: ListPolicy(None if kind == "one slot" else parse(kind), "home", **options),
    st.sampled_from([*KINDS, "one slot"]), shortlist=st.sampled_from([1, 6, 50]), limits=LIMITS,
    mode=st.sampled_from(["online", "online", "apprentice", "shadow"]), randomisation=st.sampled_from([0.02, 1.0]),
)  # fmt: skip
LAYOUT = ListFeatures.of(answers({}))


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(table=TABLES, request=REQUESTS, policy=POLICIES, new=st.booleans())
def test_every_rule_holds_whatever_a_policy_draws(
    table: dict[str, Any], request: dict[str, Any], policy: ListPolicy, new: bool
) -> None:
    policy = dataclasses.replace(policy, features=LAYOUT)
    there = ALL if new else ITEMS
    request = request | {"pins": {slot: item for slot, item in request["pins"].items() if item in there}, "explore": 0}
    made, plain_request = answers(table, new), request_of(table, request)
    plain = made.ask(plain_request)
    answer = made.ask(dataclasses.replace(plain_request, policy=policy))
    check(table, asked_of(table, request), answer.items, there)
    assert len(answer.items) == len(plain.items) == len(answer.propensities)
    decision = answer.decision
    assert decision is not None
    assert decision.reason == ""
    slots = decision.slots
    assert [answer.items[slot] for slot in slots] == made.ids.raw(decision.items[decision.chosen])
    assert [plain.items[slot] for slot in slots] == made.ids.raw(decision.items[decision.baseline])
    assert (np.delete(answer.propensities, slots) == 1).all()
    assert (answer.propensities[slots] == decision.propensities).all()
    assert (answer.propensities > 0).all()
    assert np.allclose(decision.pmfs.sum(axis=1), 1, atol=1e-9)
    assert (decision.prefix_propensities == np.cumprod(decision.propensities)).all()
    assert decision.expected_loss >= 0
    assert (decision.keys == action_keys(map(str, made.ids.raw(decision.items)))).all()
    if policy.mode == "shadow":
        assert answer.items == plain.items
        assert (answer.propensities == 1).all()
    else:
        at = (np.arange(len(slots)), decision.chosen)
        assert (decision.propensities == decision.pmfs[at]).all()
        assert (redraw(decision.pmfs, slots, request["seed"], "home") == decision.chosen).all()
        again = made.ask(dataclasses.replace(plain_request, policy=policy, forced=answer.items))
        assert again.propensities.tolist() == answer.propensities.tolist()
        assert again.items == answer.items
    if policy.limits.greedy or (policy.limits.share == 0):
        assert not decision.explored
    if policy.mode == "online":  # the greedy list has at least the rest of the share that may differ from it
        limits = dataclasses.replace(policy.limits, greedy=True)
        greedy = made.ask(dataclasses.replace(plain_request, policy=dataclasses.replace(policy, limits=limits)))
        certain = made.ask(dataclasses.replace(plain_request, policy=policy, forced=greedy.items))
        assert np.prod(certain.propensities) >= 1 - policy.limits.share - 1e-12
    if decision.features is not None:
        assert decision.features.shape == (len(slots), len(LAYOUT.names))
        assert np.allclose(decision.features[:, LAYOUT.position], np.log2(1 + slots) / 4)


@pytest.mark.slow
@settings(max_examples=examples(30), deadline=None)
@given(table=TABLES, asked=MANY, policy=POLICIES, new=st.booleans())
def test_many_lists_are_decided_as_each_alone(
    table: dict[str, Any], asked: dict[str, Any], policy: ListPolicy, new: bool
) -> None:
    policy = dataclasses.replace(policy, features=LAYOUT)
    pins = {slot: item for slot, item in asked["pins"].items() if new or item in ITEMS}
    asked = asked | {"pins": pins, "explore": 0.0, "filter": asked["filter"].replace("user.age", "20")}
    asked |= {"deficits": [3.0]} if "exposure" in table else {}
    made, users = answers(table, new), ["u3", "nobody", "u8", "u17", "u3"]
    if asked["diversity"] == "calibrate":
        asked |= {"diversity": "none"}
    frame = made.ask_many(users, now=NOW, policy=policy, **asked)
    at = 0
    for number, user in enumerate(users):
        one = made.ask(Request(user=user, now=NOW, policy=policy, **asked | {"seed": asked["seed"] + number}))
        rows = frame[at : at + len(one)]
        assert rows["item"].to_list() == one.items, user
        assert np.allclose(rows["propensity"], one.propensities, rtol=1e-4)
        at += len(one)
    assert at == len(frame)


# -- probabilities -----------------------------------------------------------------------------------------------------

CONSTRAINED: dict[str, Any] = {
    "caps": [{"per": "seller", "at_most": 1, "first": 2, "strict": True}], "shares": [{"of": "small", "at_least": 0.4}],
}  # fmt: skip


@pytest.mark.parametrize("rules", [{}, CONSTRAINED, {"pins": {2: 5}}], ids=["free", "constrained", "pinned"])
@pytest.mark.parametrize("kind", [*KINDS, "uniform", "one slot", "apprentice"])
def test_the_probabilities_of_all_lists_sum_to_1(kind: str, rules: dict[str, Any]) -> None:
    """By enumeration, with limits and without; a list that breaks a rule has the probability 0."""
    policy = (
        None
        if kind == "one slot"
        else Uniform()
        if kind == "uniform"
        else learned(KINDS[0] if kind == "apprentice" else kind)
    )
    for limits in (ExplorationLimits(), ExplorationLimits(0.4, {1: 0.1}, 1)):
        mode = "apprentice" if kind == "apprentice" else "online"
        one = chooser(policy, limits=limits, mode=mode, randomisation=0.7)
        total = 0.0
        for listed in itertools.permutations(range(N), 3):
            p = probability(one, listed, **rules)
            total += p
            if p > 0 and rules is CONSTRAINED:
                sellers = [x % 3 for x in listed[:2] if x != 7]
                assert len(set(sellers)) == len(sellers)
                assert sum(x % 2 == 0 for x in listed) >= 2
        assert total == pytest.approx(1, abs=1e-12)


def test_what_may_stand_in_a_slot_is_what_some_list_that_keeps_the_rules_has_there() -> None:
    """Nothing is left out without need: against all lists that keep the rules."""
    right = {
        listed for listed in itertools.permutations(range(N), 3)
        if len({x % 3 for x in listed[:2] if x != 7}) == len([x for x in listed[:2] if x != 7])
        and sum(x % 2 == 0 for x in listed) >= 2
    }  # fmt: skip
    reached = {x for x in itertools.permutations(range(N), 3) if probability(chooser(Uniform()), x, **CONSTRAINED) > 0}
    assert reached == right


@pytest.mark.parametrize("kind", KINDS)
def test_lists_are_drawn_by_their_probabilities(kind: str) -> None:
    """The chi-square of first items and of pairs over many requests, each by its own probabilities."""
    n, k = 8_000, 3
    many = Slates(np.arange(n + 1) * N, np.tile(SLATES.items, n), np.tile(SLATES.scores, n))
    made = book(CONSTRAINED).rerank(
        many, RequestBatch(n, seeds=np.arange(n, dtype=np.uint64)), k, chooser=chooser(learned(kind))
    )
    assert made.propensities is not None
    lists, told = made.items.reshape(n, k), made.propensities.reshape(n, k)
    # E[1/p of the list drawn] is the number of lists that have a probability; each list counts 1 in expectation.
    weights = Counter()  # type: ignore[var-annotated]
    deterministic = not kind.startswith(("lints", "beta"))
    chances: dict[tuple[int, ...], float] = {}
    for listed, p in zip(map(tuple, lists.tolist()), told.prod(axis=1).tolist()):
        weights[listed] += 1
        chances[listed] = p
    if not deterministic:  # probabilities are those of each request's draws of the posterior
        shown = np.bincount(lists[:, 0], minlength=N) / n
        ask = chooser(learned(kind))
        expected = np.mean([decided(ask, seed=s, **CONSTRAINED).pmfs[0] for s in range(200)], axis=0)
        items = decided(ask, **CONSTRAINED).items
        assert np.abs(shown[items] - expected).max() < 0.06
        return
    assert sum(chances.values()) == pytest.approx(1, abs=0.02)
    expected_counts = np.array([chances[listed] * n for listed in weights])
    counts = np.array([weights[listed] for listed in weights])
    often = expected_counts >= 5
    if often.sum() > 1:
        statistic = ((counts - expected_counts)[often] ** 2 / expected_counts[often]).sum()
        assert chi2.sf(statistic, often.sum()) > 1e-4


@pytest.mark.parametrize("kind", [*KINDS, "uniform"])
@pytest.mark.parametrize("rules", [{}, CONSTRAINED], ids=["free", "constrained"])
def test_no_list_differs_from_the_greedy_one_more_often_than_its_share(kind: str, rules: dict[str, Any]) -> None:
    policy = Uniform() if kind == "uniform" else learned(kind)
    for share, seed in itertools.product([0.0, 0.03, 0.25, 0.9], range(4)):
        limits = ExplorationLimits(share, {2: 0.01}, 1)
        greedy = decided(chooser(policy, limits=ExplorationLimits(greedy=True)), seed=seed, **rules)
        assert not greedy.explored
        assert (greedy.propensities == 1).all()
        listed = greedy.items[greedy.chosen]
        one = chooser(policy, limits=limits)
        assert 1 - probability(one, listed, seed=seed, **rules) <= share + 1e-12
        decision = decided(one, seed=seed, **rules)
        bounds = np.minimum(1 - (1 - share) ** (1 / 3), [1, 0.01, 1])
        assert (1 - decision.pmfs[np.arange(3), decision.greedy] <= bounds + 1e-12).all()
        late = decided(chooser(policy, limits=ExplorationLimits(first_slot=3)), seed=seed, **rules)
        assert late.chosen[:2].tolist() == late.greedy[:2].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_has_the_probabilities_of_the_policy_over_what_is_allowed(kind: str) -> None:
    policy = learned(kind)
    one = chooser(policy)
    decision = decided(one, seed=5, **CONSTRAINED)
    seeds = one.policy.seeds(np.array([5], np.uint64))
    sets = ActionSets.single(decision.keys, FEATURES[decision.items].astype(float), excluded=decision.pmfs[0] == 0)
    if kind.startswith(("linucb", "epsilon")) or "floor" not in kind:
        allowed = decided(chooser(Uniform()), seed=5, **CONSTRAINED).pmfs[0] > 0
        sets = ActionSets.single(decision.keys, FEATURES[decision.items].astype(float), excluded=~allowed)
    assert np.allclose(policy.probabilities(sets, seeds), decision.pmfs[0], rtol=1e-12, atol=1e-15)


def test_a_policy_without_kernel_values_decides_alike() -> None:
    class Plain(Softmax):
        def slot_values(self, sets: ActionSets, seeds: np.ndarray) -> None:
            return None

    fast, plain = Softmax(temperature=0.3, floor=0.1), Plain(temperature=0.3, floor=0.1)
    for policy in (fast, plain):
        policy.update(Outcomes(np.arange(N), np.arange(N) % 2, FEATURES))
    for seed in range(20):
        a, b = (decided(chooser(x, limits=ExplorationLimits(0.7)), seed=seed, **CONSTRAINED) for x in (fast, plain))
        assert a.chosen.tolist() == b.chosen.tolist()
        assert np.allclose(a.pmfs, b.pmfs, rtol=1e-12, atol=0)
        assert a.greedy.tolist() == b.greedy.tolist()
        assert a.expected_loss == pytest.approx(b.expected_loss)


def test_items_that_are_alike_to_a_policy_without_features_are_no_failure() -> None:
    policy = parse("betabernoulli")
    policy.update(Outcomes([1_000], [1.0]))  # of an item that no shortlist has
    decision = decided(chooser(policy))
    assert (decision.reason, decision.expected_loss) == ("", 0)


def test_a_policy_at_its_prior_is_greedy_by_the_list_as_it_is() -> None:
    decision = decided(chooser(parse("lints"), limits=ExplorationLimits(greedy=True)), **CONSTRAINED)
    assert decision.chosen.tolist() == decision.greedy.tolist() == decision.baseline.tolist()


def test_what_exploring_costs_is_counted_in_expected_rewards() -> None:
    policy = learned("softmax:temperature=0.2")
    values = policy.expected_rewards(ActionSets.single(range(N), FEATURES.astype(float)))
    assert values is not None
    for seed in range(10):
        decision = decided(chooser(policy), seed=seed)
        left, loss = set(range(N)), 0.0
        for item in decision.items[decision.chosen].tolist():
            loss += max(values[list(left)]) - values[item]
            left -= {item}
        assert decision.expected_loss == pytest.approx(loss)
        assert decision.explored == (loss > 0)


# -- modes -------------------------------------------------------------------------------------------------------------


def test_shadow_says_what_the_policy_would_do() -> None:
    policy = learned("squarecb:scale=3")
    decision = decided(chooser(policy, mode="shadow", limits=ExplorationLimits(0.3)))
    assert decision.items[decision.chosen].tolist() == [0, 1, 2]
    assert decision.propensities.tolist() == [1, 1, 1]
    assert not decision.explored
    one = chooser(policy, limits=ExplorationLimits(0.3))
    assert decision.target_propensities is not None
    assert np.prod(decision.target_propensities) == probability(one, [0, 1, 2])
    assert (decision.propensities == decision.pmfs[np.arange(3), decision.chosen]).all()
    assert decision.target_pmfs is not None
    assert (decision.target_propensities == decision.target_pmfs[np.arange(3), decision.chosen]).all()
    assert decided(one).target_propensities is None


def test_an_apprentice_swaps_two_items_now_and_then() -> None:
    policy, n = learned("lints:draws=30"), 600
    swapped = 0
    for seed in range(n):
        one = chooser(policy, mode="apprentice", randomisation=0.3)
        decision = decided(one, k=4, seed=seed)
        items = decision.items[decision.chosen].tolist()
        assert sorted(items) == [0, 1, 2, 3]
        assert sum(a != b for a, b in zip(items, range(4))) in (0, 2)
        assert decision.explored == (items != [0, 1, 2, 3])
        swapped += decision.explored
        assert decision.prefix_propensities[-1] == pytest.approx(0.3 / 6 if decision.explored else 0.7)
        online = chooser(policy)
        assert decision.target_propensities is not None
        assert np.prod(decision.target_propensities) == probability(online, items, k=4, seed=seed)
    assert abs(swapped / n - 0.3) < 4.5 * np.sqrt(0.21 / n)


# -- failures ----------------------------------------------------------------------------------------------------------


class Broken(EpsilonGreedy):
    """What it does wrong is its `how`."""

    how = ""

    def expected_rewards(self, sets: ActionSets) -> np.ndarray | None:
        if self.how == "nan rewards":
            return np.full(len(sets.actions), np.nan)
        if self.how == "constant":
            return np.full(len(sets.actions), 0.5)
        if self.how == "raises":
            raise RuntimeError("broken")
        if self.how == "other features":
            raise DataError("4 features where the policy has learned with 7")
        return None

    def slot_values(self, sets: ActionSets, seeds: np.ndarray) -> Any:
        if self.how == "raises late":
            raise RuntimeError("broken")
        return None

    def probabilities(self, sets: ActionSets, seeds: Any = None, run: Run | None = None) -> np.ndarray:
        n = len(sets.actions)
        wrong = {"nan": np.full(n, np.nan), "above 1": np.full(n, 1.0), "negative": np.r_[2.0, -1.0, np.zeros(n - 2)]}
        return wrong.get(self.how, np.zeros(n - 1) if self.how == "too few" else np.zeros(n))


@pytest.mark.parametrize(("how", "reason"), [
    ("nan rewards", "invalid_probabilities"), ("nan", "invalid_probabilities"), ("above 1", "invalid_probabilities"),
    ("negative", "invalid_probabilities"), ("zeros", "invalid_probabilities"), ("too few", "invalid_snapshot"),
    ("raises", "invalid_snapshot"), ("raises late", "invalid_snapshot"), ("other features", "schema_changed"),
    ("constant", "constant_scores"),
])  # fmt: skip
@pytest.mark.parametrize("mode", ["online", "shadow", "apprentice"])
def test_a_policy_that_fails_leaves_the_list_as_it_is(how: str, reason: str, mode: Any) -> None:
    policy = Broken()
    policy.how, policy.n_updates = how, 9
    decision = decided(chooser(policy, mode=mode), **CONSTRAINED)
    assert decision.reason == reason
    assert decision.chosen.tolist() == decision.baseline.tolist() == decision.greedy.tolist()
    if mode == "online":
        assert decision.propensities.tolist() == [1, 1, 1]
        assert (decision.pmfs[np.arange(3), decision.chosen] == 1).all()
    assert (decision.expected_loss, decision.explored) == (0, False)


@pytest.mark.parametrize("rule", [GREEDY, SOFTMAX, SQUARE_CB, DRAWS])
def test_values_that_are_no_numbers_leave_the_list_as_it_is(rule: int) -> None:
    class NoNumbers(EpsilonGreedy):
        def expected_rewards(self, sets: ActionSets) -> None:
            return None

        def slot_values(self, sets: ActionSets, seeds: np.ndarray) -> SlotValues:
            return SlotValues.of(rule, np.full((3, len(sets.actions)), np.nan), 1.0, 0.5, 7.0)

    decision = decided(chooser(NoNumbers()), **CONSTRAINED)
    assert decision.reason in ("invalid_probabilities", "invalid_snapshot")
    assert decision.chosen.tolist() == decision.baseline.tolist()
    assert decision.propensities.tolist() == [1, 1, 1]


def test_weights_by_propensities_count_what_is_allowed() -> None:
    """E[1/p of what is drawn] is the number of items that may be drawn: what estimators from the log rest on."""
    n = 20_000
    many = Slates(np.arange(n + 1) * N, np.tile(SLATES.items, n), np.tile(SLATES.scores, n))
    one = chooser(learned("squarecb:scale=3"), limits=ExplorationLimits(0.8))
    requests = RequestBatch(n, seeds=np.arange(n, dtype=np.uint64))
    made = book(CONSTRAINED).rerank(many, requests, 3, chooser=one)
    assert made.propensities is not None
    weights = 1 / made.propensities.reshape(n, 3)[:, 0]
    assert abs(weights.mean() - N) < 4 * weights.std() / np.sqrt(n)


def test_features_that_fail_leave_the_list_as_it_is() -> None:
    def features(*_: Any) -> np.ndarray:
        raise ValueError("no such column")

    one = dataclasses.replace(chooser(learned("lints")), features=features)
    decision = decided(one)
    assert (decision.reason, decision.chosen.tolist()) == ("invalid_snapshot", decision.baseline.tolist())


def test_a_policy_that_learned_other_features_leaves_the_list_as_it_is() -> None:
    policy = parse("lints")
    policy.update(Outcomes([1], [1.0], np.ones((1, 9))))
    assert decided(chooser(policy)).reason == "schema_changed"


def test_values_out_of_range_are_refused() -> None:
    slots = ({"slot_shares": {0: 0.1}}, {"slot_shares": {1: -1}}, {"first_slot": 0})
    for wrong in ({"share": 1.1}, {"share": float("nan")}, *slots):
        with pytest.raises(ConfigError):
            ExplorationLimits(**wrong)  # type: ignore[arg-type]
    for other in ({"shortlist": 0}, {"mode": "guarded"}, {"randomisation": 2}):
        with pytest.raises(ConfigError):
            ListPolicy(None, **other)  # type: ignore[arg-type]


# -- shortlist, features, requests -------------------------------------------------------------------------------------


def test_the_shortlist_keeps_places_for_items_without_displays() -> None:
    catalogue = Filters(pl.DataFrame({"id": range(300)}))
    slates = Slates(np.array([0, 300]), np.arange(300, dtype=np.int32), -np.arange(300, dtype=np.float32))
    one = ListChooser(ListPolicy(Uniform(), shortlist=40), without_displays=lambda items: items % 30 == 29)
    made = Rulebook(Rules(), catalogue).rerank(slates, RequestBatch.one(), 5, chooser=one)[0]
    assert made.decision is not None
    items = made.decision.items
    assert len(items) == 40
    assert np.count_nonzero(items % 30 == 29) == NEW_SHARE * 40
    assert items.tolist() == sorted(items)
    assert set(range(28)) <= set(items.tolist())


def test_features_say_what_the_list_knew_of_an_item() -> None:
    made = answers({})
    layout = ListFeatures.of(made)
    assert layout.digest == ListFeatures.of(answers({})).digest
    assert layout.names[: layout.n_version_free] == layout.names
    keys = np.sort(action_keys(["i31", "i3"]))
    statistics = ItemStatistics(keys, np.full(2, 15.0), np.full(2, 4.0), np.full(2, 1.0))
    policy = ListPolicy(parse("lints"), features=layout, statistics=statistics, mode="shadow")
    decision = made.ask(Request(user="u3", k=6, now=NOW, policy=policy)).decision
    assert decision is not None
    assert decision.features is not None
    rows = dict(zip(made.ids.raw(decision.items[decision.chosen]), decision.features))
    at = {name: number for number, name in enumerate(layout.names)}
    assert all(row[at["bias"]] == 1 for row in rows.values())
    assert rows["i31"][at["uncertainty"]] == pytest.approx(0.25)
    assert rows["i31"][at["reward_ratio"]] == pytest.approx((4 + 5) / (1 + 5) - 1)
    other = next(row for item, row in rows.items() if item not in ("i31", "i3"))
    assert (other[at["uncertainty"]], other[at["reward_ratio"]]) == (1, 0)
    assert rows["i31"][at["rank"]] == 1
    prices = {item: row[at["column_price"]] for item, row in rows.items()}
    assert sorted(prices, key=lambda item: prices[item]) == sorted(prices, key=lambda item: ALL[item]["price"])


def test_vectors_of_the_version_come_last() -> None:
    model = ALS(factors=20, epochs=3).fit(DATA)
    made = Answers(model, DATA.items)
    layout = ListFeatures.of(made)
    assert layout.names[layout.n_version_free :] == (
        *(f"match_{i}" for i in range(16)), *(f"item_{i}" for i in range(16)))  # fmt: skip
    assert layout.version_digest == ListFeatures.of(made).version_digest
    again = ListFeatures.of(Answers(ALS(factors=20, epochs=4).fit(DATA), DATA.items))
    assert again.digest == layout.digest
    assert again.version_digest != layout.version_digest
    policy = ListPolicy(parse("lints"), features=layout, mode="shadow")
    decision = made.ask(Request(user="u3", k=9, now=NOW, policy=policy)).decision
    assert decision is not None
    assert decision.features is not None
    match = decision.features[:, layout.n_version_free : layout.n_version_free + 16].sum(axis=1)
    scores = made.ask(Request(user="u3", k=9, now=NOW)).scores
    assert np.corrcoef(match, scores)[0, 1] > 0.8


def test_a_list_that_is_given_has_its_probability_without_a_policy() -> None:
    made = answers({})
    plain = made.ask(Request(user="u3", k=3, now=NOW))
    given_list = [plain.items[0], plain.items[2], plain.items[1], plain.items[0]]
    answer = made.ask(Request(user="u3", k=3, now=NOW, forced=given_list))
    assert answer.items == given_list
    assert answer.propensities.tolist() == [1, 0, 0, 0]


def test_the_choosing_stage_may_be_skipped() -> None:
    made = answers({})
    policy = ListPolicy(parse("softmax"), features=LAYOUT)
    answer = made.ask(Request(user="u3", k=5, now=NOW, policy=policy, skip=("policy",)))
    assert answer.items == made.ask(Request(user="u3", k=5, now=NOW)).items
    assert answer.decision is not None
    assert answer.decision.reason == "budget_exceeded_time"
    assert "policy" in answer.degraded


def test_policies_of_two_placements_do_not_share_their_draws() -> None:
    made, policy = answers({}), parse("softmax")
    lists = [
        [made.ask(Request(user="u3", k=5, now=NOW, seed=seed, policy=ListPolicy(policy, name, LAYOUT))).items
         for seed in range(8)] for name in ("home", "basket", "home")
    ]  # fmt: skip
    assert lists[0] == lists[2] != lists[1]
