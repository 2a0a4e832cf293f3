"""The peer of `benchmarks/ctr.py`: DeepCTR-Torch 0.3, run in an environment of its own.

python benchmarks/peer_ctr.py ROWS.npz MODEL SETTINGS SEED PART    # prints JSON; needs deepctr-torch==0.3.0

Its own `fit` trains, an epoch a call, so that validation and the best weights are kept here, as EarlyStopping would.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
import time
from typing import Any

import numpy as np

# Chosen from by validation. l2 is of the sum over all vectors, added to the summed loss of a batch.
GRID: dict[str, list[Any]] = {"learning_rate": [1e-3, 3e-3], "l2": [1e-5, 1e-2, 1e-1], "dropout": [0.0, 0.3]}
CODES = ("user", "item", "gender", "job", "hour", "weekday")
EPOCHS, PATIENCE, BATCH = 30, 2, 512


def main() -> None:
    import torch
    from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat, get_feature_names
    from deepctr_torch.models import DCN, DIN, DeepFM

    torch.set_num_threads(1)
    file, name, settings, seed, judged = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), *map(int, sys.argv[4:])
    rows = dict(np.load(file))
    taught = rows["part"] == 0
    for number in ("age", "year"):  # missing is the mean
        mean, deviation = np.nanmean(rows[number][taught]), np.nanstd(rows[number][taught])
        rows[number] = np.nan_to_num((rows[number] - mean) / deviation).astype(np.float32)
    cards = {code: int(rows[code].max()) + 1 for code in CODES}
    columns: list[Any] = [SparseFeat(code, cards[code], embedding_dim=16) for code in CODES]
    columns += [DenseFeat(number, 1) for number in ("age", "year")]
    genres = SparseFeat("genres", int(rows["genres"].max()) + 1, embedding_dim=16)
    columns.append(VarLenSparseFeat(genres, maxlen=rows["genres"].shape[1], combiner="mean"))
    if name == "din":
        had = SparseFeat("hist_item", cards["item"], embedding_dim=16, embedding_name="item")
        columns.append(VarLenSparseFeat(had, maxlen=rows["history"].shape[1], length_name="length"))
        rows["hist_item"] = rows["history"]
    common = {"dnn_hidden_units": (128, 128), "dnn_dropout": settings["dropout"], "l2_reg_embedding": settings["l2"],
              "seed": seed, "device": "cpu"}  # fmt: skip
    if name == "din":
        model = DIN(columns, ["item"], att_hidden_size=(36,), **common)
    elif name == "deepfm":
        model = DeepFM(columns, columns, l2_reg_linear=settings["l2"], **common)
    else:  # its DCN with a matrix is DCN-V2's full cross layer, beside the perceptron
        model = DCN(
            columns, columns, cross_num=2, cross_parameterization="matrix", l2_reg_linear=settings["l2"], **common
        )
    model.compile(torch.optim.Adam(model.parameters(), lr=settings["learning_rate"]), "binary_crossentropy", metrics=[])
    names = get_feature_names(columns)
    parts = {part: {key: rows[key][rows["part"] == part] for key in names} for part in (0, 1, judged)}
    labels = {part: rows["label"][rows["part"] == part] for part in parts}

    best, best_epoch, weights, epoch_s, begun = np.inf, 0, {}, [], time.process_time()
    for epoch in range(EPOCHS):
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit(parts[0], labels[0], batch_size=BATCH, epochs=1, verbose=0)
        epoch_s.append(time.process_time() - start)
        loss = log_loss(labels[1], model.predict(parts[1], 8192))
        if loss < best:
            best, best_epoch, weights = loss, epoch + 1, copy.deepcopy(model.state_dict())
        elif epoch + 1 - best_epoch >= PATIENCE:
            break
    fit_s = time.process_time() - begun
    model.load_state_dict(weights)
    p = model.predict(parts[judged], 8192)
    print(json.dumps({"fit_s": fit_s, "auc": auc(labels[judged], p), "logloss": log_loss(labels[judged], p),
                      "epochs": best_epoch, "epoch_s": float(np.median(epoch_s))}))  # fmt: skip


def log_loss(labels: np.ndarray, p: np.ndarray) -> float:
    p = np.clip(p.ravel().astype(np.float64), 1e-15, 1 - 1e-15)
    return float(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)).mean())


def auc(labels: np.ndarray, p: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, p.ravel()))


if __name__ == "__main__":
    main()
