"""ItemKNN and UserKNN: each similarity equals its definition, written naively."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from tests.models.planted import assert_checkerboard
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.item_to_item import to_csr
from zhiyin.models.neighbors import SIMILARITIES, ItemKNN, UserKNN, add_squares
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestItemKNN(RecommenderConformance):
    def make(self) -> ItemKNN:
        return ItemKNN(k_neighbors=10, shrinkage=1.0)


class TestItemKNNOverBM25(RecommenderConformance):
    def make(self) -> ItemKNN:
        return ItemKNN(similarity="bm25", k_neighbors=10)


@pytest.mark.parametrize("similarity", ["cosine", "jaccard"])
def test_checkerboard(similarity: str) -> None:
    assert_checkerboard(ItemKNN(similarity=similarity, shrinkage=1.0))


def _naive(counts: np.ndarray, how: str, s: float, k1: float = 1.2, b: float = 0.75) -> np.ndarray:
    """All similarities of a users × items matrix of counts, float64."""
    ones = (counts > 0).astype(np.float64)
    _users, items = counts.shape
    if how in ("cosine", "jaccard"):
        x = ones
    elif how == "tfidf":
        x = np.sqrt(counts) * np.maximum(np.log(items / (1 + counts.sum(axis=1))), 0)[:, None]
    else:
        length = counts.sum(axis=0)
        rarity = np.maximum(np.log(items / (1 + ones.sum(axis=1))), 0)
        norm = k1 * (1 - b + b * length / length.mean())
        x = counts * (k1 + 1) / (counts + norm) * rarity[:, None]
    out = np.zeros((items, items))
    for i in range(items):
        for j in range(items):
            d = x[:, i] @ x[:, j]
            if i == j or d == 0:
                continue
            if how == "jaccard":
                out[i, j] = d / (x[:, i] @ x[:, i] + x[:, j] @ x[:, j] - d + s)
            elif how == "bm25":
                out[i, j] = d * d / (d + s)
            else:
                out[i, j] = d / (np.linalg.norm(x[:, i]) * np.linalg.norm(x[:, j]) + s)
    return out


@pytest.mark.parametrize("how", SIMILARITIES)
@pytest.mark.parametrize("shrinkage", [0.0, 5.0])
def test_equals_its_definition(how: str, shrinkage: float) -> None:
    data = shop(seed=3)
    model = ItemKNN(similarity=how, k_neighbors=1000, shrinkage=shrinkage).fit(data, Run(threads=2))
    wanted = _naive(data.matrix("count").toarray().astype(np.float64), how, shrinkage)
    np.testing.assert_allclose(model.similarities_.toarray(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", SIMILARITIES)
def test_only_the_largest_are_kept(how: str) -> None:
    data = shop(seed=3)
    every = ItemKNN(similarity=how, k_neighbors=1000).fit(data).similarities_.toarray()
    few = ItemKNN(similarity=how, k_neighbors=3).fit(data).similarities_.toarray()
    assert ((few > 0).sum(axis=1) == np.minimum((every > 0).sum(axis=1), 3)).all()
    for row in range(len(every)):
        np.testing.assert_array_equal(np.sort(few[row])[::-1][:3], np.sort(every[row])[::-1][:3])


class TestUserKNN(RecommenderConformance):
    def make(self) -> UserKNN:
        return UserKNN(k_neighbors=10, shrinkage=1.0)


class TestUserKNNOverBM25(RecommenderConformance):
    def make(self) -> UserKNN:
        return UserKNN(similarity="bm25", k_neighbors=10)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_checkerboard_by_users(similarity: str) -> None:
    assert_checkerboard(UserKNN(similarity=similarity, shrinkage=1.0))


def test_users_by_hand() -> None:
    """History {a, b}. Users {a, b, c}: 2 / sqrt(6); {a, d}: 1 / 2; {a, b} has nothing more; {e} shares nothing."""
    log = pl.DataFrame({"user": [1, 1, 1, 2, 2, 3, 3, 4], "item": [*"abc", *"ad", *"ab", "e"]})
    model = UserKNN(shrinkage=0.0).fit(Dataset.build(log))
    asked = Histories.from_items([["a", "b"]], model.context_.item_ids)
    near = model.neighbors(asked).toarray()[0]
    np.testing.assert_allclose(near, [2 / 6**0.5, 1 / 2, 0, 0], rtol=1e-6)
    first, second = near[:2]
    np.testing.assert_allclose(model.score(asked)[0], [first + second, first, first, second, 0], rtol=1e-6)
    assert model.recommend(3, k=2)["item"].to_list() == ["c", "d"]  # user 3 is who was asked about


@pytest.mark.parametrize("how", SIMILARITIES)
@pytest.mark.parametrize("k", [1, 5, 1000])
def test_scores_of_nearest_users_equal_their_definition(how: str, k: int) -> None:
    data = shop(seed=3)
    counts = data.matrix("count").toarray().astype(np.float64)
    ones = counts > 0
    # Users of the training data are items of the transposed matrix.
    alike = _naive(counts.T, how, 2.0)
    alike[(ones[:, None, :] >= ones[None, :, :]).all(axis=2)] = 0  # row had all that column had
    order = np.lexsort((np.broadcast_to(np.arange(len(alike)), alike.shape), -alike), axis=1)
    kept = np.zeros_like(alike)
    for row in range(len(alike)):
        kept[row, order[row, :k]] = alike[row, order[row, :k]]
    model = UserKNN(similarity=how, k_neighbors=k, shrinkage=2.0).fit(data)
    some = ones.any(axis=1)
    if k == 1000:  # which of two equals is kept may hang on rounding
        np.testing.assert_allclose(model.score(data.histories)[some], (kept @ ones)[some], rtol=1e-4, atol=1e-5)
    near = model.neighbors(data.histories, Run(threads=2)).toarray()
    np.testing.assert_allclose(np.sort(near), np.sort(kept), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("n_blocks", [1, 3, 11])
def test_a_table_summed_over_blocks_of_users_is_that_of_all_of_them(similarity: str, n_blocks: int) -> None:
    """Bit for bit: counts are whole numbers, and sums of weights go over the users in their order."""
    rng = np.random.default_rng(n_blocks)
    counts = sparse.random(400, 60, 0.1, "csr", np.float32, random_state=rng, data_rvs=lambda n: rng.integers(1, 5, n))
    model = ItemKNN(k_neighbors=8, similarity=similarity)
    if model.counted == "binary":
        counts.data[:] = 1
    rows, code = model.table_rows(counts)
    lengths = np.asarray(counts.sum(axis=0)).ravel()
    square, pairs = np.zeros(60, dtype=np.float32), np.bincount(counts.indices, minlength=60)
    sums, same_code = model.table_sums(pairs, square)
    blocks = []
    for start, stop in zip(bounds := np.linspace(0, 400, n_blocks + 1).astype(int), bounds[1:]):
        if code is None:
            users = model.weights(counts[start:stop], lengths)
            add_squares(users.indices, users.data, square)
        else:
            users = counts[start:stop][:, code].tocsr()
        items = users.T.tocsr()
        blocks.append((items.indptr, items.indices, items.data, users.indptr, users.indices, users.data))
    parts = [sums.run(blocks, start, min(start + 25, 60)) for start in range(0, 60, 25)]
    wanted = to_csr(*rows.run(Run(threads=1)), 60)  # sorts the neighbours of an item
    got = to_csr(*(np.concatenate(part) for part in zip(*parts)), 60)
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(got, part), getattr(wanted, part))
    assert (code is None) == (same_code is None)
    assert code is None or np.array_equal(code, same_code)
