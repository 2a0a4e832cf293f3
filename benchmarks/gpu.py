"""Networks on a GPU: whether they agree with the CPU, how fast and how good they are.

    ZHIYIN_DATA=... python benchmarks/gpu.py check                # small fits of every network, here and there
    ZHIYIN_DATA=... python benchmarks/gpu.py speed ml1m-sasrec    # seconds an epoch, each way alone
    ZHIYIN_DATA=... python benchmarks/gpu.py quality ml1m-sasrec  # three seeds, all at once on one GPU

Rows, settings and protocol are those of neural.py. `speed` and `quality` train with bfloat16 (autocast, as is usual on
a GPU) and in float32; `speed` also with the encoder compiled. Nothing is chosen here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import torch

import published
import zhiyin as zy
from neural import ROWS
from zhiyin.data.dataset import Dataset
from zhiyin.models.neural.distributed import Processes
from zhiyin.models.registry import parse
from zhiyin.models.sequence import next_item

SMALL = "factors=16,epochs=2,dropout=0,batch_size=64,validation=none"
NEXT = "sasrec:max_len=12," + SMALL
NETWORKS = (
    NEXT, NEXT + ",positions=relative", NEXT + ",windows=true", NEXT + ",temperature=0.2",
    *(f"{NEXT},negatives=64,loss={loss}" for loss in ("sampled_softmax", "gbce", "bpr", "bpr_max")),
    "gru4rec:max_len=12," + SMALL, "narm:max_len=12," + SMALL, "caser:" + SMALL, "hstu:max_len=12," + SMALL,
    "neumf:" + SMALL, "multvae:" + SMALL, "multvae:hidden=0,negatives=64," + SMALL, "lightgcn:" + SMALL,
    "lightgcn:temperature=0.2," + SMALL, "ultragcn:" + SMALL, "twotower:" + SMALL,
)  # fmt: skip


@contextlib.contextmanager
def products(half: bool) -> Iterator[None]:
    """Train with bfloat16, as a GPU does, or without."""
    autocast = torch.autocast

    def off(kind: str, dtype: torch.dtype | None = None, enabled: bool = True) -> Any:
        return autocast(kind, dtype=dtype, enabled=False)

    with contextlib.nullcontext() if half else mock.patch("torch.autocast", off):
        yield


# -- do they agree ----------------------------------------------------------------------------------------------------


def walks(users: int = 400, items: int = 150, events: int = 20) -> Dataset:
    """Users who mostly walk on from an item to one of the next three."""
    rng = np.random.default_rng(1)
    steps = np.where(rng.random((users, events)) < 0.9, rng.integers(1, 4, (users, events)), rng.integers(0, items, 1))
    at = (rng.integers(0, items, (users, 1)) + steps.cumsum(axis=1)) % items
    user = np.repeat(np.arange(users), events)
    kept = rng.random(user.size) < 0.8  # histories of unlike length
    return Dataset.build(pl.DataFrame({"user": user[kept], "item": at.ravel()[kept]}))


def check(only: list[str], device: str, most: float) -> int:
    """One line a network: float32 beside the CPU, bfloat16, and whether the same seed gives the same bits."""
    torch.backends.cudnn.allow_tf32 = False
    data, wrong = walks(), 0
    for sparse in (False, True):
        texts = [text for text in NETWORKS if not sparse or "sampled" in text]
        texts = [text for text in texts if not only or text.partition(":")[0] in only]
        with mock.patch.object(next_item, "SPARSE_ROWS", 1) if sparse else contextlib.nullcontext():
            for text in texts:
                wrong += _agrees(text, data, device, most, " sparse table" if sparse else "")
    wrong += _goes_on(data, device)
    if device != "cpu" and not only:
        wrong += _messages(torch.device(device, 0))
        wrong += _compiles(data, device)
    print("all agree" if not wrong else f"{wrong} DO NOT AGREE", flush=True)
    return 1 if wrong else 0


def _agrees(text: str, data: Dataset, device: str, most: float, note: str) -> bool:
    begun = time.perf_counter()
    try:
        with products(half=False):
            here, there, again = (parse(text).fit(data, zy.Run(seed=3, device=d)) for d in ("cpu", device, device))
        half = parse(text).fit(data, zy.Run(seed=3, device=device))
    except Exception as error:
        print(f"FAILED  {text}{note}: {type(error).__name__}: {str(error)[:600]}", flush=True)
        return True
    losses = [[news["loss"] for news in model.training_log_] for model in (here, there, half)]
    loss, rounded = (max(abs(a / b - 1) for a, b in zip(losses[0], other)) for other in losses[1:])
    vectors = np.linalg.norm(there.item_vectors_ - here.item_vectors_) / np.linalg.norm(here.item_vectors_)
    asked = data.histories.take(np.arange(100))
    same = float(np.mean(here.rank(asked, 5)[0] == there.rank(asked, 5)[0]))
    bits = all(np.array_equal(array, again.weights_[name]) for name, array in there.weights_.items())
    if text.startswith("multvae"):  # draws its noise where it computes: here and there it is another one
        most, vectors = 0.01, 0.0
    bad = not (loss < most and vectors < 10 * most and rounded < 0.05)
    print(f"{'WRONG ' if bad else 'ok    '}  loss {loss:.1e} vectors {vectors:.1e} lists {same:.3f} "
          f"same bits {bits} | bfloat16: loss {rounded:.1e} | {time.perf_counter() - begun:.1f} s {text}{note}",
          flush=True)  # fmt: skip
    return bad


def _goes_on(data: Dataset, device: str) -> bool:
    """A training that was interrupted after its first epoch ends where one ends that was not."""

    def stop(news: dict[str, Any]) -> None:
        if news["epoch"] == 1:
            raise KeyboardInterrupt

    text = NEXT.replace("dropout=0", "dropout=0.2").replace("epochs=2", "epochs=3")
    with tempfile.TemporaryDirectory() as folder:
        whole = parse(text).fit(data, zy.Run(device=device))
        kept = {"device": device, "checkpoint": folder, "checkpoint_every": "0.000001s"}
        with contextlib.suppress(KeyboardInterrupt):
            parse(text).fit(data, zy.Run(callbacks=(stop,), **kept))
        found = (Path(folder) / "training.safetensors").exists()
        resumed = parse(text).fit(data, zy.Run(**kept))
    apart = np.linalg.norm(whole.item_vectors_ - resumed.item_vectors_) / np.linalg.norm(whole.item_vectors_)
    bad = not (found and apart < 1e-4)
    print(f"{'WRONG ' if bad else 'ok    '}  interrupted and gone on: {apart:.1e} from one that was not", flush=True)
    return bad


def _messages(device: torch.device) -> bool:
    """What processes send, through NCCL, in a group of one."""
    import torch.distributed as dist

    try:
        dist.init_process_group("cpu:gloo,cuda:nccl", init_method="tcp://127.0.0.1:29517", rank=0, world_size=1)
        two = Processes(0, 2, device)  # says it is one of two, so that it sends
        table = torch.nn.Embedding(50, 4, sparse=True, device=device)
        network = torch.nn.Sequential(torch.nn.Linear(4, 4, device=device))
        network(table(torch.tensor([1, 3, 3], device=device))).sum().backward()
        before = [p.grad.clone() for p in network.parameters()]
        two.sum_gradients(network)
        rows = Processes(0, 1, device)._sum_rows(table.weight)
        two.wait()
        sound = (
            all(torch.equal(p.grad, was) for p, was in zip(network.parameters(), before))
            and torch.equal(rows.to_dense(), table.weight.grad.to_dense())
            and two.first(0.25) == 0.25
            and two.total(torch.ones((), device=device), 7)[1] == 7
            and two.number(torch.full((), 0.5, device=device)) == 0.5
        )
        dist.destroy_process_group()
    except Exception as error:
        print(f"FAILED  nccl: {type(error).__name__}: {str(error)[:600]}", flush=True)
        return True
    print("ok      messages through nccl" if sound else "WRONG   nccl", flush=True)
    return not sound


def _compiles(data: Dataset, device: str) -> bool:
    """Compiled, with validation, it learns as it does uncompiled."""
    text = NEXT.replace("validation=none", "validation=last")
    bad = False
    for base in (text, text.replace("sasrec:", "gru4rec:"), text.replace("sasrec:", "hstu:")):
        begun = time.perf_counter()
        try:
            runs = []
            for compiled in (False, True):
                with products(half=False):
                    runs.append(parse(base).fit(data, zy.Run(seed=3, device=device, compiled=compiled)))
        except Exception as error:
            print(f"FAILED  compiled {base}: {type(error).__name__}: {str(error)[:600]}", flush=True)
            bad = True
            continue
        apart = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(runs[0].training_log_, runs[1].training_log_))
        wrong = apart > 1e-3
        bad |= wrong
        spent = time.perf_counter() - begun
        print(f"{'WRONG ' if wrong else 'ok    '}  compiled: loss {apart:.1e} {spent:.1f} s {base}", flush=True)
    return bad


# -- how fast, how good -----------------------------------------------------------------------------------------------


def one(name: str, seed: int, half: bool, compiled: bool, epochs: int, threads: int, device: str) -> dict[str, Any]:
    """Train a row once. Seconds of training and of validation an epoch; with all epochs, the figures of test too."""
    row = ROWS[name]
    split = getattr(published, row.data)()
    model = parse(row.model)
    if epochs:
        model.epochs = epochs
    judging: list[float] = []
    marks: list[float] = []
    judge = model._validated

    def timed(*args: Any) -> float:
        begun = time.perf_counter()
        found = judge(*args)
        judging.append(time.perf_counter() - begun)
        return found

    model._validated = timed
    run = zy.Run(seed=seed, threads=threads, device=device, compiled=compiled,
                 callbacks=(lambda news: marks.append(time.perf_counter()),))  # fmt: skip
    begun = time.perf_counter()
    with products(half):
        model.fit(split.train, run)
    whole = time.perf_counter() - begun
    training = np.diff([begun, *marks]) - np.pad(judging, (0, len(marks) - len(judging)))
    said: dict[str, Any] = {
        "row": name, "seed": seed, "half": half, "compiled": compiled, "epochs": len(marks), "fit_s": round(whole, 1),
        "first_s": round(float(training[0]), 2), "epoch_s": round(float(np.median(training[1:])), 3),
        "first_judge_s": round(judging[0], 2), "judge_s": round(statistics.median(judging[1:]), 3),
        "loss": model.training_log_[-1]["loss"], "best": max(news.get("ndcg@10", 0.0) for news in model.training_log_),
    }  # fmt: skip
    if not epochs:
        k = int(row.metrics[0].partition("@")[2])
        judged = zy.evaluate([model], split=split, k=(k,), main=row.metrics[1], exclude_seen=row.data != "diginetica",
                             baselines=False, rounds=10, run=run)  # fmt: skip
        said["test"] = [judged.models[0].metrics[metric] for metric in row.metrics]
    return said


def speed(names: list[str], epochs: int, device: str, seconds: float) -> int:
    """Each way alone, one after the other."""
    end = time.monotonic() + seconds
    for name in names:
        for half, compiled in ((True, False), (False, False), (True, True), (False, True)):
            if (left := end - time.monotonic()) < 10:
                print("no time left for", name, half, compiled, flush=True)
                continue
            _finish([_begin(name, 0, half, compiled, epochs, os.cpu_count() or 1, device)], left)
    return 0


def quality(names: list[str], seeds: list[int], halves: tuple[bool, ...], device: str, seconds: float) -> int:
    """All trainings at once: a network as small as these leaves most of a GPU idle."""
    asked = [(name, seed, half) for name in names for half in halves for seed in seeds]
    threads = max(1, (os.cpu_count() or 1) // len(asked))
    found = _finish([_begin(name, seed, half, False, 0, threads, device) for name, seed, half in asked], seconds)
    for name in names:
        for half in halves:
            tests = [run["test"] for run in found if run["row"] == name and run["half"] == half]
            kind = "bfloat16" if half else "float32"
            if not tests:
                print(f"{name} {kind}: none finished", flush=True)
                continue
            means = [statistics.mean(column) for column in zip(*tests)]
            errors = [statistics.stdev(column) / len(tests) ** 0.5 if len(tests) > 1 else 0.0 for column in zip(*tests)]
            print(f"{name} {kind}: {means[0]:.4f} / {means[1]:.4f} (± {errors[0]:.4f} / {errors[1]:.4f}, "
                  f"{len(tests)} seeds; {'/'.join(ROWS[name].metrics)}; published {ROWS[name].published}; "
                  f"to reach {ROWS[name].reach})", flush=True)  # fmt: skip
    return 0


def _begin(name: str, seed: int, half: bool, compiled: bool, epochs: int, threads: int, device: str) -> Any:
    said = [name, "--seeds", seed, "--epochs", epochs, "--threads", threads, "--device", device]
    ways = ([] if half else ["--float32"]) + (["--compiled"] if compiled else [])
    command = [sys.executable, __file__, "one", *map(str, said), *ways]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(children: list[Any], seconds: float) -> list[dict[str, Any]]:
    """What the processes found, printed as they end; those that do not end in time are stopped."""
    end, found = time.monotonic() + seconds, []
    while children and time.monotonic() < end:
        for child in [child for child in children if child.poll() is not None]:
            children.remove(child)
            out, err = child.communicate()
            if child.returncode:
                print("FAILED", child.args[2:], err[-1500:], flush=True)
                continue
            found.append(json.loads(out.strip().splitlines()[-1]))
            print(json.dumps(found[-1]), flush=True)
        time.sleep(0.2)
    for child in children:
        child.kill()
        print("out of time:", " ".join(child.args[3:]), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "speed", "quality", "one"))
    parser.add_argument("rows", nargs="*", help=f"rows of neural.py: {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4, help="of speed; 0: all, as in quality")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which speed and quality stop")
    parser.add_argument("--only", nargs="+", default=[], help="networks of check")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--float32", action="store_true", help="this alone")
    parser.add_argument("--bfloat16", action="store_true", help="this alone")
    parser.add_argument("--compiled", action="store_true", help="compile the encoder")
    asked = parser.parse_args()
    if asked.device != "cpu":
        print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    if asked.what == "check":
        return check(asked.only, asked.device, 1e-3)
    if asked.what == "speed":
        return speed(asked.rows, asked.epochs, asked.device, asked.seconds)
    if asked.what == "quality":
        halves = (False,) if asked.float32 else (True,) if asked.bfloat16 else (True, False)
        return quality(asked.rows, asked.seeds, halves, asked.device, asked.seconds)
    half = not asked.float32
    print(
        json.dumps(one(asked.rows[0], asked.seeds[0], half, asked.compiled, asked.epochs, asked.threads, asked.device))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
