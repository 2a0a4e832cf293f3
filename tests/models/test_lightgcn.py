"""LightGCN: the conformance suite; propagation is that of the dense matrix, and what serves is what was learned."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from scipy import sparse

from tests.models.planted import assert_checkerboard
from zhiyin.core.run import Run
from zhiyin.models.lightgcn import Convolution, Graph, LightGCN, _Propagated
from zhiyin.testing.recommender import RecommenderConformance, shop


class TestLightGCN(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> LightGCN:
        return LightGCN(factors=4, epochs=3, batch_size=16, negatives=12, start="normal")


class TestPaperLightGCN(RecommenderConformance):
    exact_across_threads = False

    def make(self) -> LightGCN:
        return LightGCN(factors=4, epochs=3, batch_size=16, loss="bpr", start="normal")


@pytest.mark.parametrize(("loss", "temperature"), [("softmax", 0.2), ("softmax", 0.0), ("bpr", 0.1)])
def test_checkerboard(loss: str, temperature: float) -> None:
    assert_checkerboard(
        LightGCN(factors=8, loss=loss, temperature=temperature, ridge=1.0, epochs=60, batch_size=20, validation="none")
    )


@pytest.mark.parametrize("layers", [1, 3])
def test_propagation_is_that_of_the_dense_matrix(layers: int) -> None:
    matrix, users, items = tiny()
    graph, (n, m) = Graph(matrix, layers), matrix.shape
    dense = np.zeros((n + m, n + m))
    dense[:n, n:], dense[n:, :n] = matrix.toarray(), matrix.toarray().T
    degree = np.maximum(dense.sum(axis=1), 1)
    smooth = torch.from_numpy(dense / np.sqrt(degree[:, None] * degree)).float()
    layer = mean = torch.cat([users, items])
    for _ in range(layers):
        layer = smooth @ layer
        mean = mean + layer
    found = _Propagated.apply(users, items, graph)
    wanted = (mean / (layers + 1)).split([n, m])
    weights = [torch.randn(part.shape) for part in wanted]
    gradients = []
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for parts in (found, wanted):
        total = sum((part * weight).sum() for part, weight in zip(parts, weights))
        gradients.append(torch.autograd.grad(total, (users, items)))
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_graph_is_never_dense() -> None:
    n = 200_000  # dense, 160 GB
    rng = np.random.default_rng(0)
    where = rng.integers(0, n, (2, 1000))
    graph = Graph(sparse.csr_matrix((np.ones(1000, np.float32), tuple(where)), shape=(n, n)), 2)
    for matrix in (graph.to_users, graph.to_items):
        assert matrix.layout == torch.sparse_csr
        assert matrix.values().numel() <= 1000
    users, items = graph.smooth(torch.ones(n, 1), torch.ones(n, 1))
    assert users.shape == items.shape == (n, 1)


def test_a_user_is_served_what_training_made_of_their_layers() -> None:
    """Where layer 0 is a linear map of the layers above, serving finds the very vector of training."""
    matrix, _, _ = tiny()
    model = LightGCN(factors=3, layers=2, loss="bpr", start="normal")
    network = Convolution(model, matrix)
    with torch.inference_mode():
        network.users.zero_()
        model.table_, model.item_vectors_ = (part.numpy() for part in network.serving())  # type: ignore[misc]
        users, items = network.layers()
    shown = matrix @ model.table_ / np.sqrt(np.maximum(np.diff(matrix.indptr), 1))[:, None]
    np.testing.assert_allclose(shown, users.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.item_vectors_, items.numpy(), rtol=1e-4, atol=1e-5)


def test_spectral_start_spans_the_singular_vectors() -> None:
    matrix, _, _ = tiny()
    graph = Graph(matrix, 1)
    torch.manual_seed(0)
    users, items = torch.zeros(7, 2), torch.zeros(5, 2)
    graph.spectral(users, items)
    values = np.linalg.svd(graph.to_users.to_dense().numpy(), compute_uv=False)[:2]
    found = items / items.norm(dim=0)
    torch.testing.assert_close((graph.to_users @ found).norm(dim=0), torch.from_numpy(values), rtol=1e-3, atol=1e-3)


def test_vectors_depend_on_the_history_alone() -> None:
    data = shop()
    model = LightGCN(factors=4, epochs=2, validation="none").fit(data, Run(threads=1))
    assert not model.weights_
    assert {len(model.table_), len(model.item_vectors_)} == {data.n_items}
    shuffled = np.random.default_rng(0).permutation(data.n_users)
    here, there = model.encode(data.histories), model.encode(data.histories.take(shuffled))
    np.testing.assert_allclose(here[shuffled], there, rtol=1e-5, atol=1e-6)


def tiny() -> tuple[sparse.csr_matrix, torch.Tensor, torch.Tensor]:
    """A graph of 7 users and 5 items, one of each alone; vectors of length 3."""
    rng = np.random.default_rng(0)
    pairs = (rng.random((7, 5)) < 0.5).astype(np.float32)
    pairs[6], pairs[:, 4] = 0, 0
    draw = torch.Generator().manual_seed(1)
    users, items = (torch.randn(n, 3, generator=draw).requires_grad_() for n in (7, 5))
    return sparse.csr_matrix(pairs), users, items
