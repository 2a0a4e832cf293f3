"""Exploration as an input of the arranging step: it keeps every rule, and its propensities are what was drawn by."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from zhiyin.core.errors import DataError
from zhiyin.pipeline.exploration import MAX_REPLACEMENTS_PER_SLOT, OneSlot, Replacements, draw_replacements, uniforms
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.rules import Rules
from zhiyin.pipeline.slate import RequestBatch, Slates

N = 18
ITEMS = pl.DataFrame({
    "id": range(N), "seller": [f"s{i % 5}" if i % 7 else None for i in range(N)],
    "variant": [f"v{i // 2}" if i < 12 else None for i in range(N)], "small": [i % 3 == 0 for i in range(N)],
})  # fmt: skip
FILTERS = Filters(ITEMS)


class Watched:
    """A policy that remembers what it was offered."""

    def __init__(self, policy: OneSlot) -> None:
        self.policy, self.offered = policy, []  # type: ignore[var-annotated]

    def __call__(self, replacements: Replacements) -> np.ndarray:
        self.offered.append(replacements)
        return self.policy(replacements)


def keeps(items: list[int], before: list[int], rules: Rules) -> bool:
    """Whether a list keeps all caps at least as well as before, repeats no variant and has its shares."""

    def over(listed: list[int], per: str, first: int, most: int) -> Counter[str]:
        counts = Counter(ITEMS[per][item] for item in listed[: first or None] if ITEMS[per][item] is not None)
        return Counter({group: count - most for group, count in counts.items() if count > most})

    for cap in rules.caps:
        was = over(before, cap.per, cap.first, cap.at_most)
        if over(items, cap.per, cap.first, cap.at_most) - was:
            return False
    if rules.dedupe and over(items, rules.dedupe, 0, 1):
        return False
    for share in rules.shares:
        wanted = math.ceil(share.at_least * len(items) - 1e-9)
        if sum(ITEMS["small"][i] for i in items) < min(wanted, sum(ITEMS["small"][i] for i in before)):
            return False
    return True


def fits(before: list[int], slot: int, item: int, per: str, first: int, most: int) -> bool:
    """Whether the item's group has room for it, the rest of the list as it is."""
    group = ITEMS[per][item]
    others = sum(ITEMS[per][x] == group for at, x in enumerate(before) if at != slot and at < first)
    return group is None or others < most


def book(**table: object) -> Rulebook:
    return Rulebook(Rules.from_dict(table), FILTERS)


RULES = st.fixed_dictionaries({}, optional={
    "caps": st.lists(st.fixed_dictionaries({
        "per": st.just("seller"), "at_most": st.integers(1, 3), "first": st.integers(0, 5), "strict": st.booleans(),
    }), max_size=2),
    "dedupe": st.just("variant"),
    "shares": st.lists(st.fixed_dictionaries({"of": st.just("small"), "at_least": st.sampled_from([0.2, 0.5])}),
                       max_size=1),
})  # fmt: skip


@settings(max_examples=examples(60), deadline=None)
@given(table=RULES, order=st.permutations(range(N)), k=st.integers(1, 9), pinned=st.booleans(), seed=st.integers(0, 99))
def test_what_a_policy_is_offered_is_what_keeps_the_rules(
    table: dict[str, object], order: list[int], k: int, pinned: bool, seed: int
) -> None:
    """By enumeration of every slot and every item; and what is drawn is one of them, with its own score."""
    rules = book(**table)
    pins = {1: order[-1]} if pinned else {}
    slates = Slates(np.array([0, N]), np.array(order, np.int32), -np.arange(N, dtype=np.float32))
    needs = RequestBatch.one(pins=pins, seed=seed)
    plain = rules.rerank(slates, needs, k)[0]
    before = plain.items.tolist()
    policy = Watched(OneSlot(1.0))
    made = rules.rerank(slates, needs, k, policy=policy)[0]
    offered = {(int(s), int(i)) for s, i in zip(policy.offered[0].slots, policy.offered[0].items)}
    right = set()
    for slot, present in enumerate(before):
        if present in pins.values():
            continue
        for item in set(order) - set(before):
            if keeps([*before[:slot], item, *before[slot + 1 :]], before, rules.rules):
                caps = [cap for cap in rules.rules.caps if slot < (cap.first or k)]
                if all(fits(before, slot, item, cap.per, cap.first or k, cap.at_most) for cap in caps):
                    right.add((slot, item))
    assert offered == right
    assert (made.items.tolist() != before) == bool(offered)
    assert made.propensities is not None
    changed = [slot for slot, (a, b) in enumerate(zip(made.items.tolist(), before)) if a != b]
    assert len(changed) == min(1, len(offered))
    for slot in changed:
        assert (slot, int(made.items[slot])) in offered
        assert made.scores[slot] == -order.index(int(made.items[slot]))


def test_lists_are_drawn_as_the_propensities_say() -> None:
    rules = book(caps=[{"per": "seller", "at_most": 1, "strict": True}], dedupe="variant")
    n = 40_000
    one = np.arange(N, dtype=np.int32)
    slates = Slates(np.arange(n + 1) * N, np.tile(one, n), np.tile(-np.arange(N, dtype=np.float32), n))
    needs = RequestBatch(n, seeds=np.arange(n, dtype=np.uint64))
    policy = Watched(OneSlot(0.5))
    made = rules.rerank(slates, needs, 4, policy=policy)
    lists, told = made.items.reshape(n, 4), made.propensities
    assert told is not None
    said = dict(zip(zip(np.tile(np.arange(4), n).tolist(), made.items.tolist()), told.tolist()))
    for slot in range(4):
        assert sum(p for (s, _), p in said.items() if s == slot) == pytest.approx(1)
    for (slot, item), p in said.items():
        shown = (lists[:, slot] == item).mean()
        assert abs(shown - p) < 4.5 * math.sqrt(p * (1 - p) / n) + 1e-9, (slot, item, shown, p)
    assert len(said) > 8
    # The same seed makes the same list; every request by itself makes what it makes among others.
    again = rules.rerank(
        slates.pick(np.array([7])), RequestBatch(1, seeds=np.array([7], np.uint64)), 4, policy=OneSlot(0.5)
    )
    assert again.items.tolist() == lists[7].tolist()


def test_any_policy_may_choose() -> None:
    def best_of_the_rest(replacements: Replacements) -> np.ndarray:
        """The best item behind the list goes to the last slot, three times of four."""
        last = replacements.slots == replacements.slots.max()
        first = replacements.scores == replacements.scores[last].max()
        return np.where(last & first, 0.75, 0.0)

    slates = Slates(np.array([0, N]), np.arange(N, dtype=np.int32), -np.arange(N, dtype=np.float32))
    lists = Counter()  # type: ignore[var-annotated]
    for seed in range(400):
        made = book().rerank(slates, RequestBatch.one(seed=seed), 3, policy=best_of_the_rest)[0]
        lists[tuple(made.items.tolist())] += 1
        assert made.propensities is not None
        assert made.propensities.tolist() == [1, 1, 0.75 if made.items[2] == 3 else 0.25]
    assert set(lists) == {(0, 1, 2), (0, 1, 3)}
    assert 250 < lists[0, 1, 3] < 350


def test_a_policy_that_gives_no_probabilities_is_refused() -> None:
    slates = Slates(np.array([0, N]), np.arange(N, dtype=np.int32), -np.arange(N, dtype=np.float32))
    for wrong in (
        lambda o: np.ones(len(o)),
        lambda o: -np.ones(len(o)),
        lambda o: np.ones(3),
        lambda o: o.scores * np.nan,
    ):
        with pytest.raises(DataError, match=r"policy"):
            book().rerank(slates, RequestBatch.one(), 4, policy=wrong)


def test_nothing_is_offered_where_nothing_is_left() -> None:
    slates = Slates(np.array([0, 3, 3]), np.arange(3, dtype=np.int32), np.zeros(3, np.float32))
    made = book().rerank(slates, RequestBatch(2, seeds=np.zeros(2, np.uint64)), 5, policy=OneSlot(1.0))
    assert made.items.tolist() == [0, 1, 2]
    assert made.propensities is not None
    assert made.propensities.tolist() == [1, 1, 1]


def test_each_slot_is_offered_a_bounded_tail() -> None:
    many = Filters(pl.DataFrame({"id": range(500)}))
    policy = Watched(OneSlot(0.1))
    slates = Slates(np.array([0, 500]), np.arange(500, dtype=np.int32), -np.arange(500, dtype=np.float32))
    Rulebook(Rules(), many).rerank(slates, RequestBatch.one(), 5, policy=policy)
    assert np.bincount(policy.offered[0].slots).tolist() == [MAX_REPLACEMENTS_PER_SLOT] * 5
    assert policy.offered[0].items[:MAX_REPLACEMENTS_PER_SLOT].tolist() == list(range(5, 5 + MAX_REPLACEMENTS_PER_SLOT))


@settings(max_examples=examples(30), deadline=None)
@given(chances=st.lists(st.lists(st.floats(0, 1), max_size=6), min_size=1, max_size=6), seed=st.integers(0, 2**60))
def test_what_is_drawn_had_a_chance(chances: list[list[float]], seed: int) -> None:
    parts = [np.array(part) / max(1.0, sum(part)) for part in chances]
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    flat = np.concatenate(parts)
    none = np.zeros(len(flat), np.int64)
    replacements = Replacements(len(parts), owners, none, none, none, none, none)
    at, told = draw_replacements(replacements, lambda _: flat, np.arange(seed, seed + len(parts), dtype=np.uint64))
    assert len(set(owners[at])) == len(at)
    assert (flat[at] > 0).all()
    assert told.tolist() == flat.tolist()
    sure = [request for request, part in enumerate(parts) if len(part) and part.sum() > 1 - 1e-12]
    assert set(sure) <= set(owners[at].tolist())


def test_uniforms_are_uniform() -> None:
    drawn_numbers = uniforms(np.arange(100_000, dtype=np.uint64))
    assert drawn_numbers.min() >= 0
    assert drawn_numbers.max() < 1
    assert np.abs(np.histogram(drawn_numbers, 20, (0, 1))[0] / 5_000 - 1).max() < 0.06
