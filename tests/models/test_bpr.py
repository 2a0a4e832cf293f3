"""BPR: a step is the gradient of its loss, negatives are drawn as promised, and the planted answer is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from tests.models.planted import assert_checkerboard, checkerboard
from zhiyin.core.run import Run
from zhiyin.models import bpr
from zhiyin.models.bpr import BPR, Plan
from zhiyin.testing.recommender import RecommenderConformance, assert_same_state, shop


class TestBPR(RecommenderConformance):
    def make(self) -> BPR:
        return BPR(factors=8, epochs=5, fold_epochs=5)


class TestBPRAdaptive(RecommenderConformance):
    def make(self) -> BPR:
        return BPR(factors=4, epochs=4, fold_epochs=4, negatives="adaptive")


@pytest.mark.parametrize("negatives", ["uniform", "popular", "adaptive"])
def test_checkerboard(negatives: str) -> None:
    assert_checkerboard(BPR(factors=4, epochs=60, learning_rate=0.2, negatives=negatives, rank_share=0.5))


def _loss(x: np.ndarray, y: np.ndarray, bias: np.ndarray, reg: float) -> float:
    """Of one user who took item 0 and not item 1."""
    d = x[0] @ (y[0] - y[1]) + bias[0] - bias[1]
    return float(np.log1p(np.exp(-d)) + reg / 2 * ((x**2).sum() + (y**2).sum() + (bias**2).sum()))


def test_a_step_is_the_gradient_by_finite_differences() -> None:
    rng = np.random.default_rng(0)
    x, y, bias = rng.standard_normal((1, 5)), rng.standard_normal((2, 5)), rng.standard_normal(2)
    rate, reg, width = 1e-3, 0.3, 1e-6
    after = [part.astype(np.float32) for part in (x, y, bias)]
    rows = sparse.csr_matrix(np.array([[1, 0]], dtype=np.float32))
    plan = Plan.of(rows, bpr._KINDS["uniform"], np.ones(2), 0.5)
    loss = plan.epoch(*after, rate, reg, np.random.default_rng(1), Run(threads=1))
    assert loss == pytest.approx(_loss(x, y, bias, 0.0), rel=1e-5)
    for which, new in enumerate(after):
        before = (x, y, bias)[which]
        gradient = np.empty_like(before)
        for place in np.ndindex(before.shape):
            moved = [[part.copy() for part in (x, y, bias)] for _ in range(2)]
            moved[0][which][place] += width
            moved[1][which][place] -= width
            gradient[place] = (_loss(*moved[0], reg) - _loss(*moved[1], reg)) / (2 * width)
        np.testing.assert_allclose((before - new) / rate, gradient, atol=2e-3)


def test_negatives_are_drawn_as_promised() -> None:
    """Shares of 20,000 draws for a user who took item 2, beside the exact ones."""
    y = np.array([[0.0], [3.0], [1.0], [2.0]], dtype=np.float32)  # by the factor: 1, 3, 2, 0
    members, counts = np.arange(4, dtype=np.int32), np.array([1.0, 2.0, 9.0, 5.0], dtype=np.float32)
    state = np.array([bpr._KEY], dtype=np.uint64)

    def shares(kind: str, sign: float, power: float = 1.0) -> np.ndarray:
        draws = bpr._draws(bpr._KINDS[kind], members, bpr._shares(counts, power), y)
        x, columns = np.array([[sign]], dtype=np.float32), np.array([2], dtype=np.int32)
        draw = (state, bpr._KINDS[kind], x, 0, 1, members, *draws, 1.0, columns, 0, 1)
        drawn = [item for item in (bpr._negative(*draw) for _ in range(20_000)) if item >= 0]
        assert len(drawn) > 0.98 * 20_000  # chance may find none in eight draws
        return np.bincount(drawn, minlength=4) / len(drawn)

    np.testing.assert_allclose(shares("uniform", 1.0), [1 / 3, 1 / 3, 0, 1 / 3], atol=0.015)
    np.testing.assert_allclose(shares("popular", 1.0), [1 / 8, 2 / 8, 0, 5 / 8], atol=0.015)
    np.testing.assert_allclose(shares("popular", 1.0, 0.0), [1 / 3, 1 / 3, 0, 1 / 3], atol=0.015)
    rank = np.exp(-np.arange(4.0)) * (1 - np.exp(-1.0)) + np.exp(-4.0) / 4  # geometric, and what fell past the end
    for sign, order in ((1.0, [1, 3, 2, 0]), (-1.0, [0, 2, 3, 1])):
        wanted = np.zeros(4)
        wanted[order] = rank
        wanted[2] = 0
        np.testing.assert_allclose(shares("adaptive", sign), wanted / wanted.sum(), atol=0.015)


@pytest.mark.parametrize("negatives", ["uniform", "popular", "adaptive"])
def test_many_parts_are_the_same_whatever_the_threads(negatives: str) -> None:
    data = shop(users=1100, items=1100)
    made = [
        BPR(factors=8, epochs=3, learning_rate=0.1, negatives=negatives).fit(data, Run(threads=threads))
        for threads in (1, 3)
    ]
    assert_same_state(*made)


def test_each_pair_is_met_once_an_epoch() -> None:
    """With one factor at zero only biases move: each of them by its pairs, less the draws as a negative."""
    rows = shop(users=1100, items=1100).matrix("binary")
    rows.sort_indices()
    plan = Plan.of(rows, 0, np.ones(rows.shape[1]), 0.5)
    assert len(plan.users) > 3
    x, y = np.zeros((rows.shape[0], 1), np.float32), np.zeros((rows.shape[1], 1), np.float32)
    bias, rate = np.zeros(rows.shape[1], np.float32), 1e-4
    loss = plan.epoch(x, y, bias, rate, 0.0, np.random.default_rng(3), Run(threads=2))
    moved = bias / (rate / 2)  # σ(0) = 1/2
    taken = np.bincount(rows.indices, minlength=rows.shape[1])
    drawn = taken - moved
    assert loss == pytest.approx(np.log(2), abs=1e-3)
    assert drawn.sum() == pytest.approx(rows.nnz, rel=1e-3)
    assert drawn.min() > -0.1
    popular = taken > np.quantile(taken, 0.5)
    assert drawn[popular].mean() == pytest.approx(drawn[~popular].mean(), rel=0.1)


def test_the_loss_falls_and_folding_in_nears_its_minimum() -> None:
    told: list[float] = []
    run = Run(threads=2, callbacks=(lambda news: told.append(news["loss"]),))
    data = checkerboard()
    model = BPR(factors=4, epochs=60, learning_rate=0.2, reg=0.02, fold_epochs=1000).fit(data, run)
    assert told[-1] < 0.5 * told[0]
    # The gradient of the whole loss of one history, in float64, is near nothing beside what it is at zero.
    y, bias = model.item_vectors_[:, :-1].astype(np.float64), model.item_vectors_[:, -1].astype(np.float64)
    taken = data.histories.rows(0, 1).items
    others = np.setdiff1d(np.arange(data.n_items), taken)
    apart = (y[taken][:, None] - y[others]).reshape(-1, 4)
    offset = (bias[taken][:, None] - bias[others]).ravel()

    def slope(v: np.ndarray) -> float:
        z = 1 / (1 + np.exp(apart @ v + offset))
        return float(np.linalg.norm(-(z[:, None] * apart).mean(axis=0) + 0.02 * v))

    folded = model.encode(data.histories.rows(0, 1))[0].astype(np.float64)
    assert folded[-1] == 1
    assert slope(folded[:-1]) < 0.02 * slope(np.zeros(4))
