"""ALS: at convergence the normal equations hold; a history folded in is the exact solution."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.models.planted import assert_checkerboard, checkerboard
from zhiyin.core.errors import ConfigError, NotFittedError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models.als import ALS, FACTORS_PER_BLOCK, half_sweep
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestALS(RecommenderConformance):
    def make(self) -> ALS:
        return ALS(factors=8, reg=0.5, alpha=3.0, epochs=4)


class TestALSExact(RecommenderConformance):
    def make(self) -> ALS:
        return ALS(factors=5, reg=0.5, alpha=3.0, epochs=3, solver="exact", reg_power=0.5)


class TestALSBlocks(RecommenderConformance):
    def make(self) -> ALS:
        return ALS(factors=40, reg=0.5, alpha=3.0, epochs=2, solver="blocks")


@pytest.mark.parametrize("solver", ["cg", "exact", "blocks"])
def test_checkerboard(solver: str) -> None:
    assert_checkerboard(ALS(factors=2, reg=0.1, alpha=5.0, epochs=15, solver=solver))


def _exact(confidence: np.ndarray, y: np.ndarray, reg: float, power: float = 0.0) -> np.ndarray:
    """x of each row from the normal equations, float64; confidence is c - 1."""
    y = y.astype(np.float64)
    eye = np.eye(y.shape[1])
    return np.array(
        [
            np.linalg.solve(
                y.T @ (y * (1 + c)[:, None]) + reg * max(1, (c > 0).sum()) ** power * eye,
                y.T @ np.where(c > 0, 1 + c, 0),
            )
            for c in confidence
        ]
    )


@pytest.mark.parametrize("factors", [1, 3, 8, 33])
def test_fold_in_is_the_exact_solution(factors: int) -> None:
    data = shop(seed=1)
    model = ALS(factors=factors, reg=1.0, alpha=4.0, epochs=5, cg_steps=40).fit(data, Run(threads=2))
    confidence = 4.0 * data.matrix("weight").toarray().astype(np.float64)
    wanted = _exact(confidence, model.item_vectors_, 1.0)
    np.testing.assert_allclose(model.encode(data.histories), wanted, rtol=2e-3, atol=2e-4)


def test_the_normal_equations_hold_at_convergence() -> None:
    data = shop(seed=1)
    model = ALS(factors=4, reg=2.0, alpha=2.0, epochs=400, cg_steps=20).fit(data, Run(threads=2))
    x = model.encode(data.histories)
    confidence = 2.0 * data.matrix("weight").toarray().astype(np.float64)
    np.testing.assert_allclose(_exact(confidence.T, x, 2.0), model.item_vectors_, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("solver", ["cg", "exact"])
@pytest.mark.parametrize("factors", [1, 7, 32, 45])
def test_fold_in_with_a_penalty_by_length(solver: str, factors: int) -> None:
    data = shop(seed=2)
    model = ALS(factors=factors, reg=0.7, alpha=4.0, epochs=3, cg_steps=40, solver=solver, reg_power=0.8)
    model.fit(data, Run(threads=2))
    confidence = 4.0 * data.matrix("weight").toarray().astype(np.float64)
    wanted = _exact(confidence, model.item_vectors_, 0.7, 0.8)
    np.testing.assert_allclose(model.encode(data.histories), wanted, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("factors", [5, 32, 70])
def test_blocks_come_to_the_exact_solution(factors: int) -> None:
    """Sweeps over blocks with items fixed end where the normal equations say; one block is there at once."""
    data, rng = shop(seed=3), np.random.default_rng(0)
    rows = data.matrix("weight")
    y = rng.standard_normal((data.n_items, factors)).astype(np.float32)
    wanted = _exact(rows.toarray().astype(np.float64), y, 30.0)
    x = np.zeros((data.n_users, factors), dtype=np.float32)
    far = []
    for _ in range(1 if factors <= FACTORS_PER_BLOCK else 60):
        half_sweep(rows, x, y, 30.0, 0, Run(threads=2), solver="blocks")
        far.append(np.abs(x - wanted).max())
    assert far[-1] < 1e-3
    assert far == sorted(far, reverse=True) or min(far) < 1e-4


@pytest.mark.parametrize("solver", ["cg", "exact", "blocks"])
def test_every_sweep_lowers_the_loss(solver: str) -> None:
    data, rng = shop(seed=4), np.random.default_rng(0)
    users = data.matrix("weight")
    items = users.T.tocsr()
    x = rng.standard_normal((data.n_users, 40)).astype(np.float32)
    y = rng.standard_normal((data.n_items, 40)).astype(np.float32)
    extra = users.toarray().astype(np.float64)
    of_user, of_item = (np.maximum(np.diff(part.indptr), 1.0) ** 0.5 for part in (users, items))

    def loss() -> float:
        a, b = x.astype(np.float64), y.astype(np.float64)
        error = (1 + extra) * ((extra > 0) - a @ b.T) ** 2
        return float(error.sum() + (of_user * (a**2).sum(1)).sum() + (of_item * (b**2).sum(1)).sum())

    values = [loss()]
    for _ in range(4):
        half_sweep(users, x, y, 1.0, 3, Run(threads=2), solver=solver, reg_power=0.5)
        values.append(loss())
        half_sweep(items, y, x, 1.0, 3, Run(threads=2), solver=solver, reg_power=0.5)
        values.append(loss())
    assert values == sorted(values, reverse=True)


def _grown() -> tuple[Dataset, Dataset]:
    """A log, and the same with an item and a user more."""
    old = checkerboard()
    events = pl.DataFrame(
        {"user": old.user_ids.decode(old.events["user"]), "item": old.item_ids.decode(old.events["item"])}
    )
    more = [(f"u{user}", 100) for user in range(0, 40, 4)] + [("newcomer", item) for item in (0, 4, 100)]
    return old, Dataset.build(pl.concat([events, pl.DataFrame(more, schema=["user", "item"], orient="row")]))


@pytest.mark.parametrize("solver", ["cg", "exact"])
def test_update_gives_new_items_the_solution_against_their_users(solver: str) -> None:
    old, new = _grown()
    model = ALS(factors=4, reg=0.5, alpha=5.0, solver=solver).fit(old)
    before, gram = model.item_vectors_.copy(), model.user_gram_.astype(np.float64)
    place = new.item_ids.encode([100])[0]
    touched = new.histories.take(np.flatnonzero(new.matrix()[:, [place]].toarray()))
    lists = [[i for i in row if i != 100] for row in _raw(new, touched)]
    x = model.encode(Histories.from_items(lists, old.item_ids)).astype(np.float64)
    model.update(new)
    places = new.item_ids.encode(old.item_ids.values)
    np.testing.assert_array_equal(model.item_vectors_[places], before)
    wanted = np.linalg.solve(gram + 5.0 * x.T @ x + 0.5 * np.eye(4), 6.0 * x.sum(axis=0))
    np.testing.assert_allclose(model.item_vectors_[place], wanted, rtol=1e-3, atol=1e-4)
    assert all(item % 2 == 0 for item in model.similar(100, k=9)["similar"])
    assert 100 in model.recommend("u2", k=2)["item"].to_list()
    assert all(item % 2 == 0 for item in model.recommend("newcomer", k=8)["item"])


def test_update_with_sweeps_comes_to_what_a_fit_comes_to() -> None:
    old, new = _grown()
    warm = ALS(factors=2, reg=0.5, alpha=5.0, solver="exact").fit(old).update(new, epochs=40)
    cold = ALS(factors=2, reg=0.5, alpha=5.0, solver="exact", epochs=60).fit(new)
    np.testing.assert_allclose(warm.score(new.histories), cold.score(new.histories), atol=5e-3)


def test_update_with_the_same_data_changes_nothing() -> None:
    data = shop(seed=5)
    model = ALS(factors=4, epochs=3).fit(data)
    before = model.score(data.histories)
    np.testing.assert_array_equal(model.update(data).score(data.histories), before)
    with pytest.raises(ConfigError, match="epochs = -1"):
        model.update(data, epochs=-1)
    with pytest.raises(NotFittedError):
        ALS().update(data)


def _raw(data: Dataset, histories: Histories) -> list[list[int]]:
    items = data.item_ids.decode(histories.items).to_list()
    return [items[a:b] for a, b in zip(histories.offsets[:-1], histories.offsets[1:])]


def test_score_is_an_inner_product() -> None:
    data = shop(seed=6)
    model = ALS(factors=8, epochs=3).fit(data)
    kept = data.matrix("weight").getnnz(axis=1) > 0
    scores = model.encode(data.histories) @ model.item_vectors_.T
    np.testing.assert_allclose(model.score(data.histories)[kept], scores[kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reg_power", [0.0, 0.5])
def test_it_reports_what_it_minimises(reg_power: float) -> None:
    data = shop(users=40)
    model = ALS(factors=4, epochs=6, reg=2.0, solver="exact", reg_power=reg_power)
    model.fit(data)
    losses = [row["loss"] for row in model.training_log_]
    assert losses == sorted(losses, reverse=True)
    # The objective of the class, by brute force, with the user vectors of the last half sweep but one unknown: from
    # vectors of any kind.
    rng = np.random.default_rng(5)
    users = model.confidence(data.histories, data.n_items)
    x, y = rng.standard_normal((data.n_users, 4)), rng.standard_normal((data.n_items, 4))
    extra = users.toarray()
    own, had = (extra > 0).sum(axis=1), (extra > 0).sum(axis=0)
    objective = ((1 + extra) * ((extra > 0) - x @ y.T) ** 2).sum()
    objective += (2.0 * np.maximum(own, 1) ** reg_power * (x**2).sum(axis=1)).sum()
    objective += (2.0 * np.maximum(had, 1) ** reg_power * (y**2).sum(axis=1)).sum()
    found = model._loss_of(users, Run())(x.astype(np.float32), y.astype(np.float32))
    assert found == pytest.approx(objective / users.nnz, rel=1e-4)
