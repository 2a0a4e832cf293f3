"""Where a peer defines a model as we do, with the same settings it comes to the same numbers."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import sparse

import zhiyin as zy

nearest = pytest.importorskip("implicit.nearest_neighbours", reason="implicit is not installed: zhiyin[peers]")
from implicit.cpu.als import AlternatingLeastSquares  # noqa: E402

USERS, ITEMS = 60, 40


@pytest.fixture(scope="module")
def data() -> zy.Dataset:
    """Some users come back to an item; each user and each item has an event."""
    rng = np.random.default_rng(4)
    user = np.concatenate([np.arange(USERS), rng.integers(0, USERS, 900)])
    item = np.concatenate([np.arange(USERS) % ITEMS, (ITEMS * rng.random(900) ** 2).astype(int)])
    return zy.Dataset.build(pl.DataFrame({"user": user, "item": item}))


def dense(table: sparse.csr_matrix) -> np.ndarray:
    """Without what an item has to say of itself, which we leave out."""
    found = table.toarray().astype(np.float64)
    np.fill_diagonal(found, 0)
    return found


@pytest.mark.parametrize("how", ["cosine", "bm25"])
def test_items_are_as_alike_as_implicit_has_it(data: zy.Dataset, how: str) -> None:
    ours = zy.ItemKNN(similarity=how, k_neighbors=ITEMS - 1, shrinkage=0.0, k1=1.2, b=0.75).fit(data)
    kind = {"cosine": nearest.CosineRecommender, "bm25": nearest.BM25Recommender}[how]
    theirs = kind(K=ITEMS, num_threads=1)
    theirs.fit(data.matrix("binary" if how == "cosine" else "count").astype(np.float64), show_progress=False)
    want, got = dense(theirs.similarity), dense(ours.similarities_)
    assert np.count_nonzero(want) > 300
    np.testing.assert_allclose(got, want if how == "cosine" else np.maximum(want, 0), rtol=2e-5, atol=1e-6)


def test_users_have_the_vectors_that_implicit_solves_for(data: zy.Dataset) -> None:
    """One half sweep from the same item vectors. Their confidence is alpha, ours 1 + alpha."""
    ours = zy.ALS(factors=8, alpha=3.0, reg=0.7, epochs=3, solver="exact").fit(data)
    theirs = AlternatingLeastSquares(
        factors=8, alpha=4.0, regularization=0.7, use_cg=False, num_threads=1, dtype=np.float32
    )
    theirs.item_factors = np.array(ours.item_vectors_)
    rows = data.matrix("binary").tocsr()
    want = np.stack([theirs.recalculate_user(0, rows[[user]]) for user in range(USERS)])
    weights = data.histories.matrix(ITEMS, "weight")
    once = np.flatnonzero((weights.toarray() <= 1).all(axis=1))  # they are told of ones
    assert len(once) > 3
    np.testing.assert_allclose(ours.encode(data.histories)[once], want[once], rtol=2e-4, atol=1e-5)


def test_lists_have_the_scores_that_lenskit_gives(data: zy.Dataset) -> None:
    knn = pytest.importorskip("lenskit.knn", reason="LensKit is not installed: zhiyin[peers]")
    from lenskit.data import ItemList, RecQuery, from_interactions_df

    log = data.events.select(user_id="user", item_id="item").unique(maintain_order=True).to_pandas()
    theirs = knn.ItemKNNScorer(max_nbrs=1_000, min_nbrs=1, min_sim=1e-9, save_nbrs=None, feedback="implicit")
    theirs.train(from_interactions_df(log))
    ours = zy.ItemKNN(similarity="cosine", k_neighbors=ITEMS - 1, shrinkage=0.0).fit(data)
    want = np.zeros((USERS, ITEMS))
    for user, items in log.groupby("user_id")["item_id"]:
        asked = RecQuery(user_id=user, user_items=ItemList(items.to_numpy()))
        want[user] = np.nan_to_num(theirs(asked, ItemList(np.arange(ITEMS))).scores())
    assert want.max() > 5
    np.testing.assert_allclose(ours.score(data.histories), want, rtol=1e-5, atol=1e-5)
