"""Search for single requests: as good as scoring everything, whether all is read or an index is asked."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.core.errors import DataError
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models import ann_index, search_plan
from zhiyin.models.ann_index import Index
from zhiyin.models.masked_search import Compact, Mask, top_k_masked
from zhiyin.models.recommender import Recommender

ONE = zy.Run(threads=1)


def log(n_items: int = 400, n_users: int = 120, dislikes: bool = True) -> Dataset:
    """A log with repeated events, dislikes, users of dislikes alone and items that nobody had."""
    rng = np.random.default_rng(5)
    n = 3_000
    weight = rng.choice([1.0, 2.0, -1.0, 0.0], n, p=[0.7, 0.1, 0.15, 0.05]) if dislikes else np.ones(n)
    user = rng.integers(0, n_users, n)
    weight[user == 7] = -1.0
    item, time = (rng.random(n) ** 3 * n_items).astype(int), np.arange(n) * 60_000_000
    events = pl.DataFrame({"user": user, "item": item, "time": time, "weight": weight})
    return Dataset.build(events, items=pl.DataFrame({"id": np.arange(n_items)}))


@pytest.mark.parametrize(
    "model",
    [
        zy.Popular(half_life="1d"),
        zy.ItemKNN(),
        zy.ItemKNN(similarity="bm25"),
        zy.Transitions(),
        zy.ALS(factors=8, epochs=3),
    ],
    ids=lambda model: f"{type(model).__name__}",
)
@pytest.mark.parametrize("k", [5, 60, 1_000])
def test_one_history_at_a_time_gets_what_it_gets_among_others(model: Recommender, k: int) -> None:
    data = log()
    model.fit(data, ONE)
    allowed = np.random.default_rng(1).random(data.n_items) < 0.7
    histories = data.histories.take(np.r_[np.arange(40), -1])
    for exclude in (None, histories):
        items, scores = model.rank(histories, k, exclude=exclude, allowed=allowed, run=ONE)
        for row in range(len(histories)):
            one = histories.rows(row, row + 1)
            found, worth = model.rank(one, k, exclude=None if exclude is None else one, allowed=allowed, run=ONE)
            np.testing.assert_allclose(worth[0], scores[row], rtol=2e-5, atol=1e-6)
            # Equal scores may be told apart by the last bit where sums are made in another order.
            same = found[0] == items[row]
            near = np.isclose(worth[0], scores[row][np.arange(len(same))], rtol=2e-5, atol=1e-6)
            assert (same | near).all()
            assert same.mean() > 0.95


@pytest.mark.parametrize("how", ["binary", "weight", "count"])
def test_the_matrix_of_one_history_is_its_row_of_the_matrix_of_all(how: str) -> None:
    data = log()
    whole = data.histories.matrix(data.n_items, how)
    for row in range(len(data.histories)):
        one, there = data.histories.rows(row, row + 1).matrix(data.n_items, how), whole[row]
        assert one.dtype == there.dtype
        np.testing.assert_array_equal(one.indices, there.indices)
        np.testing.assert_allclose(one.data, there.data)
    assert Histories.of(np.zeros(2, np.int64), np.zeros(0, np.int32)).matrix(9, how).nnz == 0


# -- the index -------------------------------------------------------------------------------------------------------


def planted(n: int = 20_000, d: int = 16, clusters: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors around centres, the longer the more popular; queries near a centre; the cluster of each vector."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((clusters, d))
    own = rng.integers(0, clusters, n)
    length = rng.gamma(2, 0.5, n)[:, None]
    vectors = (centres[own] + 0.3 * rng.standard_normal((n, d))) * length
    queries = centres[rng.integers(0, clusters, 300)] + 0.2 * rng.standard_normal((300, d))
    return vectors.astype(np.float32), queries.astype(np.float32), own


VECTORS, ASKED, OWN = planted()
COMPACT = Compact.of(VECTORS)
INVERSE = (1 / np.linalg.norm(VECTORS, axis=1)).astype(np.float32)


@pytest.fixture(scope="module")
def index() -> Index:
    return Index.build(VECTORS, ASKED[:200], COMPACT, lists=100, run=ONE)


def masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    by_chance = {f"{share:g}": rng.random(len(VECTORS)) < share for share in (1.0, 0.5, 0.05, 0.005)}
    return by_chance | {"some clusters": OWN < 20, "ten items": np.arange(len(VECTORS)) % 2_000 == 7}


@pytest.mark.parametrize("name", masks())
def test_the_index_finds_the_best_of_what_passes_and_nothing_else(index: Index, name: str) -> None:
    bits, k = masks()[name], 100
    mask = Mask.of(bits)
    rng = np.random.default_rng(2)
    found = total = 0
    for query in ASKED[200:250]:
        exact, _ = top_k_masked(VECTORS, query, mask, 2 * k)
        out = np.unique(np.r_[exact[0][exact[0] >= 0][::3], rng.integers(0, len(VECTORS), 20)]).astype(np.int32)
        exclude = (np.array([0, len(out)]), out)
        best, _ = top_k_masked(VECTORS, query, mask, k, exclude=exclude)
        items, scores = index.search(VECTORS, query, mask, k, exclude=exclude, compact=COMPACT)
        real = items[0][items[0] >= 0]
        passing = np.count_nonzero(bits) - np.count_nonzero(bits[out])
        assert len(real) == min(k, passing) == len(set(real.tolist()))
        assert bits[real].all()
        assert not np.isin(real, out).any()
        np.testing.assert_allclose(scores[0][: len(real)], VECTORS[real] @ query, rtol=1e-4, atol=1e-4)
        assert (np.diff(scores[0][: len(real)]) <= 0).all()
        found, total = found + np.isin(real, best[0]).sum(), total + len(real)
    assert found / total >= 0.98


def test_the_index_looks_at_few_items_and_knows_its_recall(index: Index) -> None:
    assert index.wanted <= index.filtered < len(VECTORS) / 2
    assert list(index.recall) == ["none", "by chance", "near 1", "near 2", "near 3", "near 4"]
    assert min(index.recall.values()) >= ann_index.TARGET_RECALL
    exact, _ = top_k_masked(VECTORS, ASKED[200:], Mask.of(np.ones(len(VECTORS), bool)), 100)
    items, _ = index.search(VECTORS, ASKED[200:], Mask.of(np.ones(len(VECTORS), bool)), 100)
    measured = np.mean([np.isin(a, b).mean() for a, b in zip(items, exact)])
    assert measured == pytest.approx(index.recall["none"], abs=0.01)


def test_similar_items_by_the_index_are_those_by_cosine() -> None:
    rows = np.arange(0, 4_000, 20)
    queries = VECTORS[rows] * INVERSE[rows, None]
    index = Index.build(VECTORS, queries, COMPACT, scale=INVERSE, lists=100, run=ONE)
    every = Mask.of(np.ones(len(VECTORS), bool))
    asked = np.arange(5, 500, 10)
    unit = VECTORS * INVERSE[:, None]
    items, scores = index.search(VECTORS, unit[asked], every, 50, compact=COMPACT, scale=INVERSE)
    cosine = unit[asked] @ unit.T
    best = np.argsort(-cosine, axis=1)[:, :50]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(items, best)]) >= 0.98
    np.testing.assert_allclose(scores, np.take_along_axis(cosine, items.astype(np.int64), axis=1), atol=1e-5)


def test_equal_vectors_come_by_priority_and_numbers_that_are_none_are_not_returned() -> None:
    vectors = np.tile(np.float32([1, 2]), (3_000, 1))
    vectors[5] = np.nan
    priority = np.random.default_rng(0).permutation(len(vectors)).astype(np.int32)
    priority[[5, int(np.argmax(priority))]] = priority[[int(np.argmax(priority)), 5]]
    index = Index.build(vectors, vectors[100:140], Compact.of(vectors), lists=20, run=ONE)
    every = Mask.of(np.ones(len(vectors), bool))
    query = np.float32([1, 1])
    items, _ = index.search(vectors, query, every, 10, priority=priority)
    assert items[0].tolist() == [item for item in np.argsort(-priority) if item != 5][:10]


def test_the_same_seed_makes_the_same_index(index: Index) -> None:
    again = Index.build(VECTORS, ASKED[:200], COMPACT, lists=100, run=ONE)
    np.testing.assert_array_equal(again.members, index.members)
    np.testing.assert_array_equal(again.means, index.means)
    assert dataclasses.astuple(again)[4:] == dataclasses.astuple(index)[4:]


# -- models that have one --------------------------------------------------------------------------------------------

APPROXIMATE = zy.Run(threads=1, approximate=True)


@pytest.fixture(scope="module")
def fitted() -> zy.ALS:
    return zy.ALS(factors=8, epochs=2).fit(log(3_000, 300, dislikes=False), ONE)


@pytest.fixture
def indexed(fitted: zy.ALS, monkeypatch: pytest.MonkeyPatch) -> zy.ALS:
    """A model of a catalogue that counts as large."""
    monkeypatch.setattr(ann_index, "MIN_INDEXED_ITEMS", 1_000)
    monkeypatch.setattr(ann_index, "MAX_EXHAUSTIVE_ITEMS", 100)
    monkeypatch.setattr(Index, "is_faster", lambda self, mask, k: mask.count > 100)
    fitted.prepare(ONE)
    return fitted


def test_a_saved_model_brings_its_index_and_answers_by_it_where_it_is_asked_to(indexed: zy.ALS, tmp_path: Path) -> None:
    indexed.save(tmp_path / "als")
    loaded = zy.load(tmp_path / "als")
    known = indexed._cached_for_items("indices", dict)
    there = loaded._cached_for_items("indices", dict)
    assert set(there) == set(known) == {"dot", "cosine"}
    assert isinstance(there["dot"].members.base, np.memmap)
    asked: list[int] = []
    for model in (indexed, loaded):
        inner = model._cached_for_items("indices", dict)["dot"]
        history = model.context_.histories.rows(3, 4)
        inner_wanted = inner.candidates(model.encode(history)[0], np.zeros(0, bool), inner.wanted)
        asked.append(len(inner_wanted))
        assert len(inner_wanted) < 3_000
    assert asked[0] == asked[1]
    for row in range(20):
        history = loaded.context_.histories.rows(row, row + 1)
        one = indexed.rank(history, 20, exclude=history, run=APPROXIMATE)
        two = loaded.rank(history, 20, exclude=history, run=APPROXIMATE)
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    assert loaded.similar([5], 10).equals(indexed.similar([5], 10))


def test_without_being_asked_to_a_model_answers_exactly(indexed: zy.ALS, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[str] = []
    put_index = search_plan.put_index

    def spied(table, base, index):  # type: ignore[no-untyped-def]
        placed.append("index")
        put_index(table, base, index, max_places=0, max_exhaustive=100)

    monkeypatch.setattr(search_plan, "put_index", spied)
    vars(indexed).pop("_plans", None)
    history = indexed.context_.histories.rows(0, 1)
    exact = indexed.rank(history, 30, run=ONE)
    indexed.rank(indexed.context_.histories.rows(0, 50), 30, run=APPROXIMATE)  # many at once are multiplied
    whole = zy.Pipeline.wrapping(indexed)
    whole.rank(history, 30, run=ONE)
    assert not placed
    near = indexed.rank(history, 30, run=APPROXIMATE)
    assert len(placed) == 1
    assert np.isin(near[0], exact[0]).mean() > 0.9
    inner = indexed._cached_for_items("indices", dict)["dot"]
    for row in np.flatnonzero(indexed.context_.histories.positives)[:20]:
        one = indexed.context_.histories.rows(row, row + 1)
        again = inner.search(
            indexed.item_vectors_, indexed.encode(one), indexed.context_.mask(), 30,
            priority=indexed.context_.priority, exclude=(one.offsets, one.items), compact=indexed._compact(),
        )  # fmt: skip
        found = indexed.rank(one, 30, exclude=one, run=APPROXIMATE)
        assert found[0].tolist() == again[0].tolist()
    vars(indexed).pop("_plans", None)


def test_learning_again_forgets_the_index_and_a_small_catalogue_has_none(tmp_path: Path) -> None:
    model = zy.ALS(factors=4, epochs=1).fit(log(100, 50), ONE)
    model._cached_for_items("indices", lambda: {"dot": "an old one"})
    model.fit(log(100, 50), ONE)
    assert model._cached_for_items("indices", dict) == {}
    model.save(tmp_path / "m")
    assert not (tmp_path / "m" / "index.json").exists()
    assert zy.load(tmp_path / "m")._cached_for_items("indices", dict) == {}


def test_an_index_that_is_damaged_or_of_other_vectors_is_not_loaded(indexed: zy.ALS, tmp_path: Path) -> None:
    for number, damage in enumerate(("missing", "other", "text")):
        folder = tmp_path / str(number)
        indexed.save(folder)
        if damage == "missing":
            (folder / "index.dot.members.npy").unlink()
        elif damage == "other":
            np.save(folder / "index.codes.npy", np.zeros((3, 3), np.int8))
        else:
            (folder / "index.json").write_text("{}")
        with pytest.raises(DataError, match=r"missing or damaged|does not hold what it should"):
            zy.load(folder)
