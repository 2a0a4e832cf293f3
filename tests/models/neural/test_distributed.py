"""Two processes train what one does, also where the last batch has no row for the second."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch is built without distributed", allow_module_level=True)

from torch import nn  # noqa: E402

from tests.models.neural.launcher import assert_same_weights, launch  # noqa: E402
from zhiyin.core.run import Run  # noqa: E402
from zhiyin.data.dataset import Dataset  # noqa: E402
from zhiyin.models.neural.distributed import Processes  # noqa: E402
from zhiyin.models.sequence import next_item  # noqa: E402
from zhiyin.models.sequence.sasrec import SASRec  # noqa: E402

SCRIPT = Path(__file__)
TRAININGS = ("dense", "sparse", "scored")


def learn(folder: Path) -> None:
    """What each process runs: three trainings, one after the other."""
    rng = np.random.default_rng(0)
    # 17 histories in batches of 8: the last batch is one row, and the second process has nothing of it.
    events = pl.DataFrame({"user": np.repeat(np.arange(17), 9), "item": rng.integers(0, 25, 17 * 9)})
    data = Dataset.build(events)
    rank = int(os.environ.get("RANK", "0"))
    for kind in TRAININGS:
        next_item.SPARSE_ROWS = 1 if kind == "sparse" else 100_000
        loss = {"dense": "softmax", "sparse": "sampled_softmax", "scored": "bpr_max"}[kind]
        model = SASRec(
            factors=8, epochs=3, batch_size=8, max_len=6, dropout=0.0, loss=loss, negatives=16, learning_rate=0.002,
            weight_decay=0.01, clip=0.5,
        )  # fmt: skip
        news: list[dict[str, Any]] = []
        run = Run(
            threads=1, device="cpu", callbacks=(news.append,),
            checkpoint=folder / f"checkpoint.{kind}", checkpoint_every="0.000001s",
        )  # fmt: skip
        model.fit(data, run)
        np.savez(folder / f"{kind}.{rank}.npz", **model.weights_, item_vectors_=model.item_vectors_)
        (folder / f"{kind}.{rank}.json").write_text(json.dumps({"reports": len(news), "curve": model.training_log_}))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of what one process learned and of what two did."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORLD_SIZE", raising=False)
        patch.delenv("RANK", raising=False)
        patch.setattr(next_item, "SPARSE_ROWS", next_item.SPARSE_ROWS)  # put back afterwards
        learn(one)
    done = launch([str(SCRIPT), str(two)], 2)
    assert done.returncode == 0, done.stderr[-5000:]
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAININGS)
def test_two_processes_learn_what_one_does(kind: str, both: tuple[Path, Path]) -> None:
    one, two = both
    assert_same_weights(one, two, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAININGS)
def test_one_of_them_speaks_and_all_know(kind: str, both: tuple[Path, Path]) -> None:
    one, two = both
    files = (one / f"{kind}.0.json", two / f"{kind}.0.json", two / f"{kind}.1.json")
    alone, first, second = (json.loads(file.read_text()) for file in files)
    assert (alone["reports"], first["reports"], second["reports"]) == (3, 3, 0)
    timed = ("seconds", "events_per_second")
    untimed = [[{k: v for k, v in row.items() if k not in timed} for row in log["curve"]] for log in (first, second)]
    assert untimed[0] == untimed[1]
    np.testing.assert_allclose(
        [entry["loss"] for entry in first["curve"]], [entry["loss"] for entry in alone["curve"]], rtol=1e-5
    )
    assert list((two / f"checkpoint.{kind}").iterdir()) == []


def test_one_process_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Processes.joined(torch.device("cpu")) as processes:
        assert (processes.rank, processes.world) == (0, 1)
        assert not torch.distributed.is_initialized()
        loss = torch.tensor(3.0, requires_grad=True)
        assert processes.total(loss, 7) == (loss, 7, False)
        assert processes.total(loss, 7, True) == (loss, 7, True)
        assert processes.number(loss) == 3.0
        assert processes.first(0.25) == 0.25
        processes.wait()
        layer = nn.Linear(2, 2)
        processes.sum_gradients(layer)
        assert layer.weight.grad is None


if __name__ == "__main__":
    learn(Path(sys.argv[1]))
