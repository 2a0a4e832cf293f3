"""The peer of `benchmarks/neural.py race`: SASRec of RecTools 0.19, run in an environment of its own.

python benchmarks/rectools_sasrec.py THREADS    # prints JSON; needs rectools[torch]==0.19.0 and ZHIYIN_DATA
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

warnings.filterwarnings("ignore")
torch.set_num_threads(int(sys.argv[1]))
marks: list[float] = []


class Clock(Callback):
    """Notes when each epoch of training ends."""

    def on_train_epoch_end(self, *_: object) -> None:
        marks.append(time.perf_counter())


def trainer() -> Trainer:
    return Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Clock()],
                   enable_progress_bar=False, enable_model_summary=False)  # fmt: skip


pairs = np.loadtxt(Path(os.environ["ZHIYIN_DATA"]) / "movielens-1m" / "sequences.txt", dtype=np.int64)
frame = pd.DataFrame({Columns.User: pairs[:, 0], Columns.Item: pairs[:, 1], Columns.Weight: 1.0})
frame[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(np.arange(len(frame)), unit="s")
frame = frame[frame.groupby(Columns.User).cumcount(ascending=False) > 0]
data = Dataset.construct(frame)
model = SASRecModel(n_blocks=2, n_heads=1, n_factors=64, dropout_rate=0.1, session_max_len=200, loss="softmax", lr=1e-3,
                    batch_size=128, epochs=2, get_trainer_func=trainer)  # fmt: skip
model.fit(data)
begun = time.perf_counter()
model.recommend(frame[Columns.User].unique(), data, k=10, filter_viewed=True)
score_s = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"epoch_s": marks[1] - marks[0], "score_s": score_s, "peak_gib": peak}))
