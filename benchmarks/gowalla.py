"""Models without training on Gowalla's published split, beside the published figures.

    ZHIYIN_DATA=... python benchmarks/gowalla.py                    # the folder that holds gowalla/train.txt, test.txt
    ZHIYIN_DATA=... python benchmarks/gowalla.py GF-CF ChebyCF      # some rows only
    ZHIYIN_DATA=... python benchmarks/gowalla.py --models rp3beta:beta=0.4 userknn   # any model, as it is written
    ... --validate      # learn from nine tenths of the training pairs and score the tenth: what settings are chosen by
    ... --validate --users 5000     # the same, judged by so many users, drawn

The split is that of NGCF and LightGCN (29,858 users, 40,981 items); lines are "user item item ...". Recall@20 is
hits / |test|, NDCG@20 is over an ideal list of min(20, |test|) hits, both averaged over the users with a test item.
EASE with reg 80 is what the comparison tables of that split report; it takes minutes and 7 GiB. ChebyCF has the
settings of its authors, and the others (but GF-CF, whose are published too) are as they come.
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
from zhiyin.core.ranking_metrics import hits_of, ndcg, recall
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models import registry

# Row: model as it is written; published Recall@20 and NDCG@20 to four digits, and how far off is still the same.
ROWS = {
    "ItemKNN": ("itemknn:similarity=tfidf,k_neighbors=1000,shrinkage=1000", None, 0),
    "UserKNN": ("userknn", None, 0),
    "RP3beta": ("rp3beta", None, 0),
    "SLIM": ("slim", None, 0),
    "GF-CF": ("graphfilter:way=gfcf,factors=256,alpha=0.3", (0.1849, 0.1518), 2e-4),
    "ChebyCF": (
        "graphfilter:factors=512,alpha=0.2,beta=0.4,order=8,flatness=1.5",
        (0.1941, 0.1617),
        2e-3,
    ),
    "EASE": ("ease:reg=80", (0.1765, 0.1467), 3e-4),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--models", nargs="+", default=[], help="models as they are written, instead of rows")
    parser.add_argument("--validate", action="store_true", help="score a tenth of the training pairs instead of test")
    parser.add_argument("--users", type=int, help="validate by so many users only")
    parser.add_argument("--threads", type=int, default=Run().n_threads)
    asked = parser.parse_args()
    unknown = set(asked.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    folder = Path(os.environ.get("ZHIYIN_DATA", ".")) / "gowalla"
    if not folder.exists():
        sys.exit("set ZHIYIN_DATA to the folder that holds gowalla/train.txt and gowalla/test.txt")
    run = Run(threads=asked.threads, progress=False)
    user, item = ragged(folder / "train.txt")
    test_user, test_item = ragged(folder / "test.txt")
    everyone = pl.DataFrame({"id": np.unique(np.concatenate([user, test_user]))})
    everything = pl.DataFrame({"id": np.unique(np.concatenate([item, test_item]))})
    if asked.validate:
        out = np.random.default_rng(0).random(len(user)) < 0.1
        test_user, test_item, user, item = user[out], item[out], user[~out], item[~out]
    data = Dataset.build(pl.DataFrame({"user": user, "item": item}), users=everyone, items=everything)
    print(data, f"{len(test_item):,} {'validation' if asked.validate else 'test'} pairs", flush=True)
    who, what = data.user_ids.encode(pl.Series(test_user)), data.item_ids.encode(pl.Series(test_item))
    order = np.lexsort((what, who))
    who, what = who[order], what[order]
    if asked.validate and asked.users:
        drawn = np.random.default_rng(1).permutation(data.n_users)[: asked.users]
        judged = np.isin(who, drawn)
        who, what = who[judged], what[judged]
    users, counts = np.unique(who, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    histories = data.histories.take(users)
    rows = {text: (text, None, 0) for text in asked.models} or {name: ROWS[name] for name in asked.rows or ROWS}
    ok = True
    for name, (text, published, tolerance) in rows.items():
        begun = time.perf_counter()
        model = registry.parse(text).fit(data, run)
        fitted = time.perf_counter()
        found, _ = model.rank(histories, 20, exclude=histories, run=run)
        ranked = time.perf_counter()
        hits = hits_of(found, offsets, what, run)
        values = [float(metric(hits, counts, 20).mean()) for metric in (recall, ndcg)]
        said = ""
        if published and not asked.validate:
            near = all(abs(value - known) <= tolerance + 5e-5 for value, known in zip(values, published))
            ok &= near
            said = f", published {published[0]:.4f} / {published[1]:.4f}: {'reached' if near else 'MISSED'}"
        took = f"fit {fitted - begun:.1f} s, rank {len(users):,} users {ranked - fitted:.1f} s"
        print(f"{name:8s} recall@20 {values[0]:.5f}, ndcg@20 {values[1]:.5f}{said}; {took}", flush=True)
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20
    print(f"peak {peak:.2f} GiB")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
