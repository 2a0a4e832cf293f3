"""Networks at the published figures, and SASRec's speed beside RecTools.

    ZHIYIN_DATA=... python benchmarks/neural.py quality                       # all rows; hours on a CPU
    ZHIYIN_DATA=... python benchmarks/neural.py quality beauty-sasrec --seeds 0 1 2
    ZHIYIN_DATA=... python benchmarks/neural.py race --peer .peer/bin/python  # has rectools[torch]==0.19

`quality` trains each row of ROWS, early-stopped on validation, reads test once and prints the table with the floors
(Transitions, ItemKNN, ALS) beside. `race` trains one epoch of SASRec here and there in turn, at the same settings, and
prints the medians and their ratio. Whole catalogue ranked, seen items removed (not in sessions).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import published
import zhiyin as zy
from zhiyin.models.registry import parse

FLOORS = ("transitions", "itemknn", "als")


@dataclass(frozen=True)
class Row:
    """A network on a published split: what to train, and what was published and must be reached."""

    data: str
    model: str
    metrics: tuple[str, str]
    published: tuple[float, float]
    reach: tuple[float, float]


TOP10, TOP20, SESSION = ("hit_rate@10", "ndcg@10"), ("recall@20", "ndcg@20"), ("hit_rate@20", "mrr@20")
ROWS = {
    "ml1m-sasrec": Row(
        "movielens_1m",
        "sasrec:batch_size=64,learning_rate=0.0015,dropout=0.2,warmup=200,schedule=cosine,windows=true,epochs=45,patience=15",
        TOP10,
        (0.3159, 0.1857),
        (0.310, 0.180),
    ),
    "ml1m-gru4rec": Row(
        "movielens_1m",
        "gru4rec:factors=128,units=128,batch_size=32,learning_rate=0.005,dropout=0.3,schedule=cosine,epochs=25,patience=8",
        TOP10,
        (0.2811, 0.1648),
        (0.280, 0.163),
    ),
    "beauty-sasrec": Row(
        "beauty",
        "sasrec:factors=128,blocks=1,expansion=1,max_len=50,dropout=0.5,warmup=350,loss=sampled_softmax,negatives=2048,"
        "positions=relative,epochs=40,patience=6",
        TOP10,
        (0.0921, 0.0531),
        (0.090, 0.051),
    ),
    # The number of epochs was chosen with validation=users (a tenth of the sessions); here all sessions teach.
    "diginetica-narm": Row(
        "diginetica",
        "narm:validation=none,loss=sampled_softmax,negatives=4096,epochs=5",
        SESSION,
        (0.4970, 0.1617),
        (0.50, 0.17),
    ),
    # The number of epochs was chosen with validation=ratio (a tenth of everybody's events).
    "gowalla-lightgcn": Row(
        "gowalla",
        "lightgcn:validation=none,epochs=60,learning_rate=0.03,batch_size=4096,schedule=cosine,layers=4,negatives=8192",
        TOP20,
        (0.1830, 0.1554),
        (0.181, 0.154),
    ),
    "gowalla-multvae": Row(
        "gowalla",
        "multvae:validation=none,hidden=0,factors=256,negatives=8192,learning_rate=0.003,beta=1.0,epochs=26,anneal=1000",
        TOP20,
        (0.1641, 0.1335),
        (0.1641, 0.1335),
    ),
}


def quality(names: list[str], seeds: list[int], threads: int) -> int:
    """Print a table: each network's mean ± standard error over seeds, published, to be reached; and the floors."""
    reached, floors = True, set()
    for name in names or list(ROWS):
        row = ROWS[name]
        split = getattr(published, row.data)()
        session = row.data == "diginetica"
        k = int(row.metrics[0].partition("@")[2])

        def figures(text: str, seed: int, split=split, session=session, k=k, row=row) -> tuple[list[float], float]:
            begun = time.process_time()
            run = zy.Run(seed=seed, threads=threads)
            model = parse(text).fit(split.train, run)
            spent = time.process_time() - begun
            judged = zy.evaluate([model], split=split, k=(k,), main=row.metrics[1], exclude_seen=not session,
                                 baselines=False, rounds=10, run=run)  # fmt: skip
            return [judged.models[0].metrics[metric] for metric in row.metrics], spent

        if row.data not in floors:
            floors.add(row.data)
            for floor in FLOORS:
                values, spent = figures(floor, 0)
                pair = f"{values[0]:.4f} / {values[1]:.4f}"
                print(f"{row.data:14} {floor:14} {pair}   floor, {spent:.0f} CPU s", flush=True)
        runs = [figures(row.model, seed) for seed in seeds]
        means = [statistics.mean(values[at] for values, _ in runs) for at in (0, 1)]
        spread = [statistics.stdev([values[at] for values, _ in runs]) / len(runs) ** 0.5 if len(runs) > 1 else 0.0
                  for at in (0, 1)]  # fmt: skip
        ok = all(mean >= least for mean, least in zip(means, row.reach))
        reached &= ok
        print(
            f"{row.data:14} {name.partition('-')[2]:14} {means[0]:.4f} / {means[1]:.4f} "
            f"(± {spread[0]:.4f} / {spread[1]:.4f}, {len(runs)} seeds; {'/'.join(row.metrics)}; "
            f"published {row.published[0]:.4f} / {row.published[1]:.4f}; "
            f"to reach {row.reach[0]:.3f} / {row.reach[1]:.3f}: {'reached' if ok else 'MISSED'}), "
            f"{statistics.mean(spent for _, spent in runs):.0f} CPU s",
            flush=True,
        )
    return 0 if reached else 1


def race(peer: str, rounds: int, threads: int) -> int:
    """One epoch of SASRec on MovieLens-1M here and in RecTools, in turn; scoring of all users; peak memory."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_child([sys.executable, __file__, "epoch", "--threads", str(threads)]))
        theirs.append(_child([peer, str(Path(__file__).with_name("rectools_sasrec.py")), str(threads)]))
        print(ours[-1], theirs[-1], flush=True)
    for what in ("epoch_s", "score_s", "peak_gib"):
        here, there = (statistics.median(run[what] for run in runs) for runs in (ours, theirs))
        print(f"{what:9} zhiyin {here:7.2f}   rectools {there:7.2f}   ratio {there / here:.2f}")
    return 0


def epoch(threads: int) -> int:
    """One epoch at RecTools' settings; prints JSON. An epoch is the second of two, when all is warm."""
    split = published.movielens_1m()
    marks: list[float] = []
    run = zy.Run(threads=threads, callbacks=(lambda news: marks.append(time.perf_counter()),))
    model = zy.SASRec(
        factors=64, blocks=2, heads=1, expansion=RECTOOLS_EXPANSION, max_len=200, batch_size=128, dropout=0.1, epochs=2,
        validation="none",
    ).fit(split.train, run)  # fmt: skip
    begun = time.perf_counter()
    model.rank(split.train.histories, 10, exclude=split.train.histories, run=run)
    score_s = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {
                "epoch_s": marks[1] - marks[0],
                "score_s": score_s,
                "peak_gib": peak,
                "loss": model.training_log_[1]["loss"],
            }
        )
    )
    return 0


# The width of the feed-forward layers of RecTools' SASRec, in factors.
RECTOOLS_EXPANSION = 1


def _child(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "race", "epoch"))
    parser.add_argument("rows", nargs="*", help=f"rows of quality: {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=zy.Run().n_threads)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", default=".peer/bin/python", help="a Python that has rectools[torch]==0.19.0")
    asked = parser.parse_args()
    if asked.what == "quality":
        return quality(asked.rows, asked.seeds, asked.threads)
    return race(asked.peer, asked.rounds, asked.threads) if asked.what == "race" else epoch(asked.threads)


if __name__ == "__main__":
    sys.exit(main())
