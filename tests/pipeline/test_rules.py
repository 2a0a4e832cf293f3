"""Rules against brute force: who may be shown, what is pushed, who gets which slot; and what cannot be written."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from zhiyin.core.errors import ConfigError
from zhiyin.data.histories import Histories
from zhiyin.pipeline.answer_settings import MATCHES_NOTHING, hides_everything, usable_rules
from zhiyin.pipeline.exposure import MAX_DEFICIT_LISTS, deficits
from zhiyin.pipeline.filters import Filters
from zhiyin.pipeline.rulebook import Rulebook
from zhiyin.pipeline.rules import Rules
from zhiyin.pipeline.slate import Ragged, RequestBatch, Slate, Slates

DAY = 86_400_000_000
NOW = 20_000 * DAY
N = 24
DAY_OF = [dt.date(1970, 1, 1) + dt.timedelta(days=20_000 + i - 12) for i in range(N)]
FRAME = pl.DataFrame({
    "id": np.arange(N), "price": [float(i % 7) for i in range(N)],
    "seller": [f"s{i % 4}" if i % 5 else None for i in range(N)],
    "stock": [i % 3 for i in range(N)], "variant": [f"v{i // 2}" if i < 20 else None for i in range(N)],
    "begins": DAY_OF, "small": [i % 4 == 3 for i in range(N)],
})  # fmt: skip
FILTERS = Filters(FRAME, {"age": pl.Int64})
KINDS = ("purchase", "view")


def book(**table: object):  # type: ignore[no-untyped-def]
    return Rulebook(Rules.from_dict(table), FILTERS, kinds=KINDS, seed=5)


def slate(items: list[int] | None = None) -> Slate:
    items = list(range(N)) if items is None else items
    return Slate(np.array(items, np.int32), -np.arange(len(items), dtype=np.float32))


def rerank_one(rules: Rulebook, slate: Slate, requests: RequestBatch, k: int) -> Slate:
    """One slate through all steps, as a batch of one."""
    return rules.rerank(Slates(np.array([0, len(slate)]), slate.items, slate.scores), requests, k)[0]


def history(items: list[int], days_ago: list[float], kinds: list[int]) -> Histories:
    times = np.array([NOW - int(d * DAY) for d in days_ago], dtype=np.int64)
    return Histories.of(np.array([0, len(items)]), np.array(items), times=times, kinds=np.array(kinds, np.uint8))


@settings(max_examples=examples(40))
@given(
    most=st.integers(0, 7),
    exclude=st.sets(st.integers(0, N - 1), max_size=6),
    own=st.sets(st.integers(0, N - 1), max_size=6),
    include=st.one_of(st.none(), st.sets(st.integers(0, N - 1))),
    had=st.lists(st.tuples(st.integers(0, N - 1), st.sampled_from([0.5, 3.0, 20.0]), st.integers(0, 1)), max_size=8),
)
def test_who_may_be_shown_equals_brute_force(
    most: int, exclude: set[int], own: set[int], include: set[int] | None, had: list[tuple[int, float, int]]
) -> None:
    rules = book(
        filter=f"price < {most}", exclude=sorted(exclude), stock="stock", valid_from="begins",
        bought={"purchase": "never", "view": "7d"}, frequency={"at_most": 2, "window": "1d"},
    )  # fmt: skip
    items, ago, kinds = (list(part) for part in zip(*had)) if had else ([], [], [])
    request = RequestBatch.one(
        now=NOW, history=history(items, ago, kinds), include=include, exclude=own, shown={3: 2, 4: 1}
    )
    right = {
        i for i in range(N)
        if i % 7 < most and i not in exclude | own and (include is None or i in include) and i % 3 > 0
        and DAY_OF[i] <= dt.date(1970, 1, 1) + dt.timedelta(days=20_000) and i != 3
        and not any(item == i and (kind == 0 or days < 7) for item, days, kind in had)
    }  # fmt: skip
    after = rerank_one(rules, slate(), request, N)
    assert after.items.tolist() == sorted(right)
    # Ahead of retrieval the same is said.
    _, removed = rules.excluded_items(request)
    assert set(np.flatnonzero(rules.mask(request).bits)) - set(removed.tolist()) == right
    # Each item that is missing is told once, with the rule that it failed.
    told = [item for event in after.trace for item in event.get("items", []) if event["step"] != "short"]
    assert sorted(told) == sorted(set(range(N)) - right)


def test_boosts_help_whatever_the_sign() -> None:
    rules = book(boosts=[{"when": "small", "multiply": 3}, {"when": "price > 5", "add": "price * 10"}])
    after = rerank_one(
        rules, Slate(np.array([3, 4, 7, 6], np.int32), np.array([-3, -2, 1, -9], np.float32)), RequestBatch.one(), 4
    )
    # 3: small, -3 / 3; 4: as it was; 7: small, 1 · 3; 6: price 6, -9 + 60
    assert after.items.tolist() == [6, 7, 3, 4]
    assert after.scores.tolist() == [51, 3, -1, -2]
    assert [event["when"] for event in after.trace if event["step"] == "boost"] == ["small", "price > 5"]


@settings(max_examples=examples(40))
@given(order=st.permutations(range(N)), k=st.integers(1, N), most=st.integers(1, 3), strict=st.booleans())
def test_caps_hold_and_yield_only_where_the_list_would_be_short(
    order: list[int], k: int, most: int, strict: bool
) -> None:
    rules = book(caps=[{"per": "seller", "at_most": most, "strict": strict}])
    after = rerank_one(rules, slate(order), RequestBatch.one(), k).items.tolist()
    counts: dict[str, int] = {}
    greedy = []
    for item in order:
        seller = FRAME["seller"][item]
        if seller is None or counts.get(seller, 0) < most:
            greedy.append(item)
            if seller is not None:
                counts[seller] = counts.get(seller, 0) + 1
    assert after[: len(greedy)] == greedy[:k]
    assert len(after) == (min(k, len(greedy)) if strict else min(k, N))


@settings(max_examples=examples(30))
@given(order=st.permutations(range(N)))
def test_of_one_variant_the_best_stays(order: list[int]) -> None:
    after = rerank_one(book(dedupe="variant"), slate(order), RequestBatch.one(), N).items.tolist()
    best: dict[object, int] = {}
    for item in order:
        best.setdefault(FRAME["variant"][item] or item, item)
    assert after == [item for item in order if item in best.values()]


def test_pins_stand_where_they_are_pinned() -> None:
    rules = book(pins={1: 9, 4: 10}, exclude=[10], caps=[{"per": "seller", "at_most": 1, "strict": True}])
    after = rerank_one(rules, slate(), RequestBatch.one(pins={3: 22}), 4)
    assert after.items[0] == 9
    assert after.items[2] == 22
    assert 10 not in after.items
    assert [event["items"] for event in after.trace if event["step"] == "pin dropped"] == [[10]]


@settings(max_examples=examples(30))
@given(order=st.permutations(range(N)), k=st.integers(1, N), share=st.sampled_from([0.1, 0.25, 0.5]))
def test_shares_are_reached_if_members_are_there(order: list[int], k: int, share: float) -> None:
    after = rerank_one(book(shares=[{"of": "small", "at_least": share}]), slate(order), RequestBatch.one(), k).items
    wanted = min(int(np.ceil(share * k - 1e-9)), 6)
    assert sum(int(item) % 4 == 3 for item in after) >= wanted
    assert len(after) == k
    if sum(item % 4 == 3 for item in order[:k]) >= wanted:
        assert after.tolist() == order[:k]


def test_another_visit_another_order() -> None:
    rules = book(rotation={"strength": 0.5, "keep": 2})
    many = Slates(
        np.arange(1001) * N, np.tile(np.arange(N, dtype=np.int32), 1000), np.tile(-np.arange(N, dtype=np.float32), 1000)
    )
    needs = RequestBatch(1000, NOW, users=np.arange(1000))
    once, again = rules.rerank(many, needs, N), rules.rerank(many, needs, N)
    assert np.array_equal(once.items, again.items)
    later = rules.rerank(many, RequestBatch(1000, NOW + 2 * DAY, users=np.arange(1000)), N)
    assert (once.items != later.items).mean() > 0.5
    first = once.items.reshape(1000, N)
    assert (first[:, :2] == [0, 1]).all()
    # The third place is drawn with weights r^(-1 / strength) = r^-2 of the places that move.
    weights = 1 / np.arange(1, N - 1) ** 2.0
    assert (first[:, 2] == 2).mean() == pytest.approx(weights[0] / weights.sum(), abs=0.05)


def test_exposure_comes_out_at_the_target() -> None:
    rules = book(exposure=[{"of": "small", "target": 0.3}])
    sums, rng = np.zeros((1, 3)), np.random.default_rng(0)
    for _ in range(300):
        items = rng.permutation(N).astype(np.int32)
        scores = rng.normal(size=N).astype(np.float32) - 2 * (items % 4 == 3)
        slates = Slates.best_first(np.array([0, N]), items, scores)
        request = RequestBatch.one(deficits=deficits(rules.rules.exposure, sums))
        sums += rules.exposure_sums(rules.rerank(slates, request, 8), request)
    assert sums[0, 0] / sums[0, 1] == pytest.approx(0.3, abs=0.02)
    assert sums[0, 2] == 300


def test_a_deficit_is_counted_in_lists_and_bounded() -> None:
    targets = book(exposure=[{"of": "small", "target": 0.5}, {"of": "small", "target": 0.1}]).rules.exposure
    assert deficits(targets, np.zeros((2, 3))).tolist() == [0, 0]
    sums = np.array([[2.0, 10.0, 5.0], [2.0, 10.0, 5.0]])
    assert deficits(targets, sums).tolist() == [1.5, -0.5]
    assert deficits(targets, 1e6 * sums).tolist() == [MAX_DEFICIT_LISTS, -MAX_DEFICIT_LISTS]


def test_many_requests_are_as_one_by_one() -> None:
    rules = book(filter="price < user.age", boosts=[{"when": "small", "add": "3"}], dedupe="variant",
                 caps=[{"per": "seller", "at_most": 2}], bought={"purchase": "never"})  # fmt: skip
    rng = np.random.default_rng(4)
    lists = [rng.permutation(N)[:15].astype(np.int32) for _ in range(6)]
    many = Slates(np.arange(7) * 15, np.concatenate(lists), np.tile(-np.arange(15, dtype=np.float32), 6))
    histories = Histories.of(np.array([0, 2, 2, 2, 3, 3, 3]), np.array([0, 1, 5]))
    ages = [2, 5, 7, 1, 3, 6]
    exclude = Ragged.of([[1], [], [2, 3], [], [], [20]])
    needs = RequestBatch(6, NOW, histories=histories, user=pl.DataFrame({"age": ages}), exclude=exclude)
    whole = rules.rerank(many, needs, 8)
    for row in range(6):
        out = exclude.values[exclude.offsets[row] : exclude.offsets[row + 1]].tolist()
        one = RequestBatch.one(now=NOW, history=histories.rows(row, row + 1), user={"age": ages[row]}, exclude=out)
        assert rerank_one(rules, many[row], one, 8).items.tolist() == whole[row].items.tolist()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"filtr": "price < 3"}, "filter"),
        ({"filter": 3}, "text"),
        ({"caps": {"per": "seller"}}, "list"),
        ({"caps": [{"per": "seller", "atmost": 2}]}, "at_most"),
        ({"caps": [{"at_most": 2}]}, "per"),
        ({"caps": [{"per": "seler"}]}, "seler"),
        ({"pins": {0: 3}}, "slot"),
        ({"pins": {1: 3, 2: 3}}, "two slots"),
        ({"bought": {"purchase": "sometimes"}}, "never"),
        ({"bought": {"purchased": "never"}}, "purchase"),
        ({"shares": [{"of": "small", "at_least": 2.0}]}, "at_least"),
        ({"stock": "seller"}, "kind"),
        ({"include": "3"}, "list"),
        ({"boosts": [{"when": "price <"}]}, "price"),
        ({"frequency": {"window": "0.5s"}}, "window"),
        ({"frequency": {"window": "91d"}}, "90d"),
        ({"frequency": {"window": "soon"}}, "soon"),
    ],
)
def test_what_cannot_be_written(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        book(**table)
    assert words in f"{error.value}"


def test_what_is_not_written_is_as_it_always_was() -> None:
    """A default is a promise: a settings file that does not name it means the same after an update."""
    rules = Rules.from_dict({
        "boosts": [{}], "caps": [{"per": "seller"}], "shares": [{"of": "small"}], "frequency": {}, "rotation": {},
        "exposure": [{"of": "small"}],
    })  # fmt: skip
    assert [dataclasses.asdict(rule) for rule in (*rules.boosts, *rules.caps, *rules.shares, *rules.exposure)] == [
        {"when": "", "multiply": "1", "add": "0"},
        {"per": "seller", "at_most": 2, "first": 0, "strict": False},
        {"of": "small", "at_least": 0.2},
        {"of": "small", "target": 0.1, "gain": 1.0, "half_life": "7d"},
    ]
    assert rules.frequency is not None
    assert rules.rotation is not None
    assert dataclasses.asdict(rules.frequency) == {"at_most": 3, "window": "7d"}
    assert dataclasses.asdict(rules.rotation) == {"strength": 0.2, "keep": 0, "every": "1d"}


@pytest.mark.parametrize(
    ("name", "key", "inside", "beyond"),
    [
        ("caps", "at_most", 1, 0),
        ("caps", "first", 0, -1),
        ("shares", "at_least", 0, -0.1),
        ("shares", "at_least", 1, 1.1),
        ("frequency", "at_most", 1, 0),
        ("frequency", "window", "1s", "999ms"),
        ("frequency", "window", "90d", "7776001s"),
        ("rotation", "strength", 0, -0.1),
        ("rotation", "strength", 10, 10.5),
        ("rotation", "keep", 0, -1),
        ("exposure", "target", 0, -0.1),
        ("exposure", "target", 1, 1.1),
        ("exposure", "gain", 0, -0.1),
        ("exposure", "half_life", "1m", "59s"),
        ("exposure", "half_life", "365d", "31536001s"),
    ],
)
def test_ends_of_ranges(name: str, key: str, inside: object, beyond: object) -> None:
    def written(value: object) -> dict[str, object]:
        table = {"caps": {"per": "seller"}, "shares": {"of": "small"}, "exposure": {"of": "small"}}.get(name, {})
        return {name: [table | {key: value}] if name in ("caps", "shares", "exposure") else table | {key: value}}

    Rules.from_dict(written(inside))
    with pytest.raises(ConfigError):
        Rules.from_dict(written(beyond))


@pytest.mark.parametrize(
    ("name", "value", "nothing_is_listed"),
    [
        ("filter", "colour = 'red'", True),
        ("stock", "colour", True),
        ("valid_from", "colour", True),
        ("valid_to", "colour", True),
        ("dedupe", "colour", False),
        ("caps", [{"per": "colour"}], False),
        ("boosts", [{"when": "colour = 'red'"}], False),
        ("bought", {"gift": "never"}, False),
    ],
)
def test_an_unusable_rule_is_left_out_and_hides_all_items_where_it_restricts_them(
    name: str, value: object, nothing_is_listed: bool
) -> None:
    rules = Rules.from_dict({name: value, "pins": {1: 3}})
    usable, reasons = usable_rules(rules, lambda some: Rulebook(some, FILTERS, kinds=KINDS))
    assert list(reasons) == [name]
    assert usable.pins == {1: 3}
    assert (usable.filter == MATCHES_NOTHING) == nothing_is_listed == hides_everything([name])
    assert name == "filter" or getattr(usable, name) == getattr(Rules(), name)


@pytest.mark.parametrize("name", ["include", "exclude", "exclud", "valid_form", "rules"])
def test_a_restricting_rule_that_cannot_be_read_hides_all_items(name: str) -> None:
    assert hides_everything([name])
