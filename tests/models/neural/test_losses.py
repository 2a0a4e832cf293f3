"""Losses: values and gradients are those of plain formulas in float64, whatever the chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.examples import examples

torch = pytest.importorskip("torch")

from zhiyin.models.neural import losses  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for one another cost more than what is this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * scale)


def _integers(most: int, size: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).integers(most, size=size))


def _both(loss: Callable, *inputs: Any) -> tuple[float, list[Any]]:
    """Value and gradients at fresh leaves."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    assert value.shape == ()
    return value.item(), list(torch.autograd.grad(3.0 * value, leaves))


def _assert_same(loss: Callable, plain: Callable, *inputs: Any, rtol: float = 1e-9) -> None:
    value, grads = _both(loss, *inputs)
    wanted, wanted_grads = _both(plain, *inputs)
    np.testing.assert_allclose(value, wanted, rtol=rtol, atol=rtol)
    for got, want in zip(grads, wanted_grads):
        np.testing.assert_allclose(got.to_dense().double(), want.double(), rtol=rtol, atol=rtol)


def _plain_full(x: Any, t: Any, b: Any, targets: Any, w: Any) -> Any:
    logits = x @ t.T + b
    return (w * (torch.log(torch.exp(logits).sum(1)) - logits[torch.arange(len(x)), targets])).sum()


def _plain_sampled(x: Any, t: Any, targets: Any, negatives: Any, q_near: Any, q_far: Any, w: Any) -> Any:
    total = x.new_zeros(())
    for row in range(len(x)):
        own = x[row] @ t[targets[row]] - q_near[row]
        others = [torch.exp(x[row] @ t[j] - q) for j, q in zip(negatives.tolist(), q_far) if j != int(targets[row])]
        total = total - w[row] * torch.log(torch.exp(own) / (torch.exp(own) + sum(others)))
    return total


CHUNKS = [1, 8, 8 * 11, 8 * 11 * 3, 8 * 11 * 7, 8 * 11 * 5 + 3, 1 << 30, None]


@pytest.mark.parametrize("chunk", CHUNKS)
def test_full_softmax(chunk: int | None) -> None:
    x, t, b, w = _normal(7, 3), _normal(11, 3, seed=1), _normal(11, seed=2), _normal(7, seed=3).abs()
    targets = _integers(11, 7)
    w[2] = 0
    _assert_same(
        lambda x, t, b: losses.full_softmax(x, t, targets, w, b, chunk),
        lambda x, t, b: _plain_full(x, t, b, targets, w),
        x, t, b,
    )  # fmt: skip
    _assert_same(
        lambda x, t: losses.full_softmax(x, t, targets, chunk_bytes=chunk),
        lambda x, t: _plain_full(x, t, torch.zeros(11), targets, torch.ones(7)),
        x, t,
    )  # fmt: skip


@pytest.mark.parametrize("columns", [1, 3, 4, 10])
def test_full_softmax_in_tiles(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "TILE_COLUMNS", columns)
    x, t, b, targets, w = _normal(7, 3), _normal(11, 3, seed=1), _normal(11, seed=2), _integers(11, 7), _normal(7)
    _assert_same(
        lambda x, t, b: losses.full_softmax(x, t, targets, w, b, 8 * 10),
        lambda x, t, b: _plain_full(x, t, b, targets, w),
        x, t, b,
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [8 * 4, None])
def test_full_softmax_gradcheck(chunk: int | None) -> None:
    targets, w = _integers(6, 4), _normal(4, seed=5)
    inputs = [_normal(4, 3).requires_grad_(), _normal(6, 3).requires_grad_(), _normal(6).requires_grad_()]
    assert torch.autograd.gradcheck(lambda x, t, b: losses.full_softmax(x, t, targets, w, b, chunk), inputs)


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(m=st.integers(1, 9), n=st.integers(1, 20), d=st.integers(1, 5), chunk=st.integers(1, 2000))
def test_full_softmax_of_any_shape(m: int, n: int, d: int, chunk: int) -> None:
    x, t, targets = _normal(m, d, seed=m), _normal(n, d, seed=n), _integers(n, m)
    _assert_same(
        lambda x, t: losses.full_softmax(x, t, targets, chunk_bytes=chunk),
        lambda x, t: _plain_full(x, t, torch.zeros(n), targets, torch.ones(m)),
        x, t,
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [4 * 10, 4 * 40, None])
def test_extreme_logits(chunk: int | None) -> None:
    x, t = torch.tensor([[100.0], [-100.0], [1e4]]), torch.linspace(-100, 100, 40)[:, None]
    targets = torch.tensor([0, 0, 39])
    for loss in (
        lambda x, t: losses.full_softmax(x, t, targets, chunk_bytes=chunk),
        lambda x, t: losses.sampled_softmax(x, t, targets, torch.arange(40), chunk_bytes=chunk),
    ):
        value, grads = _both(loss, x, t)
        np.testing.assert_allclose(value, 2e4, rtol=1e-5)
        assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_only_wanted_gradients(which: int) -> None:
    inputs = [_normal(4, 3), _normal(6, 3), _normal(6)]
    inputs[which].requires_grad_()
    targets, ones = _integers(6, 4), torch.ones(4)
    for chunk in (8, None):
        inputs[which].grad = None
        losses.full_softmax(inputs[0], inputs[1], targets, None, inputs[2], chunk).backward()
        (want,) = torch.autograd.grad(_plain_full(*inputs, targets, ones), inputs[which])
        torch.testing.assert_close(inputs[which].grad, want)
        assert all((v.grad is None) == (at != which) for at, v in enumerate(inputs))


def test_no_work_on_gradients_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    x, t, targets = _normal(4, 3).requires_grad_(), _normal(6, 3), _integers(6, 4)
    wanted = losses.full_softmax(x, t, targets).item()

    def refuse(*args: Any) -> None:
        raise AssertionError("a gradient was made")

    monkeypatch.setattr(losses, "_add_product", refuse)
    with torch.no_grad():
        for chunk in (8, None):
            value = losses.full_softmax(x, t, targets, chunk_bytes=chunk)
            assert not value.requires_grad
            np.testing.assert_allclose(value.item(), wanted)
        losses.sampled_softmax(x, t.requires_grad_(), targets, _integers(6, 3))


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the most elements that any result had."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for v in result if isinstance(result, tuple | list) else [result]:
            if isinstance(v, torch.Tensor) and not v.is_sparse:
                self.most = max(self.most, v.numel())
        return result


@pytest.mark.parametrize("chunk", [4 * 300, 4 * 2000])
def test_logits_are_never_held_whole(chunk: int) -> None:
    x, t = torch.randn(100, 2, requires_grad=True), torch.randn(150, 2, requires_grad=True)
    saved: list[int] = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda v: saved.append(v.numel()) or v, lambda v: v),
        _Largest() as at,
    ):
        losses.full_softmax(x, t, _integers(150, 100), chunk_bytes=chunk).backward()
    assert at.most <= max(chunk // 4, t.numel())
    assert all(size <= t.numel() for size in saved)


def test_sparse_gradient_takes_no_memory_for_other_items() -> None:
    x, t = torch.randn(5, 2, requires_grad=True), torch.randn(100_000, 2, requires_grad=True)
    with _Largest() as at:
        loss = losses.sampled_softmax(x, t, _integers(100_000, 5), _integers(100_000, 7, seed=1), sparse=True)
        (grad,) = torch.autograd.grad(loss, t)
    assert grad.is_sparse
    assert at.most < 1000


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("chunk", [1, 8 * 9 * 2, 8 * 9 * 3, None])
def test_sampled_softmax(sparse: bool, chunk: int | None) -> None:
    x, t, w = _normal(7, 3), _normal(6, 3, seed=1), _normal(7, seed=2).abs()
    targets, negatives = _integers(6, 7), _integers(6, 9, seed=4)  # hits are sure
    q_near, q_far = _normal(7, seed=5), _normal(9, seed=6)
    _assert_same(
        lambda x, t: losses.sampled_softmax(x, t, targets, negatives, q_near, q_far, w, sparse, chunk),
        lambda x, t: _plain_sampled(x, t, targets, negatives, q_near, q_far, w),
        x, t,
    )  # fmt: skip
    _assert_same(
        lambda x, t: losses.sampled_softmax(x, t, targets, negatives, sparse=sparse, chunk_bytes=chunk),
        lambda x, t: _plain_sampled(x, t, targets, negatives, torch.zeros(7), torch.zeros(9), torch.ones(7)),
        x, t,
    )  # fmt: skip


def test_sampled_softmax_gradcheck() -> None:
    targets, negatives, w = _integers(6, 4), _integers(6, 5, seed=1), _normal(4, seed=5)
    inputs = [_normal(4, 3).requires_grad_(), _normal(6, 3).requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda x, t: losses.sampled_softmax(x, t, targets, negatives, w, None, w, chunk_bytes=8 * 5 * 2), inputs
    )


def test_all_negatives_once_is_the_full_softmax() -> None:
    x, t, targets = _normal(7, 3), _normal(11, 3, seed=1), _integers(11, 7)
    _assert_same(
        lambda x, t: losses.sampled_softmax(x, t, targets, torch.randperm(11)),
        lambda x, t: losses.full_softmax(x, t, targets),
        x, t,
    )  # fmt: skip


def test_a_row_whose_negatives_are_its_target_costs_nothing() -> None:
    value, grads = _both(
        lambda x, t: losses.sampled_softmax(x, t, torch.tensor([2, 2]), torch.tensor([2, 2, 2])),
        _normal(2, 3), _normal(4, 3),
    )  # fmt: skip
    assert value == 0
    assert all((g == 0).all() for g in grads)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 6), max_size=12), st.lists(st.integers(0, 6), max_size=12))
def test_pairs_are_where_equal(targets: list[int], negatives: list[int]) -> None:
    rows, columns = losses._pairs(torch.tensor(targets, dtype=torch.int64), torch.tensor(negatives, dtype=torch.int64))
    wanted = {(r, c) for r, a in enumerate(targets) for c, b in enumerate(negatives) if a == b}
    assert len(rows) == len(wanted)
    assert set(zip(rows.tolist(), columns.tolist())) == wanted
    assert rows.tolist() == sorted(rows.tolist())


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("chunk", [4 * 40, 4 * 400, None])
def test_half_precision_sums_in_float32(low: bool, chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if low:  # as on a device with units for it
        monkeypatch.setattr(losses, "_low_precision", lambda device: torch.bfloat16)
    x, t = _normal(50, 8).bfloat16(), _normal(200, 8, seed=1).float()
    targets, negatives = _integers(200, 50), torch.arange(200)
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (
            lambda x, t: losses.full_softmax(x, t, targets, chunk_bytes=chunk),
            lambda x, t: losses.sampled_softmax(x, t, targets, negatives, chunk_bytes=chunk),
        ):
            value, (grad_x, grad_t) = _both(loss, x, t)
            assert loss(x, t).dtype == torch.float32
            assert (grad_x.dtype, grad_t.dtype) == (torch.bfloat16, torch.float32)
            wanted, wanted_grads = _both(
                lambda x, t: _plain_full(x, t, torch.zeros(200), targets, torch.ones(50)), x.double(), t.double()
            )
            np.testing.assert_allclose(value, wanted, rtol=1e-2 if low else 1e-5)
            np.testing.assert_allclose(grad_x.double(), wanted_grads[0], rtol=0.05, atol=0.05)
            np.testing.assert_allclose(grad_t, wanted_grads[1], rtol=0.05 if low else 1e-4, atol=0.1 if low else 1e-4)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + torch.exp(-x))


def _plain_gbce(p: Any, n: Any) -> Any:
    alpha = n.shape[1] / 19
    beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    return -(torch.log(_sigmoid(p) ** beta) + torch.log(1 - _sigmoid(n)).sum(1)) / (n.shape[1] + 1)


def _plain_bpr_max(p: Any, n: Any) -> Any:
    share = torch.exp(n) / torch.exp(n).sum(1, keepdim=True)
    return -torch.log((share * _sigmoid(p[:, None] - n)).sum(1)) + 0.3 * (share * n**2).sum(1)


def _plain_multinomial(x: Any, counts: Any) -> Any:
    return -(counts * torch.log(torch.exp(x) / torch.exp(x).sum(1, keepdim=True))).sum(1)


def _plain_kl(mean: Any, log_variance: Any) -> Any:
    return -0.5 * (1 + log_variance - mean**2 - torch.exp(log_variance)).sum(1)


M, S = (6,), (6, 4)
ROWWISE: list[tuple[str, Callable, Callable, tuple, tuple]] = [
    ("gbce", lambda p, n, w: losses.gbce(p, n, 20, 0.75, w), _plain_gbce, M, S),
    ("bce", losses.bce, lambda p, n: -torch.log(_sigmoid(p)) - torch.log(1 - _sigmoid(n)), M, M),
    ("bce s", losses.bce, lambda p, n: -torch.log(_sigmoid(p)) - torch.log(1 - _sigmoid(n)).sum(1), M, S),
    ("bpr", losses.bpr, lambda p, n: -torch.log(_sigmoid(p - n)), M, M),
    ("bpr s", losses.bpr, lambda p, n: -torch.log(_sigmoid(p[:, None] - n)).mean(1), M, S),
    ("bpr_max", lambda p, n, w: losses.bpr_max(p, n, 0.3, w), _plain_bpr_max, M, S),
    ("mse", losses.mse, lambda a, b: (a - b) ** 2, M, M),
    ("mse s", losses.mse, lambda a, b: ((a - b) ** 2).mean(1), S, S),
    ("multinomial", losses.multinomial, _plain_multinomial, S, S),
    ("kl", losses.gaussian_kl, _plain_kl, S, S),
]


@pytest.mark.parametrize(("loss", "plain", "first", "second"), [r[1:] for r in ROWWISE], ids=[r[0] for r in ROWWISE])
def test_rowwise(loss: Callable, plain: Callable, first: tuple, second: tuple) -> None:
    a, b, w = _normal(*first), _normal(*second, seed=1), _normal(6, seed=2)
    w[1] = 0
    _assert_same(lambda a, b: loss(a, b, None), lambda a, b: plain(a, b).sum(), a, b)
    _assert_same(lambda a, b: loss(a, b, w), lambda a, b: (plain(a, b) * w).sum(), a, b)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, w), [a.requires_grad_(), b.requires_grad_()])


@pytest.mark.parametrize(
    ("loss", "first", "second"), [(r[1], *r[3:]) for r in ROWWISE[:-1]], ids=[r[0] for r in ROWWISE[:-1]]
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_scores(loss: Callable, first: tuple, second: tuple, sign: float) -> None:
    value, grads = _both(
        lambda a, b: loss(a, b, None),
        torch.full(first, sign * 1e4),
        -sign * torch.linspace(9e3, 1e4, 24)[: np.prod(second)].reshape(second),
    )
    assert np.isfinite(value)
    assert all(torch.isfinite(g).all() for g in grads)


def test_gbce_without_calibration_is_bce() -> None:
    p, n = _normal(6), _normal(6, 4, seed=1)
    torch.testing.assert_close(5 * losses.gbce(p, n, 100, 0.0), losses.bce(p, n))


def test_gbce_fully_calibrated_has_the_sampling_rate_as_power() -> None:
    p, n = _normal(6).requires_grad_(), torch.full((6, 4), -1e9, dtype=torch.float64)
    torch.testing.assert_close(losses.gbce(p, n, 101, 1.0), -(0.04 * torch.log(torch.sigmoid(p))).sum() / 5)


def test_mse_over_rows_is_that_of_torch() -> None:
    a, b = _normal(6, 4), _normal(6, 4, seed=1)
    torch.testing.assert_close(losses.mse(a, b) / 6, torch.nn.functional.mse_loss(a, b))


def test_kl_of_the_prior_is_zero() -> None:
    assert losses.gaussian_kl(torch.zeros(3, 2), torch.zeros(3, 2)) == 0
