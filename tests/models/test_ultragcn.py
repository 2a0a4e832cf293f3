"""UltraGCN: conformance, the planted answer, its loss against a naive reference, and folding in."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.models.planted import USERS, checkerboard, missing_of  # noqa: E402
from zhiyin.core.run import Run  # noqa: E402
from zhiyin.models.ultragcn import PairBatch, UltraGCN  # noqa: E402
from zhiyin.testing.recommender import RecommenderConformance, shop  # noqa: E402


class TestUltraGCN(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> UltraGCN:
        return UltraGCN(factors=8, epochs=3, negatives=20)


def test_checkerboard() -> None:
    data = checkerboard()
    settings = {"negatives": 20, "negative_weight": 5, "learning_rate": 0.02, "batch_size": 60, "validation": "none"}
    model = UltraGCN(factors=8, epochs=60, **settings).fit(data, Run(threads=1))
    frame = model.recommend([f"u{user}" for user in range(USERS)], k=1)
    assert frame["item"].to_list() == [missing_of(user) for user in range(USERS)]


def test_loss_is_the_papers() -> None:
    data = shop()
    model = UltraGCN(factors=4, negatives=7, negative_weight=3.0, pair_weight=0.1, reg=0.01)
    model._prepare(data, Run())
    network = model._build(data.n_items)
    model._network = network
    batches = model._batches(data, Run())
    with torch.no_grad():
        network.users.weight.normal_()
        network.items.weight.normal_()
    users, items = batches.users[:9], batches.items[:9]
    loss, count = network.loss(PairBatch(users, items), torch.Generator().manual_seed(5))
    negatives = torch.randint(data.n_items, (7,), generator=torch.Generator().manual_seed(5)).numpy()
    matrix = data.matrix("binary")
    d_user, d_item = np.diff(matrix.indptr).astype(float), np.bincount(matrix.indices, minlength=data.n_items)
    x, v = (t.weight.detach().double().numpy() for t in (network.users, network.items))
    wanted = 0.0
    for u, i in zip(users.numpy(), items.numpy()):
        weight = 0.1 + np.sqrt((d_user[u] + 1) / (d_item + 1)) / d_user[u]
        wanted += weight[i] * np.log1p(np.exp(-x[u] @ v[i]))
        wanted += 3.0 * np.mean([weight[j] * np.log1p(np.exp(x[u] @ v[j])) for j in negatives])
        wanted += 0.005 * (x[u] @ x[u] + v[i] @ v[i])
    assert count == 9
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_more_steps_fold_a_history_in_to_the_same_answer() -> None:
    data = checkerboard()
    settings = {"negatives": 20, "negative_weight": 5, "learning_rate": 0.02, "validation": "none"}
    model = UltraGCN(factors=6, epochs=60, **settings).fit(data, Run(threads=1))
    few = model.recommend(k=1)
    model.fold_in_steps = 400
    assert few["item"].to_list() == model.recommend(k=1)["item"].to_list()
