"""The vector of one history from each network, as a request needs it: torch as serving runs it, and ONNX Runtime.

    python benchmarks/encoders.py                      # all networks, a history of 50, 64 factors, one thread
    python benchmarks/encoders.py SASRec GRU4Rec --length 200

Printed for each network: milliseconds of a call of `encode` (median and 99 %), of the network alone, and of the network
exported to ONNX, where it can be: its call, the seconds that the export takes, and the largest difference. The networks
are trained for one epoch on random events: what is measured is time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import zhiyin as zy
from zhiyin.data.histories import Histories
from zhiyin.models import registry
from zhiyin.models.neural.batches import request_sequences
from zhiyin.models.sequence import onnx_export

NETWORKS = ("SASRec", "GRU4Rec", "NARM", "Caser", "HSTU", "TwoTower")


def shop(n_items: int, n_users: int) -> zy.Dataset:
    """Random events; every item has at least one. Items and users have columns, for TwoTower."""
    rng = np.random.default_rng(0)
    items = np.concatenate([np.arange(n_items), rng.integers(0, n_items, n_items)])
    events = pl.DataFrame({
        "user": rng.integers(0, n_users, 2 * n_items), "item": items,
        "time": np.sort(rng.integers(0, 10**15, 2 * n_items)),
    })  # fmt: skip
    described = pl.DataFrame({
        "id": np.arange(n_items), "title": [f"word{n % 900} and word{7 * n % 1000}" for n in range(n_items)],
    })  # fmt: skip
    people = pl.DataFrame({"id": np.arange(n_users), "city": [f"town{n % 40}" for n in range(n_users)]})
    return zy.Dataset.build(events, items=described, users=people)


def times(call: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median and 99th percentile of a call, in milliseconds."""
    taken = []
    for number in range(rounds + 20):
        begun = time.perf_counter()
        call()
        if number >= 20:
            taken.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(taken)), float(np.percentile(taken, 99))


def exported(model: Any, batch: Any, rounds: int) -> str:
    """What ONNX Runtime takes for the same batch; "" where the network cannot be exported."""
    import onnxruntime

    begun = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            program = onnx_export._program(onnx_export.Exported(model._net()), model._reach())
    except Exception as error:  # whatever the exporter says: it is another way, not what serving takes
        return f"not exported ({type(error).__name__})"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoder.onnx"
        program.save(file)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        seconds, size = time.perf_counter() - begun, file.stat().st_size
    feed = {value.name: getattr(batch, value.name).numpy() for value in session.get_inputs()}
    with torch.inference_mode():
        off = float(np.abs(session.run(["vector"], feed)[0] - model._net()(batch).numpy()).max())
    median, _ = times(lambda: session.run(["vector"], feed), rounds)
    return f"{median:.3f} ms, made in {seconds:.1f} s, {size / 2**20:.1f} MiB, differs by {off:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--length", type=int, default=50, help="events of the history")
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    one, data = zy.Run(threads=1), shop(given.items, 2_000)
    rng = np.random.default_rng(1)
    items = rng.integers(0, given.items, given.length).astype(np.int32)
    moments = np.cumsum(rng.integers(0, 10**12, given.length))
    history = Histories.of(np.array([0, given.length]), items, times=moments)
    for name in given.networks:
        settings = {"factors": given.factors, "epochs": 1, "validation": "none"}
        model: Any = registry.make(name, settings).fit(data, one)
        (batch,) = request_sequences(history, model._reach())
        whole = times(lambda model=model: model.encode(history, one), given.rounds)
        with torch.inference_mode():
            alone = times(lambda model=model, batch=batch: model._net()(batch), given.rounds)
        print(f"{name:9} encode {whole[0]:.3f} ms (99 %: {whole[1]:.3f}), network {alone[0]:.3f} ms; "
              f"ONNX Runtime: {exported(model, batch, given.rounds)}", flush=True)  # fmt: skip
        if name == "TwoTower":
            described = data.histories.row(0)
            known = times(lambda model=model, described=described: model.encode(described, one), given.rounds)
            print(f"{'':9} with the user's columns, {len(described.items)} events: {known[0]:.3f} ms", flush=True)


if __name__ == "__main__":
    main()
