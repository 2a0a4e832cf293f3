"""Sequential rules on Diginetica's published sessions, beside the published figures.

    ZHIYIN_DATA=... python benchmarks/sessions.py                  # all rows, on test
    ZHIYIN_DATA=... python benchmarks/sessions.py tuned            # some rows only
    ZHIYIN_DATA=... python benchmarks/sessions.py --models transitions:repeats=1,last=1    # any model
    ... --validate      # learn from all but the last 7 % of the training sessions and score those, to choose settings

The split is SR-GNN's: every prefix of a later session is asked for the next item, all items are ranked and nothing is
masked. P@20 is the share of prefixes whose next item is among the 20, MRR@20 the mean of 1 / its rank, in percent.
"""

from __future__ import annotations

import argparse
import sys
import time

import published
import zhiyin as zy
from zhiyin.models.registry import parse

# Row: model as it is written; P@20 and MRR@20 to be reached.
ROWS = {
    "as published": ("transitions:last=1,repeats=1", (40.4, 14.1)),
    "default": ("transitions", None),
    "tuned": ("transitions:last=20,decay=0.6,repeats=4,backward=0.4,damping=0.5", (41.0, 14.5)),
}
METRICS = ("hit_rate@20", "mrr@20")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--models", nargs="+", default=[], help="models as they are written, instead of rows")
    parser.add_argument("--validate", action="store_true", help="score the last training sessions instead of test")
    parser.add_argument("--threads", type=int, default=zy.Run().n_threads)
    asked = parser.parse_args()
    if unknown := set(asked.rows) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    split = published.diginetica(0.07 if asked.validate else 0.0)
    run = zy.Run(threads=asked.threads, progress=False)
    ok = True
    rows = {text: (text, None) for text in asked.models} or {name: ROWS[name] for name in asked.rows or ROWS}
    for name, (text, reach) in rows.items():
        begun = time.perf_counter()
        model = parse(text).fit(split.train, run)
        fitted = time.perf_counter()
        judged = zy.evaluate([model], split=split, k=(20,), main=METRICS[1], exclude_seen=False, baselines=False,
                             rounds=10, run=run)  # fmt: skip
        hit, mrr = (100 * judged.models[0].metrics[metric] for metric in METRICS)
        said = ""
        if reach and not asked.validate:
            near = round(hit, 1) >= reach[0] and round(mrr, 1) >= reach[1]
            ok &= near
            said = f", to reach {reach[0]} / {reach[1]}: {'reached' if near else 'MISSED'}"
        print(f"{name}: P@20 {hit:.2f}, MRR@20 {mrr:.2f}{said}; fit {fitted - begun:.1f} s, "
              f"judged in {time.perf_counter() - fitted:.1f} s", flush=True)  # fmt: skip
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
