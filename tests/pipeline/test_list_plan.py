"""The compiled function that makes lists: against a plain reference of the rules; and a batch is each list alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.pipeline.test_slot_allocation import Row, expected_list
from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.pipeline.diversity_rerankers import feature_table
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.list_plan import NO_VARIETY, Fill, ListInputs, Variety
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.rules import Rules
from zhiyin.pipeline.slate import Ragged, RequestBatch, Slate, Slates
from zhiyin.pipeline.variety_kernels import MMR

N = 30
FRAME = pl.DataFrame({
    "id": np.arange(N), "price": [float(i % 7) for i in range(N)],
    "seller": [f"s{i % 4}" if i % 5 else None for i in range(N)],
    "tags": [["", "a", "a|b", "b|c"][i % 4] or None for i in range(N)],
    "variant": [i // 2 if i < 20 else None for i in range(N)], "small": [i % 4 == 3 for i in range(N)],
})  # fmt: skip
USER = {"age": pl.Int64}
ONE = Run(threads=1, progress=False)
MASK64 = 2**64 - 1

# Candidates by item with scores that tie; items that are not eligible; columns of the user.
CANDIDATES = st.dictionaries(st.integers(0, N - 1), st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]), max_size=14)
REQUESTS = st.fixed_dictionaries({
    "candidates": CANDIDATES, "excluded": st.sets(st.integers(0, N - 1), max_size=8), "age": st.integers(0, 7),
    "pins": st.dictionaries(st.integers(1, 6), st.integers(0, N - 1), max_size=2),
})  # fmt: skip
TABLES = st.fixed_dictionaries({}, optional={
    "boosts": st.lists(st.sampled_from([
        {"when": "small", "multiply": 3}, {"add": "price * 0.5"}, {"when": "price > user.age", "add": "2"},
        {"multiply": "1 + price", "when": "seller = 's1'"},
    ]), min_size=1, max_size=2),
    "caps": st.lists(st.sampled_from([
        {"per": "seller", "at_most": 1}, {"per": "tags", "at_most": 2, "strict": True},
        {"per": "price", "at_most": 1, "first": 3}, {"per": "seller", "at_most": 2, "first": 4, "strict": True},
    ]), min_size=1, max_size=2),
    "dedupe": st.just("variant"),
    "shares": st.lists(st.sampled_from([
        {"of": "small", "at_least": 0.3}, {"of": "price >= user.age", "at_least": 0.5},
        {"of": "price = 6", "at_least": 0.2},
    ]), min_size=1, max_size=2),
    "exposure": st.just([{"of": "small", "target": 0.3}, {"of": "price < 2", "target": 0.2, "gain": 0.5}]),
    "rotation": st.sampled_from([{"strength": 0.7}, {"strength": 2, "keep": 2}]),
})  # fmt: skip
DEFICITS = st.sampled_from([None, (1.5, -1.0), (0.0, 2.0), (0.5, 0.5)])


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def gumbel(*key: int) -> float:
    state = 0
    for part in key:
        state = mix(state ^ ((part + 0x9E3779B97F4A7C15) & MASK64))
    return -math.log(-math.log(((state >> 11) + 0.5) / 2**53))


@dataclasses.dataclass
class Reference:
    """One list, step by step, over plain lists of (item, score)."""

    table: dict[str, Any]
    k: int
    deficits: tuple[float, ...] | None
    balance: float | None
    user: int
    request: dict[str, Any]
    eligible: list[int]

    def holds(self, condition: str, item: int) -> bool:
        row = FRAME.row(item, named=True)
        return {"small": row["small"], "price > user.age": row["price"] > self.request["age"],
                "seller = 's1'": row["seller"] == "s1", "price >= user.age": row["price"] >= self.request["age"],
                "price = 6": row["price"] == 6, "price < 2": row["price"] < 2, "": True}[condition]  # fmt: skip

    def make(self, wanted: int) -> tuple[list[tuple[int, float]], bool]:
        """The list, and whether more popular items are needed."""
        shares, exposure = self.table.get("shares", []), self.table.get("exposure", [])
        slate = sorted(self.request["candidates"].items(), key=lambda pair: -pair[1])
        n_popular = self.fill(slate, wanted, shares, exposure)
        slate = self.adjust(slate, exposure)
        slate = self.varied(slate)
        slate = self.rotated(slate)
        made, yielded = self.slots(slate, shares)
        needs_more = len(made) < self.k or (yielded and wanted < 4 * self.k)
        return made, needs_more and n_popular >= wanted

    def fill(self, slate: list[tuple[int, float]], wanted: int, shares: list[Any], exposure: list[Any]) -> int:
        factor = 4 if self.table.get("caps") or self.table.get("dedupe") else 1
        groups = [(share["of"], factor * math.ceil(share["at_least"] * self.k - 1e-9)) for share in shares]
        groups += [(target["of"], factor * self.k) for target, d in zip(exposure, self.deficits or ()) if d > 0]
        added: list[int] = []

        def take(count: int, condition: str) -> None:
            for item in range(N):  # the order of popularity
                present = [present for present, _ in slate] + added
                is_free = item in self.eligible and item not in self.request["excluded"] and item not in present
                if count > 0 and is_free and self.holds(condition, item):
                    added.append(item)
                    count -= 1

        take(wanted, "")
        n_popular = len(added)
        for condition, count in groups:
            take(count - sum(self.holds(condition, item) for item in [i for i, _ in slate] + added), condition)
        low = slate[-1][1] if slate else 0.0
        for place, item in enumerate(added):
            slate.append((item, low - (place + 1) / (len(added) + 1) * max(1.0, abs(low))))
        return n_popular

    def adjust(self, slate: list[tuple[int, float]], exposure: list[Any]) -> list[tuple[int, float]]:
        values = dict(slate)
        for boost in self.table.get("boosts", []):
            for item, value in values.items():
                price = FRAME["price"][item]
                factor = {"3": 3.0, "1 + price": 1 + price}.get(str(boost.get("multiply", "")), 1.0)
                addend = {"price * 0.5": price * 0.5, "2": 2.0}.get(boost.get("add", ""), 0.0)
                if self.holds(boost.get("when", ""), item):
                    values[item] = (value * factor if value >= 0 else value / factor) + addend
        active = [(target, d) for target, d in zip(exposure, self.deficits or ()) if d > 0]
        if active:
            spread = float(np.std(list(values.values()))) if values else 1.0
            for target, deficit in active:
                for item in values:
                    if self.holds(target["of"], item):
                        values[item] += target.get("gain", 1.0) * deficit * (spread or 1.0)
        if not active and not self.table.get("boosts"):
            return slate
        return sorted(((item, float(np.float32(value))) for item, value in values.items()), key=lambda pair: -pair[1])

    def varied(self, slate: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """MMR by seller."""
        if self.balance is None or not slate:
            return slate
        scores = [score for _, score in slate]
        span = max(scores) - min(scores)
        left, chosen = list(range(len(slate))), []
        while left and len(chosen) < self.k:

            def value(row: int) -> float:
                relevance = (scores[row] - min(scores)) / span if span > 0 else 1.0
                seller = FRAME["seller"][slate[row][0]]
                alike = [float(seller is not None and FRAME["seller"][slate[other][0]] == seller) for other in chosen]
                return self.balance * relevance - (1 - self.balance) * max(alike, default=0.0)  # type: ignore[operator]

            best = max(left, key=value)  # the first of equal ones
            chosen.append(best)
            left.remove(best)
        return [slate[row] for row in chosen + left]

    def rotated(self, slate: list[tuple[int, float]]) -> list[tuple[int, float]]:
        rotation = self.table.get("rotation")
        if rotation is None:
            return slate
        keep = rotation.get("keep", 0)
        keys = [math.log(place - keep + 1) - rotation["strength"] * gumbel(5, self.user, 9, item) if place >= keep
                else -math.inf for place, (item, _) in enumerate(slate)]  # fmt: skip
        return [slate[row] for row in sorted(range(len(slate)), key=keys.__getitem__)]

    def slots(self, slate: list[tuple[int, float]], shares: list[Any]) -> tuple[list[tuple[int, float]], bool]:
        low = min((score for _, score in slate), default=0.0)
        pinned: dict[int, int] = {}
        for slot, item in self.request["pins"].items():
            if slot <= self.k and item not in pinned:
                pinned[item] = slot - 1
        slate = slate + [(item, low) for item in pinned if item not in [present for present, _ in slate]]
        caps = [{"per": "variant", "at_most": 1, "strict": True}] if self.table.get("dedupe") else []
        caps = caps + self.table.get("caps", [])

        def groups(item: int, column: str) -> tuple[Any, ...]:
            value = FRAME[column][item]
            return () if value is None else tuple(value.split("|")) if column == "tags" else (value,)

        rows = [Row(pinned.get(item, -1), tuple(groups(item, cap["per"]) for cap in caps),
                    tuple(self.holds(share["of"], item) for share in shares)) for item, _ in slate]  # fmt: skip
        limits = [(cap["at_most"], cap.get("first", 0) or self.k, cap.get("strict", False)) for cap in caps]
        made = expected_list(rows, self.k, limits, [share["at_least"] for share in shares])
        return [slate[row] for row in made.rows], 3 in made.reasons


def inputs_of(
    requests: list[dict[str, Any]], users: list[int], k: int, deficits: Any, balance: float | None
) -> ListInputs:
    offsets = np.cumsum([0, *(len(request["candidates"]) for request in requests)])
    items = np.array([item for request in requests for item in request["candidates"]], dtype=np.int32)
    scores = np.array([score for request in requests for score in request["candidates"].values()], dtype=np.float32)
    excluded = Ragged.of([sorted(request["excluded"]) for request in requests])
    batch = RequestBatch(
        len(requests), 0, users=np.array(users), visits=np.full(len(requests), 9),
        user=pl.DataFrame({"age": [request["age"] for request in requests]}, schema=USER),
        pins=Ragged.of([request["pins"].values() for request in requests], [request["pins"] for request in requests]),
        deficits=None if deficits is None else np.array(deficits),
    )  # fmt: skip
    wanted = np.maximum(0, k - np.diff(offsets))
    fill = Fill(excluded.offsets, excluded.values.astype(np.int32), np.arange(N, dtype=np.int32), ELIGIBLE, wanted)
    sellers = np.array([-1 if name is None else int(name[1]) for name in FRAME["seller"]])
    features = (sellers[:, None] == np.arange(4)).astype(np.float32)
    variety = NO_VARIETY if balance is None else Variety(MMR, "mmr", balance, feature_table(features))
    return ListInputs(offsets, items, scores, batch, k, fill, variety)


ELIGIBLE = np.array([i % 9 != 4 for i in range(N)])


def rulebook(table: dict[str, Any], filters: Filters) -> Rulebook:
    return Rulebook(Rules.from_dict(table), filters, seed=5)


@settings(max_examples=examples(80), deadline=None)
@given(table=TABLES, requests=st.lists(REQUESTS, min_size=1, max_size=4), k=st.integers(1, 8), deficits=DEFICITS,
       balance=st.sampled_from([None, 0.3, 0.8]))  # fmt: skip
def test_lists_are_those_of_the_reference(
    table: dict[str, Any], requests: list[dict[str, Any]], k: int, deficits: Any, balance: float | None
) -> None:
    """Also where several requests are made at once, and where boosts have been evaluated for all items."""
    book = rulebook(table, Filters(FRAME, USER))
    deficits = deficits if "exposure" in table else None
    users = list(range(len(requests)))
    lists = book.plan.make(inputs_of(requests, users, k, deficits, balance), ONE)
    for row, request in enumerate(requests):
        eligible = np.flatnonzero(ELIGIBLE).tolist()
        reference = Reference(table, k, deficits, balance, row, request, eligible)
        wanted = max(0, k - len(request["candidates"]))
        expected, needs_more = reference.make(wanted)
        while needs_more:
            wanted = max(4 * k, 8 * wanted)
            expected, needs_more = reference.make(wanted)
        assert lists[row].items.tolist() == [item for item, _ in expected], (row, lists[row].trace)
        np.testing.assert_allclose(lists[row].scores, [score for _, score in expected], rtol=1e-5, atol=1e-6)
    again = book.plan.make(inputs_of(requests, users, k, deficits, balance), ONE)
    assert again.items.tolist() == lists.items.tolist()


def content_of(slate: Slate) -> tuple[Any, ...]:
    return slate.items.tolist(), slate.scores.tolist(), slate.trace


@settings(max_examples=examples(40), deadline=None)
@given(table=TABLES, requests=st.lists(REQUESTS, min_size=2, max_size=5), k=st.integers(1, 8), deficits=DEFICITS)
def test_a_batch_makes_the_lists_and_traces_of_each_alone(
    table: dict[str, Any], requests: list[dict[str, Any]], k: int, deficits: Any
) -> None:
    book = rulebook(table, Filters(FRAME, USER))
    deficits = deficits if "exposure" in table else None
    whole = dataclasses.replace(inputs_of(requests, list(range(len(requests))), k, deficits, 0.5), fill=None)
    lists: Slates = book.plan.make(whole, Run(threads=2, progress=False))
    has_traces = lists.trace is not None  # groups by columns of users are made apart, without traces
    for row, request in enumerate(requests):
        one = dataclasses.replace(inputs_of([request], [row], k, deficits, 0.5), fill=None)
        alone, among = content_of(book.plan.make(one, ONE)[0]), content_of(lists[row])
        assert among[:2] == alone[:2]
        assert not has_traces or among[2] == alone[2]


def test_no_score_may_be_nan() -> None:
    request = {"candidates": {1: 1.0, 2: math.nan}, "excluded": set(), "age": 1, "pins": {}}
    with pytest.raises(DataError, match="NaN"):
        rulebook({}, Filters(FRAME, USER)).plan.make(inputs_of([request], [0], 3, None, None), ONE)


def test_a_list_that_no_rule_changes_has_no_trace() -> None:
    request = {"candidates": {1: 1.0, 2: 3.0, 5: 2.0}, "excluded": set(), "age": 1, "pins": {}}
    made = rulebook({}, Filters(FRAME, USER)).plan.make(inputs_of([request], [0], 3, None, None), ONE)[0]
    assert (made.items.tolist(), made.trace) == ([2, 5, 1], [])
