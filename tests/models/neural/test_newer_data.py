"""A training that was interrupted goes on with newer data: rows go with their ids; else it says why it begins anew."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

import zhiyin as zy  # noqa: E402
from zhiyin.core.interrupts import Interrupted  # noqa: E402
from zhiyin.core.run import Run  # noqa: E402
from zhiyin.data.dataset import Dataset  # noqa: E402
from zhiyin.models.neural import training_loop  # noqa: E402
from zhiyin.models.neural.checkpoint_rows import DataOutline, Move, NotContinuedError, carried_over  # noqa: E402

DAY, T0 = 86_400_000_000, 1_600_000_000_000_000


def log_of(newer: int = 0, drop: int = 0) -> Dataset:
    """24 users with 12 events each of 20 items; `newer` events later on, of a new user and new items that are sorted
    before, between and after the others; `drop` of the first events left out."""
    rows = [(f"u{u:02}", f"i{(u + 3 * n) % 20:02}", T0 + n * DAY + u) for u in range(24) for n in range(12)][drop:]
    rows += [(f"u{n:02}x", f"i{5 * n:02}b", T0 + 13 * DAY + n) for n in range(newer)]
    rows += [("u03", "a first item", T0 + 14 * DAY)] if newer else []
    return zy.read(pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"))


def interrupted(model: Any, data: Dataset, run: Run, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until an epoch has ended, and leave a checkpoint as Ctrl-C does."""

    def stop(news: dict[str, Any]) -> None:
        if news["epoch"] == epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(data, Run(threads=1, checkpoint=run.checkpoint, checkpoint_every="0.000001s", callbacks=(stop,)))


def models() -> list[Any]:
    settings: dict[str, Any] = {"factors": 4, "epochs": 4, "patience": 0, "batch_size": 8}
    return [
        zy.SASRec(max_len=6, **settings),
        zy.MultVAE(**settings),
        zy.LightGCN(**settings),
        zy.UltraGCN(**settings),
    ]


@pytest.mark.parametrize("place", range(4))
def test_it_goes_on(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, old, new = Run(threads=1, checkpoint=tmp_path), log_of(), log_of(newer=3)
    interrupted(models()[place], old, run, 3, monkeypatch)
    with caplog.at_level(logging.INFO, "zhiyin"):
        model = models()[place].fit(new, run)
    assert "continues from epoch 3" in caplog.text  # the third had ended, and the checkpoint is of before its end
    assert "4 events newer are learned from now on, 4 new items" in caplog.text
    assert [row["epoch"] for row in model.training_log_] == [1, 2, 3, 4]
    assert len(model.recommend("u00x", 3)) == 3
    assert not list(tmp_path.iterdir())


def test_what_was_held_back_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be judged by events that it has learned from."""
    held: list[Dataset] = []
    identity = zy.MultVAE._identity

    def seen(self: Any, data: Dataset, part: Dataset, run: Run) -> Any:
        held.append(part)
        return identity(self, data, part, run)

    monkeypatch.setattr(zy.MultVAE, "_identity", seen)
    run = Run(threads=1, checkpoint=tmp_path)
    interrupted(models()[1], log_of(), run, 3, monkeypatch)
    models()[1].fit(log_of(newer=3), run)
    first, second = (
        set(
            zip(
                part.user_ids.decode(part.events["user"].to_numpy()),
                part.item_ids.decode(part.events["item"].to_numpy()),
            )
        )
        for part in held
    )
    assert first == second
    assert len(first) >= 24


def test_rows_go_with_their_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, old, new = Run(threads=1, checkpoint=tmp_path), log_of(), log_of(newer=3)
    kept: dict[str, Any] = {}
    original = training_loop.make_optimizers

    def seen(network: Any, plan: Any) -> Any:
        kept["network"] = network
        return original(network, plan)

    monkeypatch.setattr(training_loop, "make_optimizers", seen)
    interrupted(models()[0], old, run, 4, monkeypatch)
    before = kept["network"].items.weight.detach().clone()
    tables = {}
    restore = training_loop.Checkpoints.restore

    def restored(self: Any, network: Any, *given: Any) -> Any:
        fresh = network.items.weight.detach().clone()
        found = restore(self, network, *given)
        tables.update(fresh=fresh, now=network.items.weight.detach().clone())
        return found

    monkeypatch.setattr(training_loop.Checkpoints, "restore", restored)
    models()[0].fit(new, run)
    places = new.item_ids.encode(old.item_ids.values)
    assert (places != np.arange(len(places))).any()
    assert torch.allclose(tables["now"][places], before, atol=1e-2)  # of a step before
    others = np.setdiff1d(np.arange(new.n_items), places)
    assert torch.equal(tables["now"][others], tables["fresh"][others])


@pytest.mark.parametrize(
    ("model", "data", "why"),
    [
        (zy.SASRec(factors=4, epochs=3, max_len=6), log_of(drop=8), "they were 288 events, and are 280 others"),
        (zy.SASRec(factors=4, epochs=3, max_len=6, validation="users"), log_of(newer=3), "drawn anew"),
        (zy.TwoTower(factors=4, epochs=3), log_of(newer=3), "its vocabulary is learned from them"),
    ],
)
def test_it_says_why_it_begins_anew(
    model: Any, data: Dataset, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    run = Run(threads=1, checkpoint=tmp_path)
    interrupted(model, log_of(), run, 2, monkeypatch)
    with caplog.at_level(logging.INFO, "zhiyin"):
        model.fit(data, run)
    assert why in caplog.text
    assert "beginning anew" in caplog.text
    assert model.training_log_[0]["epoch"] == 1


def test_data_that_are_not_newer() -> None:
    old, new = DataOutline.of(log_of(), users=True), DataOutline.of(log_of(newer=3), users=True)
    moves = new.moves(old.facts, old.arrays)
    assert [(move.what, move.old, move.new) for move in moves] == [("items", 20, 24), ("users", 24, 27)]
    for other, why in ((log_of(), "others"), (log_of(newer=3, drop=2), "gone|moment")):
        with pytest.raises(NotContinuedError, match=why):
            DataOutline.of(other, users=True).moves(old.facts, old.arrays)


def test_tables_are_carried_over() -> None:
    moves = [Move("items", 2, 4, np.array([1, 3]))]
    old = {"table": torch.tensor([[1.0], [2.0]]), "bias": torch.ones(3), "step": torch.tensor(7.0)}
    fresh = {"table": torch.zeros(4, 1), "bias": torch.zeros(3), "step": torch.tensor(0.0)}
    found = carried_over(old, fresh, moves)
    assert found["table"].tolist() == [[0.0], [1.0], [0.0], [2.0]]
    assert found["bias"].tolist() == [1.0] * 3
    assert float(found["step"]) == 7.0
    for name, shape in (("table", (5, 1)), ("table", (4, 2)), ("bias", (4,))):
        with pytest.raises(NotContinuedError, match="shape"):
            carried_over(old, fresh | {name: torch.zeros(shape)}, moves)


def test_the_first_signal_ends_the_step_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from zhiyin.models.sequence.next_item import NextItem

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("SIGINT is ignored in this process")
    whole = models()[0].fit(log_of(), Run(threads=1))
    calls, original = [], NextItem.loss

    def loss(network: Any, batch: Any, draw: Any) -> Any:
        if network.training:
            calls.append(None)
            if len(calls) == 5:
                signal.raise_signal(signal.SIGINT)
        return original(network, batch, draw)

    monkeypatch.setattr(NextItem, "loss", loss)
    run = Run(threads=1, checkpoint=tmp_path)
    with pytest.raises(Interrupted, match=r"SASRec: ended in epoch 2 of 4, step 5; .* is kept in") as raised:
        models()[0].fit(log_of(), run)
    assert raised.value.number == signal.SIGINT
    assert len(calls) == 5  # the step was finished, none was begun
    model = models()[0].fit(log_of(), run)
    for name, array in whole.weights_.items():
        np.testing.assert_array_equal(array, model.weights_[name], err_msg=name)
