"""Click rankers beside DeepCTR-Torch: AUC, log-loss and the time of training, on MovieLens-100k.

    python3 -m venv /tmp/ctrv && /tmp/ctrv/bin/pip install torch==2.13.0 deepctr-torch==0.3.0
    ZHIYIN_DATA=... python benchmarks/ctr.py --peer /tmp/ctrv/bin/python
    ZHIYIN_DATA=... python benchmarks/ctr.py --tune --peer /tmp/ctrv/bin/python    # which settings: by validation alone

Label: rating >= 4. Features: user, item, gender, job, hour and weekday as categories, genres as a bag, age and year as
numbers; DIN reads the last 50 items the user had liked before that second, too. Split by time, 80/10/10; both sides
get the same arrays, embedding size 16, two hidden layers of 128, batches of 512, Adam, and stop by the validation
log-loss. The other settings are chosen for each side by validation log-loss from the grid below, on seed 0; the test
tenth is read by the chosen ones only, once a seed. Time is processor time of one thread: of an epoch of training alone,
as the median of the seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import log_loss, roc_auc_score  # type: ignore[import-untyped]

from peer_ctr import GRID as PEER_GRID  # the same file lies beside this one
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.ranking import registry
from zhiyin.ranking.examples import Examples
from zhiyin.ranking.ranker import Ranker

CODES = ("user", "gender", "job", "hour", "weekday")
NUMBERS = ("age", "year")
HISTORY, GENRES = 50, 6
FIXED = {"factors": 16, "hidden": 128, "layers": 2, "batch_size": 512, "epochs": 30, "patience": 2}
GRID: dict[str, list[Any]] = {
    "learning_rate": [1e-3, 3e-3], "reg": [1e-3, 1e-2, 3e-2], "dropout": [0.0, 0.3], "masked": [0.0, 0.1],
}  # fmt: skip
NETWORKS = ("deepfm", "dcnv2", "din")
TREES = {"objective": "binary", "trees": 1000, "learning_rate": 0.05, "patience": 50}


def read(folder: Path) -> dict[str, np.ndarray]:
    """Arrays of all rows, by time. Categories from 1; 0 is unknown, and padding."""
    events = pl.read_csv(
        folder / "u.data", separator="\t", has_header=False, new_columns=["user", "item", "rating", "t"]
    )
    items = pl.read_csv(folder / "items.tsv", separator="\t", infer_schema=False, quote_char=None)
    users = pl.read_csv(folder / "users.tsv", separator="\t", infer_schema=False, quote_char=None)
    items = items.rename({name: name.partition(":")[0] for name in items.columns})
    users = users.rename({name: name.partition(":")[0] for name in users.columns})
    genres = items.select(pl.col("item_id").cast(pl.Int64).alias("item"),
                          pl.col("release_year").cast(pl.Float32, strict=False).alias("year"),
                          pl.col("class").fill_null("").str.split(" ").alias("genres"))  # fmt: skip
    people = users.select(pl.col("user_id").cast(pl.Int64).alias("user"), pl.col("age").cast(pl.Float32),
                          pl.col("gender").rank("dense").alias("gender"),
                          pl.col("occupation").rank("dense").alias("job"))  # fmt: skip
    time_of = pl.from_epoch("t", time_unit="s")
    whole = (
        events.sort("t", "user", "item")
        .join(genres, on="item", how="left", maintain_order="left")
        .join(people, on="user", how="left", maintain_order="left")
        .with_columns(hour=time_of.dt.hour() + 1, weekday=time_of.dt.weekday())
    )
    names = sorted({name for row in genres["genres"].to_list() for name in row if name})
    code = {name: at + 1 for at, name in enumerate(names)}
    of_item = np.zeros((genres["item"].max() + 1, GENRES), dtype=np.int32)
    for item, row in zip(genres["item"], genres["genres"].to_list()):  # 1,682 items
        found = [code[name] for name in row if name][:GENRES]
        of_item[item, : len(found)] = found
    arrays = {name: whole[name].fill_null(0).to_numpy().astype(np.int32) for name in ("item", *CODES)}
    arrays |= {name: whole[name].to_numpy().astype(np.float32) for name in NUMBERS}
    arrays |= {"genres": of_item[arrays["item"]], "label": (whole["rating"].to_numpy() >= 4).astype(np.float32)}
    arrays["history"], arrays["length"] = histories(
        arrays["user"], arrays["item"], whole["t"].to_numpy(), arrays["label"]
    )
    n = len(arrays["label"])
    arrays["part"] = np.searchsorted([int(0.8 * n), int(0.9 * n)], np.arange(n), side="right").astype(np.int32)
    return arrays


def histories(user: np.ndarray, item: np.ndarray, t: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int32[m, HISTORY], the last items each user had liked before that second, oldest first, padded; their number."""
    liked = np.flatnonzero(label > 0)
    liked = liked[np.argsort(user[liked], kind="stable")]
    span = int(t.max() - t.min()) + 2
    moment = user.astype(np.int64) * span + (t - t.min())
    stop = np.searchsorted(moment[liked], moment, side="left")
    start = np.maximum(np.searchsorted(user[liked], user, side="left"), stop - HISTORY)
    at = start[:, None] + np.arange(HISTORY)
    real = at < stop[:, None]
    found = np.where(real, item[liked][np.minimum(at, len(liked) - 1)], 0)
    return found.astype(np.int32), (stop - start).astype(np.int32)


def examples(arrays: dict[str, np.ndarray], part: int, item_code: bool = False) -> tuple[Examples, np.ndarray]:
    """Rows of a part, a request each. `item_code`: the item as a column of codes too, as trees need it."""
    of = arrays["part"] == part
    m = int(of.sum())
    columns = [arrays[name][of] for name in CODES] + ([arrays["item"][of]] if item_code else [])
    cards = [int(arrays[name].max()) + 1 for name in CODES] + ([int(arrays["item"].max()) + 1] if item_code else [])
    genres, lengths = arrays["genres"][of], arrays["length"][of]
    starts = np.concatenate([[0], np.cumsum((genres > 0).sum(axis=1))])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    had = arrays["history"][of][np.arange(HISTORY) < lengths[:, None]]
    return Examples(
        np.arange(m + 1),
        arrays["item"][of],
        np.column_stack([arrays[name][of] for name in NUMBERS]),
        NUMBERS,
        np.column_stack(columns),
        (*CODES, "item") if item_code else CODES,
        tuple(cards),
        Histories.of(offsets, had),
        {"genres": (starts, genres[genres > 0], int(arrays["genres"].max()) + 1)},
    ), arrays["label"][of]


def ours(name: str, settings: dict[str, Any], arrays: dict[str, np.ndarray], seed: int, judged: int) -> dict[str, Any]:
    """Train one ranker; what it is worth on part `judged`."""
    trees = name == "trees"
    train, valid, last = (examples(arrays, part, trees) for part in (0, 1, judged))
    run = Run(seed=seed, threads=1, progress=False)
    ranker = registry.make(name, settings)
    begun = time.process_time()
    ranker.fit(*train, valid=valid, run=run)
    fit_s = time.process_time() - begun
    found = {"fit_s": fit_s, **worth(ranker, *last)}
    if not trees:
        found["epochs"] = ranker.training_log_[-1]["best_epoch"]
        found["epoch_s"] = epoch(name, settings, train, run)
    return found


def epoch(name: str, settings: dict[str, Any], train: tuple[Examples, np.ndarray], run: Run) -> float:
    """Processor time of one epoch of training alone: three without validation, less one."""
    spent = []
    for epochs in (1, 3):
        begun = time.process_time()
        registry.make(name, settings | {"epochs": epochs}).fit(*train, run=run)
        spent.append(time.process_time() - begun)
    return (spent[1] - spent[0]) / 2


def worth(ranker: Ranker, rows: Examples, labels: np.ndarray) -> dict[str, float]:
    p = ranker.score(rows, Run(threads=1)).astype(np.float64)
    return {"auc": float(roc_auc_score(labels, p)), "logloss": float(log_loss(labels, p))}


def theirs(python: str, file: Path, name: str, settings: dict[str, Any], seed: int, judged: int) -> dict[str, Any]:
    """The same in the peer's environment."""
    command = [python, str(Path(__file__).with_name("peer_ctr.py")), str(file), name, json.dumps(settings), str(seed),
               str(judged)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def trials(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def tune(arrays: dict[str, np.ndarray], file: Path, python: str, names: list[str]) -> None:
    """The grid of both sides, judged on validation; prints what to write into CHOSEN."""
    for name in names:
        for who, grid in (("zhiyin", GRID), ("deepctr", PEER_GRID)):
            found = []
            for settings in trials(grid):
                if who == "zhiyin":
                    result = ours(name, FIXED | limits(name) | settings, arrays, 0, 1)
                else:
                    result = theirs(python, file, name, settings, 0, 1)
                found.append((result["logloss"], settings, result["auc"]))
                print(f"  {name} {who} {settings}: valid log-loss {result['logloss']:.4f} auc {result['auc']:.4f}",
                      flush=True)  # fmt: skip
            best = min(found, key=lambda trial: trial[0])
            print(f"{name} {who}: {best[1]} (log-loss {best[0]:.4f}, AUC {best[2]:.4f})", flush=True)


def limits(name: str) -> dict[str, Any]:
    """DeepFM and DCNv2 read no history, as the peer's do not."""
    return {"max_len": HISTORY if name == "din" else 0}


# By `--tune`; see the docstring.
CHOSEN: dict[tuple[str, str], dict[str, Any]] = {
    ("deepfm", "zhiyin"): {"learning_rate": 0.003, "reg": 0.01, "dropout": 0.0, "masked": 0.1},
    ("deepfm", "deepctr"): {"learning_rate": 0.003, "l2": 0.01, "dropout": 0.0},
    ("dcnv2", "zhiyin"): {"learning_rate": 0.003, "reg": 0.01, "dropout": 0.3},
    ("dcnv2", "deepctr"): {"learning_rate": 0.003, "l2": 0.1, "dropout": 0.0},
    ("din", "zhiyin"): {"learning_rate": 0.003, "reg": 0.001, "dropout": 0.3},
    ("din", "deepctr"): {"learning_rate": 0.001, "l2": 0.1, "dropout": 0.0},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="/tmp/ctrv/bin/python", help="a Python that has deepctr-torch")
    parser.add_argument("--tune", action="store_true", help="choose settings by validation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    asked = parser.parse_args()
    folder = Path(os.environ.get("ZHIYIN_DATA", ".")) / "movielens-100k"
    if not folder.exists():
        sys.exit("set ZHIYIN_DATA to the folder that holds movielens-100k/")
    arrays = read(folder)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "rows.npz"
        np.savez(file, **arrays)
        if asked.tune:
            tune(arrays, file, asked.peer, asked.names)
            return 0
        ok = True
        for name in asked.names:
            runs: dict[str, list[dict[str, Any]]] = {"zhiyin": [], "deepctr": []}
            for seed in range(asked.seeds):  # in turn, so that both meet the same machine
                runs["zhiyin"].append(ours(name, FIXED | limits(name) | CHOSEN[name, "zhiyin"], arrays, seed, 2))
                runs["deepctr"].append(theirs(asked.peer, file, name, CHOSEN[name, "deepctr"], seed, 2))
            middle = {
                who: {key: statistics.median(run[key] for run in of) for key in of[0]} for who, of in runs.items()
            }
            for who, of in middle.items():
                print(f"{name:8} {who:8} AUC {of['auc']:.4f} log-loss {of['logloss']:.4f} best {of['epochs']:.0f}  "
                      f"an epoch {of['epoch_s']:.2f} s  training {of['fit_s']:.1f} s", flush=True)  # fmt: skip
            faster = middle["deepctr"]["epoch_s"] / middle["zhiyin"]["epoch_s"]
            good = (middle["zhiyin"]["auc"] >= middle["deepctr"]["auc"]
                    and middle["zhiyin"]["logloss"] <= middle["deepctr"]["logloss"] and faster >= 3)  # fmt: skip
            print(f"{name:8} {faster:.1f} times as fast an epoch; {'reached' if good else 'MISSED'}", flush=True)
            ok &= good
        of = ours("trees", TREES, arrays, 0, 2)
        print(f"trees    lightgbm AUC {of['auc']:.4f}  log-loss {of['logloss']:.4f}  training {of['fit_s']:.1f} s")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
