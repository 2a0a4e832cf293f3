"""The compiled search of each model gives the best of its scores, as a sort of all of them does."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import zhiyin as zy
from zhiyin.core.array_table import ArrayTable
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.models import search_plan
from zhiyin.models.masked_search import MIN_COMPACT_ITEMS, Compact, Mask, top_k_masked
from zhiyin.models.recommender import Recommender
from zhiyin.models.selection import best_first, item_key, key_score, kth_largest, score_key
from zhiyin.models.topk import top_k

N = 60
ONE = Run(threads=1)
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 1.0, 0.5, 2.0, -1.0, 1e-30, 3e38, -3e38, 0.1, float("inf")])


@pytest.fixture(scope="module")
def data() -> zy.Dataset:
    rng = np.random.default_rng(0)
    items = np.minimum(rng.zipf(1.3, 900) - 1, N - 1)
    users = np.sort(rng.integers(0, 40, 900))
    return zy.Dataset.build(
        pl.DataFrame({"user": users, "item": [f"i{i:02}" for i in items], "time": np.arange(900)}),
        items=pl.DataFrame({"id": [f"i{i:02}" for i in range(N)], "category": [f"c{i % 7}" for i in range(N)]}),
    )


def _models(data: zy.Dataset) -> list[Recommender]:
    from zhiyin.models.registry import parse

    texts = (
        "popular", "popular:half_life=1d", "itemknn:k_neighbors=5", "itemknn:similarity=bm25", "transitions",
        "transitions:last=3,k_neighbors=4,repeats=1", "rp3beta", "userknn:k_neighbors=8", "puresvd:factors=5",
        "puresvd:factors=3,entries=weight", "als:factors=5,epochs=2", "als:factors=8,epochs=2,solver=exact",
        "als:factors=4,epochs=2,reg_power=0.7", "bpr:factors=4,epochs=2", "hybrid:base=als", "popularincategory",
        "random", "slim",
    )  # fmt: skip
    return [parse(text).fit(data, ONE) for text in texts]


@pytest.fixture(scope="module")
def models(data: zy.Dataset) -> list[Recommender]:
    return _models(data)


def _histories(draw: Any, n: int, n_items: int) -> Histories:
    rows = [
        draw(st.lists(st.tuples(st.integers(0, n_items - 1), st.sampled_from([1.0, 1.0, 0.0, -1.0, 3.0])), max_size=12))
        for _ in range(n)
    ]
    flat = [event for row in rows for event in row]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Histories.of(
        offsets,
        np.array([item for item, _ in flat], np.int32),
        weights=np.array([weight for _, weight in flat], np.float32),
        times=np.arange(len(flat), dtype=np.int64),
    )


def _mask(draw: Any, n_items: int) -> Mask:
    share = draw(st.sampled_from([0.0, 1 / 64, 0.2, 0.7, 1.0]))
    bits = np.random.default_rng(draw(st.integers(0, 99))).random(n_items) < share
    return Mask.of(bits) if draw(st.booleans()) else Mask.of_rows(np.flatnonzero(bits)[::-1], n_items)


def _best(scores: np.ndarray, k: int, model: Recommender, mask: Mask, out: Histories) -> tuple[np.ndarray, np.ndarray]:
    context = model._context()
    bits = mask.bits & context.candidates
    return top_k(scores, k, context.priority, bits, (out.offsets, np.asarray(out.items)), ONE)


def _check_same(
    found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray], scores: np.ndarray
) -> None:
    """Equal lists; where scores of the two differ by rounding alone, items may have changed places."""
    np.testing.assert_allclose(found[1], wanted[1], rtol=2e-5, atol=1e-6)
    for row in range(len(scores)):
        assert (found[0][row] >= 0).tolist() == (wanted[0][row] >= 0).tolist()
        assert len(set(found[0][row][found[0][row] >= 0])) == (found[0][row] >= 0).sum()
        moved = (found[0][row] != wanted[0][row]) & (found[0][row] >= 0)
        np.testing.assert_allclose(
            scores[row, found[0][row, moved]], scores[row, wanted[0][row, moved]], rtol=2e-5, atol=1e-6
        )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_lists_are_those_of_all_scores(models: list[Recommender], draw: st.DataObject) -> None:
    model = models[draw.draw(st.integers(0, len(models) - 1))]
    n_items = len(model._context().item_ids)
    n, k = draw.draw(st.integers(1, 5)), draw.draw(st.integers(1, n_items))
    histories, out = _histories(draw.draw, n, n_items), _histories(draw.draw, n, n_items)
    mask = _mask(draw.draw, n_items)
    scores = model.score(histories, ONE)
    found = model.rank(histories, k, exclude=out, allowed=mask, run=ONE)
    _check_same(found, _best(scores.copy(), k, model, mask, out), scores)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sources_in_one_table(models: list[Recommender], draw: st.DataObject) -> None:
    """Several models in one table, at different bases; what the kernel writes is what `rank` gives."""
    chosen = [models[i] for i in draw.draw(st.permutations(range(len(models))))[:4]]
    table = ArrayTable(4 * search_plan.SOURCE_SLOTS)
    bases = [search_plan.SOURCE_SLOTS * number for number in range(4)]
    kinds = [search_plan.put_source(table, base, model, ONE) for base, model in zip(bases, chosen)]
    n_items = len(chosen[0]._context().item_ids)
    history, out = _histories(draw.draw, 1, n_items), _histories(draw.draw, 1, n_items)
    mask, k = chosen[0]._context().mask(_mask(draw.draw, n_items)), draw.draw(st.integers(1, 20))
    for base, kind, model in zip(bases, kinds, chosen):
        if kind == search_plan.LIST:
            continue
        query = np.zeros(0, np.float32)
        if kind == search_plan.VECTORS:
            query = model.encode(history, ONE)[0]
        items, scores = np.empty(k, np.int32), np.empty(k, np.float32)
        n = search_plan.search_source(
            table.words, base, mask.words, history.items, history.weights, query, np.sort(out.items), items, scores
        )
        wanted = model.rank(history, k, exclude=out, allowed=mask, run=ONE)
        assert items.tolist() == wanted[0][0].tolist()
        assert scores.tolist() == wanted[1][0].tolist()
        assert n == (items >= 0).sum()


def test_kinds(models: list[Recommender]) -> None:
    kinds = {}
    for model in models:
        kinds.setdefault(type(model).__name__, search_plan.SearchPlan(model, ONE).kind)
    exact = next(model for model in models if isinstance(model, zy.ALS) and model.solver == "exact")
    assert search_plan.SearchPlan(exact, ONE).kind == search_plan.FOLDED_VECTORS
    assert kinds == {
        "Popular": search_plan.POPULAR, "ItemKNN": search_plan.TABLE, "RP3beta": search_plan.TABLE,
        "SLIM": search_plan.TABLE, "Transitions": search_plan.RECENT_TABLE, "UserKNN": search_plan.LIST,
        "PureSVD": search_plan.FOLDED_VECTORS, "ALS": search_plan.VECTORS, "BPR": search_plan.VECTORS,
        "Hybrid": search_plan.VECTORS, "PopularInCategory": search_plan.LIST, "Random": search_plan.LIST,
    }  # fmt: skip


def test_a_model_of_ones_own_is_searched_by_its_own_scores(data: zy.Dataset) -> None:
    class Upside(zy.ItemKNN):
        def _score(self, histories: Histories, run: Run) -> np.ndarray:
            return -super()._score(histories, run)

    class Queried(zy.ALS):
        def encode(self, histories: Histories, run: Run | None = None) -> np.ndarray:
            return -super().encode(histories, run)

    class Reversed(zy.ItemKNN):
        def rank(self, *args: Any, **options: Any) -> Any:
            items, scores = super().rank(*args, **options)
            return items[:, ::-1], scores[:, ::-1]

    upside, queried, reversed_ = Upside().fit(data, ONE), Queried(factors=4).fit(data, ONE), Reversed().fit(data, ONE)
    assert search_plan.SearchPlan(upside, ONE).kind == search_plan.LIST
    assert search_plan.SearchPlan(queried, ONE).kind == search_plan.VECTORS
    assert search_plan.SearchPlan(reversed_, ONE).kind == search_plan.LIST
    history = data.histories.rows(0, 1)
    for model in (upside, queried):
        scores = model.score(history, ONE)
        wanted = _best(scores.copy(), 9, model, Mask.of(np.ones(data.n_items, bool)), history)
        _check_same(model.rank(history, 9, exclude=history, run=ONE), wanted, scores)


def test_a_model_fitted_again_and_a_copy_are_searched_by_what_they_have_learned(data: zy.Dataset) -> None:
    model = zy.ALS(factors=4, epochs=1).fit(data, ONE)
    history = data.histories.rows(0, 1)
    before = model.rank(history, 5, run=ONE)
    twin = copy.deepcopy(model)
    twin.item_vectors_ = -model.item_vectors_
    twin.gram_ = twin.item_vectors_.T @ twin.item_vectors_
    np.testing.assert_allclose(twin.rank(history, 5, run=ONE)[1], before[1], rtol=1e-5)  # (-x)(-y) = x y
    twin.item_vectors_ = np.zeros_like(model.item_vectors_)
    assert twin.rank(history, 5, run=ONE)[1].tolist() == [[0] * 5]
    assert model.rank(history, 5, run=ONE)[1].tolist() == before[1].tolist()
    half = zy.Dataset.build(data.events.head(400).select("user", "item", "time"))
    model.fit(half, ONE)
    history = half.histories.rows(0, 1)
    scores = model.score(history, ONE)
    nothing = half.histories.take(np.array([-1]))
    wanted = _best(scores.copy(), 5, model, Mask.of(np.ones(half.n_items, bool)), nothing)
    _check_same(model.rank(history, 5, run=ONE), wanted, scores)


# -- the searches by themselves ------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_selection_is_a_sort(draw: st.DataObject) -> None:
    n, k = draw.draw(st.integers(1, 700)), draw.draw(st.integers(1, 400))
    rng = np.random.default_rng(draw.draw(st.integers(0, 999)))
    some = np.array(draw.draw(st.lists(NUMBERS, min_size=1, max_size=6)), np.float32)
    scores = np.where(
        rng.random(n) < draw.draw(st.sampled_from([0.0, 0.5, 1.0])), rng.normal(size=n), rng.choice(some, n)
    )
    scores = scores.astype(np.float32)
    items, priority = rng.permutation(n).astype(np.int32), rng.permutation(n).astype(np.int32)
    keys = np.array([item_key(score, item, priority) for score, item in zip(scores, items)])
    order = np.lexsort((-priority[items], -scores))
    assert (keys >= kth_largest(keys, n, k, 0)).sum() == min(k, n)
    bar = kth_largest(keys, n, k, 10)
    assert min(n, k) <= (keys >= bar).sum() <= min(n, k + 10)
    assert [key_score(score_key(score)) for score in scores] == scores.tolist()
    wanted = items[order][:k].tolist(), scores[order][:k].tolist()
    items_out, scores_out = np.empty(k, np.int32), np.empty(k, np.float32)
    size = best_first(keys, items, scores, n, items_out, scores_out)
    assert (items_out[:size].tolist(), scores_out[:size].tolist()) == wanted
    assert (items_out[size:] == -1).all()
    assert (scores_out[size:] == -np.inf).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_compact_search_is_exact(draw: st.DataObject) -> None:
    """Of vectors with ties, zeros, outliers and numbers that are not finite, by places in order and by rows."""
    rng = np.random.default_rng(draw.draw(st.integers(0, 9999)))
    n, d = draw.draw(st.integers(1, 600)), draw.draw(st.sampled_from([1, 2, 8, 31, 32, 33, 64, 65, 100, 130]))
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    vectors *= rng.exponential(size=(n, 1)) ** draw.draw(st.sampled_from([0, 1, 4]))
    vectors[rng.random(n) < 0.2] = rng.normal(size=d).astype(np.float32)
    vectors[rng.random(n) < 0.1] = 0
    if draw.draw(st.booleans()):
        vectors[rng.random(vectors.shape) < 0.01] = draw.draw(st.sampled_from([np.nan, 1e30, -1e-30]))
    query = rng.normal(size=d).astype(np.float32) * np.float32(draw.draw(st.sampled_from([0, 1e-3, 1, 1e6])))
    if draw.draw(st.sampled_from([False] * 9 + [True])):
        query[0] = draw.draw(st.sampled_from([np.nan, np.inf]))
    k, mask = draw.draw(st.integers(1, n)), _mask(draw.draw, n)
    priority = rng.permutation(n).astype(np.int32)
    out = np.sort(rng.integers(0, n, draw.draw(st.integers(0, 30)))).astype(np.int32)
    scale = rng.random(n).astype(np.float32) if draw.draw(st.booleans()) else np.zeros(0, np.float32)
    compact, rows = Compact.of(vectors), mask.rows
    items, scores = np.empty(k, np.int32), np.empty(k, np.float32)
    everywhere = not mask.is_sparse
    search_plan.search_compact(
        compact.codes, compact.steps, compact.order, compact.lengths, vectors, scale, query, mask.bits,
        mask.is_sparse, rows, compact.places, everywhere, 1 << 40, out, priority, items, scores,
    )  # fmt: skip
    plain, plain_scores = np.empty(k, np.int32), np.empty(k, np.float32)
    search_plan.search_rows(vectors, scale, query, rows, len(rows), out, priority, plain, plain_scores)
    assert items.tolist() == plain.tolist()
    assert scores.tolist() == plain_scores.tolist()
    with np.errstate(all="ignore"):
        dense = (vectors.astype(np.float64) @ query.astype(np.float64)) * (scale if len(scale) else 1)
    left = [i for i in rows.tolist() if dense[i] > -np.inf and i not in set(out.tolist())]
    finite = [i for i in left if np.isfinite(dense[i]) and abs(dense[i]) < 1e30]
    if len(finite) == len(left):
        size = np.linalg.norm(np.nan_to_num(vectors[left]), axis=1).max(initial=0) * np.linalg.norm(query)
        wanted = np.sort(dense[left])[::-1][:k]
        np.testing.assert_allclose(scores[: len(wanted)], wanted, rtol=1e-4, atol=1e-5 * size)
        assert (items[len(wanted) :] == -1).all()


@pytest.mark.parametrize("share", [0.7, 0.02])
def test_a_large_catalogue(share: float) -> None:
    """Of as many items as a compact search needs, by a model; and by `top_k_masked`."""
    rng = np.random.default_rng(5)
    n, d, k = 2 * MIN_COMPACT_ITEMS, 12, 50
    events = {"user": np.arange(n) // 400, "item": rng.permutation(n)}
    model = zy.PureSVD(factors=d).fit(zy.Dataset.build(pl.DataFrame(events)), ONE)
    model.item_vectors_ = (rng.normal(size=(n, d)) * rng.exponential(size=(n, 1))).astype(np.float32)  # type: ignore[misc]
    history = Histories.of(np.array([0, 4]), np.array([5, 6, 7, 99], np.int32))
    mask = Mask.of(rng.random(n) < share)
    scores = model.score(history, ONE)
    found = model.rank(history, k, exclude=history, allowed=mask, run=ONE)
    _check_same(found, _best(scores.copy(), k, model, mask, history), scores)
    again = top_k_masked(
        model.item_vectors_, model.encode(history, ONE), mask, k, priority=model.context_.priority,
        exclude=(history.offsets, history.items), compact=Compact.of(model.item_vectors_),
    )  # fmt: skip
    assert again[0].tolist() == found[0].tolist()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_tables_reach_the_best_items(models: list[Recommender], draw: st.DataObject) -> None:
    """Tables with equal sums, empty rows and stored zeros, for histories with repeats."""
    rng = np.random.default_rng(draw.draw(st.integers(0, 9999)))
    knn = models[2]
    n_items = len(knn._context().item_ids)
    dense = rng.integers(0, 3, (n_items, n_items)).astype(np.float32) / 2
    dense[rng.random(dense.shape) < draw.draw(st.sampled_from([0.0, 0.9, 1.0]))] = 0
    table = sparse.csr_matrix(dense)
    if table.nnz:
        table.data[0] = 0
    model = dataclasses.replace(knn)  # type: ignore[type-var]
    model.similarities_, model.context_ = table, knn.context_  # type: ignore[attr-defined, misc]
    histories, out = _histories(draw.draw, 2, n_items), _histories(draw.draw, 2, n_items)
    mask, k = _mask(draw.draw, n_items), draw.draw(st.integers(1, n_items))
    scores = model.score(histories, ONE)
    found = model.rank(histories, k, exclude=out, allowed=mask, run=ONE)
    wanted = _best(scores.copy(), k, model, mask, out)
    assert found[0].tolist() == wanted[0].tolist()
    assert found[1].tolist() == wanted[1].tolist()
