"""Exploration of one slot, the simplest policy: it keeps every rule, and its propensities are what was drawn by."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from zhiyin.pipeline.choosing_stage import MAX_REPLACEMENTS_PER_SLOT, ListChooser
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.list_policy import ListDecision, ListPolicy
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.rules import Rules
from zhiyin.pipeline.slate import RequestBatch, Slates

N = 18
ITEMS = pl.DataFrame({
    "id": range(N), "seller": [f"s{i % 5}" if i % 7 else None for i in range(N)],
    "variant": [f"v{i // 2}" if i < 12 else None for i in range(N)], "small": [i % 3 == 0 for i in range(N)],
})  # fmt: skip
FILTERS = Filters(ITEMS)


def one_slot(rate: float) -> ListChooser:
    return ListChooser(ListPolicy.one_slot(rate))


def replacements(decision: ListDecision) -> set[tuple[int, int]]:
    """Slots and items other than those of the list without exploration that had a probability, the slots before it
    unchanged."""
    return {
        (slot, int(item))
        for slot, pmf, baseline in zip(decision.slots.tolist(), decision.pmfs, decision.baseline.tolist())
        for at, item in enumerate(decision.items)
        if pmf[at] > 0 and at != baseline
    }


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
    made = rules.rerank(slates, needs, k, chooser=one_slot(1.0))[0]
    # At a rate this low the list stays as it is, so that the slots before each one are unchanged.
    rare = rules.rerank(slates, needs, k, chooser=one_slot(1e-12))[0].decision
    assert rare is not None
    assert not rare.explored
    offered = replacements(rare)
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
    made = rules.rerank(slates, needs, 4, chooser=one_slot(0.5))
    lists, told = made.items.reshape(n, 4), made.propensities
    assert told is not None
    told = told.reshape(n, 4)
    # The probability of an item in a slot is conditional on the slots before; that of the list is their product.
    by_list: dict[tuple[int, ...], float] = {}
    for row in range(n):
        by_list[tuple(lists[row])] = float(np.prod(told[row]))
    shown = Counter(map(tuple, lists.tolist()))
    assert sum(by_list.values()) == pytest.approx(1)
    for listed, p in by_list.items():
        assert abs(shown[listed] / n - p) < 4.5 * math.sqrt(p * (1 - p) / n) + 1e-9, (listed, shown[listed], p)
    for slot in range(4):
        for before in {tuple(row[:slot]) for row in lists.tolist()}:
            same = (lists[:, :slot] == before).all(axis=1)
            chances = dict(zip(lists[same, slot].tolist(), told[same, slot].tolist()))
            assert sum(chances.values()) == pytest.approx(1)
    assert len(by_list) > 8
    # The same seed makes the same list; every request by itself makes what it makes among others.
    again = rules.rerank(
        slates.pick(np.array([7])), RequestBatch(1, seeds=np.array([7], np.uint64)), 4, chooser=one_slot(0.5)
    )
    assert again.items.tolist() == lists[7].tolist()


def test_nothing_is_offered_where_nothing_is_left() -> None:
    slates = Slates(np.array([0, 3, 3]), np.arange(3, dtype=np.int32), np.zeros(3, np.float32))
    made = book().rerank(slates, RequestBatch(2, seeds=np.zeros(2, np.uint64)), 5, chooser=one_slot(1.0))
    assert made.items.tolist() == [0, 1, 2]
    assert made.propensities is not None
    assert made.propensities.tolist() == [1, 1, 1]


def test_each_slot_is_offered_a_bounded_tail() -> None:
    many = Filters(pl.DataFrame({"id": range(500)}))
    slates = Slates(np.array([0, 500]), np.arange(500, dtype=np.int32), -np.arange(500, dtype=np.float32))
    decision = Rulebook(Rules(), many).rerank(slates, RequestBatch.one(), 5, chooser=one_slot(1e-9))[0].decision
    assert decision is not None
    tail = set(range(5, 5 + MAX_REPLACEMENTS_PER_SLOT))
    assert replacements(decision) == {(slot, item) for slot in range(5) for item in tail}
    assert decision.pmfs[0][5] == pytest.approx(1e-9 / (5 * MAX_REPLACEMENTS_PER_SLOT))
