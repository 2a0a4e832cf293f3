"""The training loop: interrupted anywhere it ends with the same bits; it stops, restores and reports as it says."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from zhiyin.core.errors import ConfigError, DataError, ZhiyinError  # noqa: E402
from zhiyin.core.run import Run  # noqa: E402
from zhiyin.models.neural import devices, training_loop  # noqa: E402
from zhiyin.models.neural.checkpoints import Checkpoints  # noqa: E402
from zhiyin.models.neural.devices import device_of  # noqa: E402
from zhiyin.models.neural.layers import Dropout  # noqa: E402
from zhiyin.models.neural.optimization import clip_gradients, make_optimizers, pace  # noqa: E402
from zhiyin.models.neural.rowwise_adam import RowwiseAdam  # noqa: E402
from zhiyin.models.neural.training_loop import train  # noqa: E402
from zhiyin.models.sequence import next_item  # noqa: E402
from zhiyin.models.sequence.sasrec import SASRec  # noqa: E402
from zhiyin.testing.recommender import shop, timeless  # noqa: E402

EVERY = "0.000001s"
DATA = shop(users=30)


# -- interrupted and begun again --------------------------------------------------------------------------------------

KINDS = ("dense", "sampled", "sparse")
EPOCHS, STEPS = 3, 12  # of 4 batches each


def model_of(kind: str) -> SASRec:
    loss = "softmax" if kind == "dense" else "sampled_softmax"
    return SASRec(
        factors=8, epochs=EPOCHS, batch_size=8, max_len=6, dropout=0.3, loss=loss, negatives=16, weight_decay=0.01,
        warmup=3, schedule="cosine",
    )  # fmt: skip


def fit(kind: str, run: Run, data: Any = DATA) -> SASRec:
    with pytest.MonkeyPatch.context() as patch:
        if kind == "sparse":
            patch.setattr(next_item, "SPARSE_ROWS", 1)
        return model_of(kind).fit(data, run)


def assert_same_bits(one: SASRec, other: SASRec) -> None:
    assert list(one.weights_) == list(other.weights_)
    for name, array in one.weights_.items():
        np.testing.assert_array_equal(array, other.weights_[name], err_msg=name)
    assert timeless(one.training_log_) == timeless(other.training_log_)


@pytest.fixture(scope="module")
def whole() -> dict[str, SASRec]:
    """Models of trainings that nobody interrupted."""
    return {kind: fit(kind, Run(threads=1)) for kind in KINDS}


def interrupt(patch: pytest.MonkeyPatch, nth: int) -> None:
    """Let training raise KeyboardInterrupt when it has done n steps."""
    calls, original = [], next_item.NextItem.loss

    def loss(network: Any, batch: Any, draw: Any) -> Any:
        calls.append(None)
        if len(calls) > nth:
            raise KeyboardInterrupt
        return original(network, batch, draw)

    patch.setattr(next_item.NextItem, "loss", loss)


def interrupted(kind: str, run: Run, nth: int) -> None:
    """A training that stops when n steps are done."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, nth)
        with pytest.raises(KeyboardInterrupt):
            fit(kind, run)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "nth", [pytest.param(n, marks=[] if n in (0, 5, 11) else pytest.mark.slow) for n in range(STEPS)]
)
def test_interrupted_after_any_step(kind: str, nth: int, whole: dict[str, SASRec], tmp_path: Path) -> None:
    run = Run(threads=1, checkpoint=tmp_path / "c", checkpoint_every=EVERY)
    interrupted(kind, run, nth)
    assert (tmp_path / "c" / "training.safetensors").exists() == (nth > 0)
    assert_same_bits(fit(kind, run), whole[kind])
    assert list((tmp_path / "c").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_steps_after_the_checkpoint(
    kind: str, whole: dict[str, SASRec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    monkeypatch.setattr(Checkpoints, "due", lambda self: asked.append(None) or len(asked) % 3 == 0)
    run = Run(threads=1, checkpoint=tmp_path)
    for nth in (5, 4, 1, 2):  # again and again: what was done since the last checkpoint is done once more
        interrupted(kind, run, nth)
    assert_same_bits(fit(kind, run), whole[kind])


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_interrupted_at_the_end_of_an_epoch(kind: str, epoch: int, whole: dict[str, SASRec], tmp_path: Path) -> None:
    def stop(news: dict[str, Any]) -> None:
        if news["epoch"] == epoch:
            raise KeyboardInterrupt

    run = Run(threads=1, checkpoint=tmp_path, checkpoint_every=EVERY)
    with pytest.raises(KeyboardInterrupt):
        fit(kind, dataclasses.replace(run, callbacks=(stop,)))
    assert_same_bits(fit(kind, run), whole[kind])


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_interrupted_amid_a_step(kind: str, whole: dict[str, SASRec], tmp_path: Path) -> None:
    run = Run(threads=1, checkpoint=tmp_path, checkpoint_every=EVERY)
    calls: list[None] = []

    def stop(network: nn.Module, most: float) -> None:
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        clip_gradients(network, most)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop, "clip_gradients", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(kind, run)
    assert_same_bits(fit(kind, run), whole[kind])


def test_interrupted_while_a_checkpoint_is_written(
    whole: dict[str, SASRec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(threads=1, checkpoint=tmp_path, checkpoint_every=EVERY)
    calls: list[None] = []

    def half(tensors: Any, file: Path, metadata: Any) -> None:
        calls.append(None)
        save_file(tensors, file, metadata)
        if len(calls) == 6:
            file.write_bytes(file.read_bytes()[:100])
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zhiyin.models.neural.checkpoints.save_file", half)
        with pytest.raises(KeyboardInterrupt):
            fit("dense", run)
    assert_same_bits(fit("dense", run), whole["dense"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["seed", "settings", "data"])
def test_a_checkpoint_of_another_training_is_not_continued(
    other: str, whole: dict[str, SASRec], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(threads=1, checkpoint=tmp_path, checkpoint_every=EVERY)
    model = dataclasses.replace(model_of("dense"), learning_rate=0.01) if other == "settings" else model_of("dense")
    data = shop(seed=8, users=30) if other == "data" else DATA
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            model.fit(data, dataclasses.replace(run, seed=3) if other == "seed" else run)
    with caplog.at_level(logging.WARNING, "zhiyin"):
        again = fit("dense", run)
    said = "they were 360 events, and are 360 others" if other == "data" else "other settings or seed"
    assert said in caplog.text
    assert "beginning anew" in caplog.text
    assert_same_bits(again, whole["dense"])


@pytest.mark.parametrize("damage", ["cut", "text", "no network", "no best", "empty", "no metadata"])
def test_a_damaged_checkpoint(damage: str, tmp_path: Path) -> None:
    run = Run(threads=1, checkpoint=tmp_path, checkpoint_every=EVERY)
    interrupted("dense", run, 5)
    file = tmp_path / "training.safetensors"
    if damage in ("cut", "text", "empty"):
        file.write_bytes({"cut": file.read_bytes()[:1000], "text": b"hello, this is no tensor", "empty": b""}[damage])
    else:
        from safetensors import safe_open

        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        tensors = load_file(file)
        lost = {"no network": "network.items.weight", "no best": "best.items.weight"}.get(damage)
        kept = {name: tensor for name, tensor in tensors.items() if name != lost}
        save_file(kept, file, None if damage == "no metadata" else metadata)
    with pytest.raises(DataError, match="checkpoint cannot be read") as raised:
        fit("dense", run)
    assert "training.safetensors" in str(raised.value)
    assert "delete it" in str(raised.value)


# -- a network with nothing in it -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Plan:
    epochs: int = 5
    patience: int = 0
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    beta2: float = 0.999
    warmup: int = 0
    schedule: str = "constant"
    clip: float = 0.0


@dataclasses.dataclass
class Rows:
    x: Any
    events = 4

    def share(self, rank: int, world: int) -> Rows:
        return self

    def to(self, device: Any) -> Rows:
        return self


class Few:
    n_batches = 3

    def epoch(self, number: int) -> Iterator[Rows]:
        for n in range(3):
            yield Rows(torch.full((4, 2), float(number * 3 + n + 1)))


class Line(nn.Module):
    """(w · x)², with places where something can go wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 1))
        self.fail = 10**9
        self.calls = 0

    def loss(self, batch: Rows, draw: Any) -> tuple[Any, int]:
        self.calls += 1
        return (batch.x @ self.w).square().sum() * (math.nan if self.calls > self.fail else 1e-3), len(batch.x)


def run(**more: Any) -> Run:
    return Run(threads=1, device="cpu", **more)


def test_the_best_weights_come_back() -> None:
    network, metrics, seen = Line(), iter([0.1, 0.5, 0.3, 0.5, 0.2]), []

    def validate() -> float:
        assert not network.training
        seen.append(network.w.detach().clone())
        return next(metrics)

    progress = train(network, Few(), Plan(), run(), label="Line", validate=validate)
    assert (progress.best, progress.best_epoch, progress.epoch) == (0.5, 2, 5)
    assert torch.equal(network.w, seen[1])  # the first of equals
    assert [entry["metric"] for entry in progress.log] == [0.1, 0.5, 0.3, 0.5, 0.2]
    assert not network.training


def test_without_validation_the_last_weights_stay_and_all_epochs_run() -> None:
    network = Line()
    progress = train(network, Few(), Plan(patience=1), run(), label="Line")
    assert network.calls == 15
    assert progress.step == 15
    assert "metric" not in progress.log[0]


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (3, 8), (0, 9)])
def test_patience(patience: int, epochs: int) -> None:
    metrics = iter([0.1, 0.2, 0.1, 0.1, 0.3, 0.0, 0.0, 0.0, 0.0])
    progress = train(
        Line(), Few(), Plan(epochs=9, patience=patience), run(), label="Line", validate=lambda: next(metrics)
    )
    assert progress.epoch == epochs


def test_a_loss_that_is_no_number_stops_with_a_remedy() -> None:
    network = Line()
    network.fail = 4
    before = torch.get_num_threads()
    with pytest.raises(ZhiyinError, match=r"no longer a number \(epoch 2, step 4\)") as raised:
        train(network, Few(), Plan(), run(), label="Line")
    assert "a lower learning_rate than 0.1" in str(raised.value)
    assert torch.isfinite(network.w).all()  # the step was not taken
    assert torch.get_num_threads() == before


def test_weights_that_are_no_numbers_after_the_last_step() -> None:
    class Steep(Line):
        def loss(self, batch: Rows, draw: Any) -> tuple[Any, int]:
            return (self.w * 0).sqrt().sum(), 4

    batches: Any = SimpleNamespace(n_batches=1, epoch=lambda number: iter([Rows(None)]))
    with pytest.raises(ZhiyinError, match="no longer a number"):
        train(Steep(), batches, Plan(epochs=1), run(), label="Steep")


def test_sasrec_that_diverges_stops() -> None:
    with pytest.raises(ZhiyinError, match="no longer a number"):
        SASRec(factors=8, epochs=20, max_len=6, learning_rate=1e30, clip=0, validation="none").fit(DATA, run())


def test_batches_without_a_target_teach_nothing() -> None:
    class Silent(Line):
        def loss(self, batch: Rows, draw: Any) -> tuple[Any, int]:
            return self.w.sum() * 0, 0

    network = Silent()
    progress = train(network, Few(), Plan(weight_decay=0.5), run(), label="")
    assert torch.equal(network.w, torch.ones(2, 1))
    assert [row["loss"] for row in progress.log] == [0.0] * 5


def test_callbacks_are_told() -> None:
    news: list[dict[str, Any]] = []
    model = model_of("dense").fit(DATA, run(callbacks=(news.append,)))
    assert [entry["epoch"] for entry in news] == [1, 2, 3]
    assert news == model.training_log_
    for entry in news:
        assert entry["model"] == "SASRec"
        assert entry["of"] == EPOCHS
        assert entry["seconds"] > 0
        assert entry["events_per_second"] > 0
        assert 0 <= entry["ndcg@10"] <= 1
        assert entry["loss"] > 0 < entry["valid_loss"]


def test_torch_is_left_as_it_was() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(5)
        state = torch.get_rng_state()
        model = model_of("dense").fit(DATA, run())
        model.recommend(k=3, run=run())
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == 2
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, 5)
            with pytest.raises(KeyboardInterrupt):
                model_of("dense").fit(DATA, run())
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_the_state_of_torch_does_not_matter(whole: dict[str, SASRec]) -> None:
    torch.manual_seed(1234)
    assert_same_bits(fit("sampled", Run(threads=1)), whole["sampled"])


@pytest.mark.parametrize("device", ["tpu", "cudas", "cpuu"])
def test_unknown_devices(device: str) -> None:
    with pytest.raises(ConfigError):
        device_of(Run(device=device))


# -- its parts --------------------------------------------------------------------------------------------------------


def test_pace() -> None:
    plan: Any = Plan(warmup=4)
    assert [pace(step, 20, plan) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    plan = Plan(warmup=2, schedule="cosine")
    found = [pace(step, 10, plan) for step in range(11)]
    assert found[:3] == [0.5, 1.0, 1.0]
    wanted = [0.5 * (1 + math.cos(math.pi * n / 8)) for n in range(9)]
    np.testing.assert_allclose(found[2:], wanted, atol=1e-15)
    assert pace(99, 10, plan) == 0.0
    assert pace(0, 10, Plan(schedule="cosine")) == 1.0
    assert pace(3, 3, Plan(warmup=3, schedule="cosine")) == 1.0  # nothing left after the warm-up


class Mixed(nn.Module):
    """A dense layer and a table with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.table = nn.Linear(3, 2), nn.LayerNorm(2), nn.Embedding(6, 3, sparse=True)


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_takes_dense_and_sparse_together(most: float) -> None:
    torch.manual_seed(0)
    network = Mixed()
    network.norm(network.layer(network.table(torch.tensor([1, 4, 1, 1])))).square().sum().backward()
    dense = [p.grad.to_dense().clone() for p in network.parameters()]
    norm = math.sqrt(sum(float(g.square().sum()) for g in dense))
    clip_gradients(network, most)
    scale = min(1.0, most / norm)
    for p, before in zip(network.parameters(), dense):
        assert p.grad is not None
        torch.testing.assert_close(p.grad.to_dense(), before * scale, rtol=1e-5, atol=1e-7)


def test_decay_spares_vectors() -> None:
    network = Mixed()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    rows = torch.sparse_coo_tensor([[2]], torch.full((1, 3), 1e-30), (6, 3), check_invariants=True)
    network.table.weight.grad = rows
    optimizers = make_optimizers(network, Plan(weight_decay=0.5))
    assert [type(o) for o in optimizers] == [torch.optim.AdamW, RowwiseAdam]
    for optimizer in optimizers:
        optimizer.step()
    after = dict(network.named_parameters())
    torch.testing.assert_close(after["layer.weight"], before["layer.weight"] * 0.95)
    for name in ("layer.bias", "norm.weight", "norm.bias"):
        assert torch.equal(after[name], before[name]), name
    torch.testing.assert_close(after["table.weight"][2], before["table.weight"][2] * 0.95)
    assert torch.equal(after["table.weight"][[0, 1, 3, 4, 5]], before["table.weight"][[0, 1, 3, 4, 5]])


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("dense", [False, True])
def test_rowwise_adam(decay: float, dense: bool) -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(size=(7, 4))
    weight = nn.Parameter(torch.from_numpy(table.copy()))
    optimizer = RowwiseAdam([weight], lr=0.05, weight_decay=decay)
    first, second = np.zeros((7, 4)), np.zeros(7)
    for step in range(1, 12):
        rows, values = rng.integers(0, 6, 5), rng.normal(size=(5, 4))
        values[0] = 0  # a row that is read and moves nothing
        whole = np.zeros((7, 4))
        np.add.at(whole, rows, values)
        for row in np.flatnonzero(whole.any(axis=1)):
            first[row] = 0.9 * first[row] + 0.1 * whole[row]
            second[row] = 0.999 * second[row] + 0.001 * (whole[row] ** 2).mean()
            update = (first[row] / (1 - 0.9**step)) / (np.sqrt(second[row] / (1 - 0.999**step)) + 1e-8)
            table[row] = table[row] * (1 - 0.05 * decay) - 0.05 * update
        sparse = torch.sparse_coo_tensor(
            torch.from_numpy(rows)[None], torch.from_numpy(values), (7, 4), check_invariants=True
        )
        weight.grad = sparse.to_dense() if dense else sparse
        optimizer.step()
    np.testing.assert_allclose(weight.detach().numpy(), table, rtol=1e-10)
    assert optimizer.state[weight]["exp_avg_sq"].shape == (7, 1)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation(rate: float) -> None:
    torch.manual_seed(0)
    layer, n = Dropout(rate), 400_000
    exact = layer.cut / 256
    assert abs(exact - rate) <= 1 / 512
    out = layer(torch.ones(n))
    kept = out != 0
    assert abs(float(kept.float().mean()) - (1 - exact)) < 5 * math.sqrt(exact * (1 - exact) / n)
    np.testing.assert_allclose(out[kept].numpy(), 1 / (1 - exact), rtol=1e-6)
    assert abs(float(out.mean()) - 1) < 5 * math.sqrt(exact / (1 - exact) / n)
    np.testing.assert_allclose(float(out.var()), exact / (1 - exact), rtol=0.02)


def test_dropout_draws_each_element_alone() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(100_000)) != 0).double().numpy()
    for lag in (1, 2, 7, 8, 9, 64):
        assert abs(np.corrcoef(kept[:-lag], kept[lag:])[0, 1]) < 0.02, lag


@pytest.mark.parametrize(("rate", "cut"), [(0.0, 0), (0.001, 0), (0.003, 1), (0.25, 64), (0.95, 243), (1.0, 255)])
def test_dropout_rounds_the_rate(rate: float, cut: int) -> None:
    assert Dropout(rate).cut == cut


@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 3, 7), (0, 4)])
def test_dropout_goes_back_through_the_same_mask(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x = torch.rand(shape) + 1
    x.requires_grad_()
    y = Dropout(0.4)(x)
    assert y.shape == x.shape
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient != 0, y != 0)
    torch.testing.assert_close(gradient * x, y)


def test_dropout_does_nothing_when_asked_to_serve() -> None:
    x = torch.rand(50)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


# -- compiled ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_that_trains_often_still_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo

    kept, modes = torch.compile, []

    def traced(function: Any, **options: Any) -> Any:
        compiled = kept(function, **options, backend="eager")
        return lambda *given: (modes.append(given[0].requires_grad), compiled(*given))[1]

    monkeypatch.setattr(torch, "compile", traced)
    monkeypatch.setattr(Dropout, "forward", lambda self, x: nn.functional.dropout(x, self.cut / 256, self.training))
    models = [SASRec(factors=8, blocks=1, epochs=1, max_len=6, dropout=rate) for rate in (0.1, 0.2, 0.3)]
    plain = [model.fit(DATA, run()).training_log_[0]["loss"] for model in models]
    assert not modes
    monkeypatch.setattr(devices, "compiles", lambda run, device: True)
    # By `patch`: monkeypatch deletes what it puts back, and this module then no longer has the setting.
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for model, loss in zip(models, plain):
            assert model.fit(DATA, run()).training_log_[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert all(modes)  # validation ran as it is written
    assert modes


def test_where_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert not devices.compiles(run(compiled=True), torch.device("cpu"))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(devices.shutil, "which", lambda name: name == "gcc")
    assert devices.compiles(run(compiled=True), gpu)
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert not devices.compiles(run(), gpu)
    with pytest.raises(ConfigError, match="C compiler"):
        devices.compiles(run(compiled=True), gpu)
