"""Variety: equal to the definitions written out slowly, over dense and sparse features alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tests.examples import examples
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.histories import Histories
from zhiyin.pipeline import diversity_rerankers
from zhiyin.pipeline.slate import Slates

N, D = 30, 5


def drawn(seed: int, requests: int = 3) -> tuple[Slates, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(N, D)).astype(np.float32)
    vectors[rng.random((N, D)) < 0.5] = 0
    lists = [rng.choice(N, rng.integers(0, 15), replace=False) for _ in range(requests)]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in lists])])
    items = np.concatenate(lists).astype(np.int32)
    return Slates.best_first(offsets, items, rng.normal(size=len(items)).astype(np.float32)), vectors


def scaled(scores: np.ndarray) -> np.ndarray:
    """The best 1, the last 0."""
    span = scores.max() - scores.min()
    return (scores - scores.min()) / span if span > 0 else np.ones(len(scores))


def cosines(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.where(length > 0, length, 1)[:, None]
    return (unit @ unit.T).astype(np.float64)


@settings(max_examples=examples(30))
@given(seed=st.integers(0, 10_000), k=st.integers(1, 8), balance=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_mmr_is_its_definition(seed: int, k: int, balance: float) -> None:
    slates, vectors = drawn(seed)
    near = cosines(vectors)
    dense = diversity_rerankers.mmr(slates, vectors, k, balance=balance)
    thin = diversity_rerankers.mmr(slates, sparse.csr_matrix(vectors), k, balance=balance)
    for row in range(len(slates)):
        items, worth = slates[row].items, scaled(slates[row].scores) if len(slates[row].items) else np.zeros(0)
        chosen: list[int] = []
        while len(chosen) < min(k, len(items)):
            left = [at for at in range(len(items)) if at not in chosen]
            value = [
                balance * worth[at] - (1 - balance) * max((near[items[at], items[c]] for c in chosen), default=0.0)
                for at in left
            ]
            taken = dense[row].items[len(chosen)]
            place = int(np.flatnonzero(items == taken)[0])
            assert value[left.index(place)] == pytest.approx(max(value), abs=1e-4)  # ties by rounding apart
            chosen.append(place)
        assert sorted(dense[row].items) == sorted(items) == sorted(thin[row].items)


@settings(max_examples=examples(30))
@given(seed=st.integers(0, 10_000), k=st.integers(1, 5))
def test_dpp_takes_what_adds_most_to_the_determinant(seed: int, k: int) -> None:
    slates, vectors = drawn(seed)
    balance = 0.6
    found = diversity_rerankers.dpp(slates, vectors, k, balance=balance)
    near = (1 + cosines(vectors)) / 2
    np.fill_diagonal(near, 1.0)
    for row in range(len(slates)):
        items = slates[row].items
        if not len(items):
            continue
        quality = np.exp(balance / (2 * (1 - balance)) * scaled(slates[row].scores))
        kernel = quality[:, None] * near[np.ix_(items, items)] * quality[None, :]
        chosen: list[int] = []
        for taken in found[row].items[: min(k, len(items))]:
            place = int(np.flatnonzero(items == taken)[0])
            gains = {
                at: np.linalg.det(kernel[np.ix_([*chosen, at], [*chosen, at])])
                for at in range(len(items)) if at not in chosen
            }  # fmt: skip
            if max(gains.values()) < 1e-6:
                break
            assert gains[place] == pytest.approx(max(gains.values()), rel=1e-3, abs=1e-7)
            chosen.append(place)


def test_calibrated_lists_follow_what_is_wanted() -> None:
    categories = sparse.csr_matrix(np.eye(3)[np.arange(N) % 3])
    items = np.concatenate([np.arange(0, N, 3), np.arange(1, N, 3), np.arange(2, N, 3)]).astype(np.int32)
    scores = -np.arange(N, dtype=np.float32)
    slates = Slates.best_first(np.array([0, N]), items, scores)
    wanted = np.array([[0.5, 0.3, 0.2]])
    found = diversity_rerankers.calibrate(slates, categories, wanted, 10, balance=0.0)
    assert np.bincount(found[0].items[:10] % 3, minlength=3).tolist() == [5, 3, 2]
    assert np.array_equal(diversity_rerankers.calibrate(slates, categories, wanted, 10, balance=1.0)[0].items, items)
    nothing = diversity_rerankers.calibrate(slates, categories, np.zeros((1, 3)), 10)
    assert np.array_equal(nothing[0].items, items)
    # What stands in front of its kind stays in front of it.
    of_first = [item for item in found[0].items[:10] if item % 3 == 0]
    assert of_first == sorted(of_first)


def test_a_history_is_spread_over_categories_by_its_weights() -> None:
    categories = sparse.csr_matrix(np.array([[1, 0], [0.5, 0.5], [0, 0]]))
    had = Histories.of(np.array([0, 3, 3]), np.array([0, 1, 2]), weights=np.array([1, 2, 5], np.float32))
    assert diversity_rerankers.category_shares(had, categories).tolist() == [[2 / 3, 1 / 3], [0, 0]]


@pytest.mark.parametrize("balance", [0.99, 0.998, 0.999, 0.99999, 1.0])
@pytest.mark.parametrize("sparsely", [False, True])
def test_of_score_alone_a_dpp_takes_the_best_scores(balance: float, sparsely: bool) -> None:
    slates, vectors = drawn(3)
    table = sparse.csr_matrix(vectors) if sparsely else vectors
    found = diversity_rerankers.dpp(slates, table, 5, balance=balance)
    assert found.items[:5].tolist() == diversity_rerankers.mmr(slates, table, 5, balance=1.0).items[:5].tolist()


def test_what_cannot_be() -> None:
    slates, vectors = drawn(1)
    with pytest.raises(ConfigError):
        diversity_rerankers.mmr(slates, vectors, 3, balance=1.5)
    with pytest.raises(DataError):
        diversity_rerankers.mmr(slates, vectors[:3], 3)
    with pytest.raises(DataError, match="wanted"):
        diversity_rerankers.calibrate(slates, sparse.csr_matrix((N, 2)), np.zeros((1, 2)), 3)
