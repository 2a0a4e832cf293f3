"""Two processes that read different shards train what one process does that reads them all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch is built without distributed", allow_module_level=True)

import zhiyin as zy  # noqa: E402
from tests.models.neural.launcher import assert_same_weights, free_port, launch  # noqa: E402
from zhiyin.core.run import Run  # noqa: E402
from zhiyin.data.shard_files import shard_folder, shard_numbers, write_shards  # noqa: E402
from zhiyin.models.sequence import next_item  # noqa: E402
from zhiyin.pipeline.model_versions import Bundles  # noqa: E402

SCRIPT = Path(__file__)
N_SHARDS = 3
SMALL: dict[str, Any] = {
    "factors": 8, "epochs": 3, "batch_size": 8, "dropout": 0.0, "learning_rate": 0.002, "clip": 0.5
}  # fmt: skip
# Model, settings, and whether two processes draw the same random numbers as one.
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("SASRec", {**SMALL, "max_len": 6, "loss": "softmax", "weight_decay": 0.01, "validation": "last"}),
    "sparse": ("SASRec", {**SMALL, "max_len": 6, "loss": "sampled_softmax", "negatives": 16, "validation": "ratio"}),
    "recurrent": ("GRU4Rec", {**SMALL, "max_len": 4, "windows": True, "loss": "bpr_max", "negatives": 16,
                              "validation": "time"}),
    "pooled": ("NeuMF", {**SMALL, "max_len": 6, "validation": "users", "patience": 1}),
    "towers": ("TwoTower", {**SMALL, "max_len": 6, "negatives": 16, "id_dropout": 0.0, "history_dropout": 0.0,
                            "min_count": 1,
                            "validation": "cold-items"}),
    "noisy": ("MultVAE", {**SMALL, "hidden": 8, "validation": "none"}),
}  # fmt: skip
EQUAL = [name for name in TRAININGS if name != "noisy"]  # the autoencoder draws its noise in each process


def events() -> zy.Dataset:
    """18 users, one of them alone in shard 1, with likes and dislikes, and columns of users and items."""
    names = pl.Series([f"user {n}" for n in range(200)])
    shard = shard_numbers(names, N_SHARDS)
    alone, others = names.filter(pl.Series(shard == 1))[0], names.filter(pl.Series(shard != 1)).head(17).to_list()
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 14, 18)
    frame = pl.DataFrame(
        {
            "user": np.repeat([alone, *others], lengths),
            "item": rng.integers(0, 25, lengths.sum()),
            "time": 1_700_000_000_000_000 + rng.permutation(int(lengths.sum())) * 3_600_000_000,
            "kind": rng.choice(["view", "buy", "dislike"], lengths.sum(), p=[0.6, 0.3, 0.1]),
        }
    )
    items = pl.DataFrame({"id": np.arange(27), "genre": [f"genre {n % 4}" for n in range(27)]})
    users = pl.DataFrame({"id": [alone, *others], "town": [f"town {n % 3}" for n in range(18)]})
    return zy.read(frame, items=items, users=users)


def learn(shards: Path, out: Path) -> None:
    """What each process runs: the trainings, one after the other."""
    rank = int(os.environ.get("RANK", "0"))
    data = zy.read_shards(shards)
    sizes = {"own": data.n_events, "window": data.window, "fingerprint": data.fingerprint}
    (out / f"data.{rank}.json").write_text(json.dumps(sizes))
    for kind, (name, settings) in TRAININGS.items():
        next_item.SPARSE_ROWS = 1 if kind == "sparse" else 100_000
        model = getattr(zy, name)(**settings)
        model.fit(data, Run(threads=1, device="cpu"))
        np.savez(out / f"{kind}.{rank}.npz", **model.weights_, item_vectors_=model.item_vectors_)
        (out / f"{kind}.{rank}.json").write_text(json.dumps(model.training_log_))
        model.save(out / kind)


def only_shards_of(folder: Path, rank: int, world: int) -> None:
    """Remove the events of the shards of other processes."""
    for shard in range(N_SHARDS):
        if shard % world != rank:
            shutil.rmtree(folder / shard_folder(shard, N_SHARDS))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of what one process learned and of what two did, which had no other events than their own."""
    one, two, shards = (tmp_path_factory.mktemp(name) for name in ("one", "two", "shards"))
    write_shards(events(), shards / "0", N_SHARDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORLD_SIZE", raising=False)
        patch.delenv("RANK", raising=False)
        patch.setattr(next_item, "SPARSE_ROWS", next_item.SPARSE_ROWS)  # put back afterwards
        learn(shards / "0", one)
    shutil.copytree(shards / "0", shards / "1")
    for rank in range(2):
        only_shards_of(shards / str(rank), rank, 2)
    done = launch([str(SCRIPT), "learn", str(shards), str(two)], 2)
    assert done.returncode == 0, done.stderr[-5000:]
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("kind", EQUAL)
def test_two_processes_learn_from_their_shards_what_one_does(kind: str, both: tuple[Path, Path]) -> None:
    one, two = both
    assert_same_weights(one, two, kind)
    curves = [json.loads(file.read_text()) for file in (one / f"{kind}.0.json", two / f"{kind}.0.json")]
    figures = ("loss", "valid_loss", "ndcg@10", "best_epoch", "learning_rate")
    second = json.loads((two / f"{kind}.1.json").read_text())
    assert [[entry[name] for name in figures] for entry in second] == [
        [entry[name] for name in figures] for entry in curves[1]
    ]
    assert [entry["epoch"] for entry in curves[0]] == list(range(1, len(curves[0]) + 1))
    for name in figures:
        of_one, of_two = ([entry[name] for entry in curve] for curve in curves)
        np.testing.assert_allclose(of_two, of_one, rtol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAININGS)
def test_the_first_process_saves_the_model_with_all_histories(kind: str, both: tuple[Path, Path]) -> None:
    one, two = (zy.load(folder / kind) for folder in both)
    for name in ("offsets", "items", "weights", "times", "kinds", "now", "users"):
        np.testing.assert_array_equal(getattr(two.context_.histories, name), getattr(one.context_.histories, name))
    for name in ("candidates", "popularity", "priority"):
        np.testing.assert_array_equal(getattr(two.context_, name), getattr(one.context_, name))
    assert two.context_.user_ids.values.equals(one.context_.user_ids.values)
    assert two.context_.window == one.context_.window
    wanted, lists = (model.recommend(k=5) for model in (one, two))
    assert lists["user"].equals(wanted["user"])
    if kind in EQUAL:
        np.testing.assert_allclose(lists["score"], wanted["score"], atol=1e-3)


@pytest.mark.slow
def test_processes_hold_their_own_events_and_agree_on_the_rest(both: tuple[Path, Path]) -> None:
    files = (both[0] / "data.0.json", both[1] / "data.0.json", both[1] / "data.1.json")
    alone, first, second = (json.loads(file.read_text()) for file in files)
    assert first["own"] + second["own"] == alone["own"]
    assert 0 < second["own"] <= 13
    assert alone["window"] == first["window"] == second["window"]
    assert first["fingerprint"] == second["fingerprint"]


@pytest.mark.slow
def test_the_command_trains_a_version_and_refuses_in_one_line(tmp_path: Path) -> None:
    write_shards(events(), tmp_path / "shards", 2)
    command = ["-m", "zhiyin", "train", "--shards", "shards", "--output", "models"]
    small = ["sasrec:factors=8,epochs=2,max_len=6", "--as-version"]
    done = launch([*command, *small], 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stderr.count("kept as version 1") == 1
    version = Bundles(tmp_path / "models/bundles").get(1)
    version.verify()
    lists = [model.recommend(k=3) for model in (zy.load(tmp_path / "models/sasrec"), version.load())]
    assert lists[0].equals(lists[1])
    assert lists[0]["user"].n_unique() == 18

    for part in sorted((tmp_path / "shards").glob("events/shard-00001-*/part-*")):
        part.write_bytes(part.read_bytes()[:100])
    refused = launch([*command, *small], 2, cwd=tmp_path)  # by the second process alone
    assert refused.returncode != 0
    assert refused.stderr.count("a part cannot be read") == 1
    assert [line[:6] for line in refused.stderr.splitlines()].count("Error:") == 1, refused.stderr


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_one_line(tmp_path: Path) -> None:
    write_shards(events(), tmp_path / "shards", 2)
    arguments = ["train", "sasrec:factors=8,epochs=5000,patience=0,max_len=6", "--shards", "shards"]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    group["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    begun = [
        subprocess.Popen(
            [sys.executable, *command, *arguments], env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": "0"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )
        for rank, command in enumerate((["-m", "zhiyin"], [str(SCRIPT), "die"]))
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=120)[1] for process in begun]
    finally:
        for process in begun:
            process.kill()
            process.wait()
    assert begun[1].returncode == -signal.SIGKILL, errors[1]
    assert begun[0].returncode == 1
    assert errors[0].count("Error: another process of the training has ended") == 1
    assert "Traceback" not in errors[0]
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").glob("*/model.json"))


def die_in_the_middle() -> None:
    """The command, in a process that kills itself after some steps."""
    from zhiyin.cli.main import main
    from zhiyin.models.neural.distributed import Processes

    sum_gradients, steps = Processes.sum_gradients, [0]

    def counted(self: Processes, network: Any) -> None:
        steps[0] += 1
        if steps[0] > 5:
            os.kill(os.getpid(), signal.SIGKILL)
        sum_gradients(self, network)

    Processes.sum_gradients = counted  # type: ignore[method-assign]
    main()


if __name__ == "__main__":
    if sys.argv[1] == "die":
        del sys.argv[1]
        die_in_the_middle()
    else:
        learn(Path(sys.argv[2]) / os.environ["RANK"], Path(sys.argv[3]))
