"""EASE on Gowalla's published split, beside the published figures: Recall@20 .1765, NDCG@20 .1467.

    ZHIYIN_DATA=... python benchmarks/gowalla.py     # the folder that holds gowalla/train.txt and test.txt

The split is that of NGCF and LightGCN (29,858 users, 40,981 items); lines are "user item item ...". EASE with
reg 80 is what the comparison tables of that split report. Recall@20 is hits / |test|, NDCG@20 is over an
ideal list of min(20, |test|) hits, both averaged over the users with a test item. Takes minutes and 7 GiB.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from published import ragged
from zhiyin.core.ranking import hits_of, ndcg, recall
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.linear import EASE

PUBLISHED = {"recall": 0.1765, "ndcg": 0.1467}
TOLERANCE = 0.0003


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reg", type=float, default=80.0)
    parser.add_argument("--threads", type=int, default=Run().n_threads)
    asked = parser.parse_args()
    folder = Path(os.environ.get("ZHIYIN_DATA", ".")) / "gowalla"
    if not folder.exists():
        sys.exit("set ZHIYIN_DATA to the folder that holds gowalla/train.txt and gowalla/test.txt")
    run = Run(threads=asked.threads)
    user, item = ragged(folder / "train.txt")
    test_user, test_item = ragged(folder / "test.txt")
    everyone = pl.DataFrame({"id": np.unique(np.concatenate([user, test_user]))})
    everything = pl.DataFrame({"id": np.unique(np.concatenate([item, test_item]))})
    data = Dataset.build(pl.DataFrame({"user": user, "item": item}), users=everyone, items=everything)
    print(data, f"{len(test_item):,} test pairs", flush=True)
    begun = time.perf_counter()
    model = EASE(reg=asked.reg).fit(data, run)
    fitted = time.perf_counter()
    who, what = data.user_ids.encode(pl.Series(test_user)), data.item_ids.encode(pl.Series(test_item))
    order = np.lexsort((what, who))
    who, what = who[order], what[order]
    users, counts = np.unique(who, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    histories = data.histories.take(users)
    found, _ = model.rank(histories, 20, exclude=histories, run=run)
    ranked = time.perf_counter()
    hits = hits_of(found, offsets, what, run)
    ok = True
    for name, metric in (("recall", recall), ("ndcg", ndcg)):
        value = float(metric(hits, counts, 20).mean())
        near = abs(value - PUBLISHED[name]) <= TOLERANCE + 5e-5  # published to four digits
        ok &= near
        print(f"{name}@20 {value:.5f}, published {PUBLISHED[name]:.4f}: {'reached' if near else 'MISSED'}")
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20
    print(f"fit {fitted - begun:.0f} s, rank {len(users):,} users {ranked - fitted:.0f} s, peak {peak:.2f} GiB")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
