"""Friends on Last.fm (HetRec 2011: 1,892 users, 17,632 artists, 92,834 pairs, 25,434 links), beside models without.

    ZHIYIN_DATA=... python benchmarks/social.py               # the folder that holds lastfm/
    ZHIYIN_DATA=... python benchmarks/social.py --ease ''     # without EASE, whose inverse takes minutes

A random 8:1:1 split of each user's artists; no user or artist is filtered out. Hyperparameters are chosen by NDCG@10 on
the validation part. Models learn from the train part alone; all artists are ranked but those of the user's train (and,
for the test figures, validation) part. Recall@10 is hits / |test|, NDCG@10 is over an ideal list of min(10, |test|)
hits, both averaged over the users with a test artist. Published under this protocol in comparison tables of social
recommenders: Recall@10 .2127 (SEPT) and NDCG@10 .2068 (MHCN); their own filters and seeds are not known to us.

Friends is searched over the best ALS, then over the best ItemKNN and EASE with the same settings but alpha, the share
of the own taste, which is chosen on validation too.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import zhiyin as zy
from zhiyin.core.params import params_of, settings_of
from zhiyin.core.ranking_metrics import hits_of, ndcg, recall
from zhiyin.core.registry import label
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.recommender import Recommender
from zhiyin.models.topk import top_k

PUBLISHED = {"recall@10": 0.2127, "ndcg@10": 0.2068}
K = 10


@dataclasses.dataclass
class Parts:
    """Train, and for validation and test: which users, what is true, what may not be listed."""

    train: Dataset
    truth: dict[str, Dataset]
    seen: dict[str, Dataset]

    @classmethod
    def of(cls, data: Dataset, seed: int) -> Parts:
        """A random tenth (rounded) of each user's artists is test, another validation."""
        user = data.events["user"].to_numpy()
        lengths = np.bincount(user, minlength=data.n_users)
        order = np.lexsort((np.random.default_rng(seed).random(len(user)), user))
        rank = np.empty(len(user), dtype=np.int64)
        rank[order] = np.arange(len(user)) - (np.cumsum(lengths) - lengths)[user[order]]
        tenth = np.round(lengths / 10).astype(np.int64)[user]
        test, validation = rank < tenth, (rank >= tenth) & (rank < 2 * tenth)
        train = data.subset(~test & ~validation)
        return cls(
            train,
            {"validation": data.subset(validation), "test": data.subset(test)},
            {"validation": train, "test": data.subset(~test)},
        )

    def judge(self, scores: np.ndarray, known: Any, part: str, run: Run) -> dict[str, float]:
        """Recall@10 and NDCG@10 of scores float32[n_users, n_items], which are scratch from here on."""
        truth, seen = self.truth[part].matrix(), self.seen[part].histories
        found, _ = top_k(scores, K, known.priority, known.candidates, (seen.offsets, seen.items), run)
        counts = np.diff(truth.indptr)
        judged = counts > 0
        truth.sort_indices()
        hits = hits_of(found, truth.indptr.astype(np.int64), truth.indices.astype(np.int32), run)
        kept = hits[judged], counts[judged]
        return {"recall@10": float(recall(*kept, K).mean()), "ndcg@10": float(ndcg(*kept, K).mean())}


def drawn(model: type[Recommender], trials: int, seed: int, **fixed: Any) -> list[Recommender]:
    """The default settings, then random ones from the declared ranges."""
    rng = np.random.default_rng(seed)
    found = [model(**fixed)]
    for _ in range(trials - 1):
        settings: dict[str, Any] = dict(fixed)
        for name, declared in params_of(model).items():
            if declared.tune is None or name in fixed:
                continue
            if declared.choices or declared.kind == "bool":
                settings[name] = declared.tune[int(rng.integers(len(declared.tune)))]
                continue
            low, high = declared.tune
            value = np.exp(rng.uniform(np.log(low), np.log(high))) if declared.log else rng.uniform(low, high)
            settings[name] = round(float(value)) if declared.kind == "int" else float(np.round(value, 4))
        found.append(model(**settings))
    return found


def scores_of(model: Recommender, parts: Parts, run: Run) -> np.ndarray:
    return model.score(parts.train.histories, run)


def best_of(models: list[Recommender], parts: Parts, run: Run) -> tuple[Recommender, dict[str, float]]:
    """The model best on validation, fitted, and its figures there."""
    best: tuple[Recommender, dict[str, float]] | None = None
    for model in models:
        model.fit(parts.train, run)
        figures = parts.judge(scores_of(model, parts, run), model.context_, "validation", run)
        if best is None or figures["ndcg@10"] > best[1]["ndcg@10"]:
            best = model, figures
    assert best is not None
    return best


def written(model: Recommender) -> str:
    """A model as the command line writes it: "als:factors=64,reg=60.0"."""
    return f"{type(model).__name__.lower()}:" + ",".join(f"{k}={v}" for k, v in settings_of(model).items())


def friends_over(
    base: Recommender, settings: dict[str, Any], parts: Parts, run: Run
) -> tuple[zy.Friends, dict[str, float]]:
    """Friends over another base: alpha the best of eleven on validation. It is not learned, so one fit serves all."""
    model = zy.Friends(**settings | {"base": written(base)}).fit(parts.train, run)
    tried = {}
    for alpha in np.linspace(0, 1, 11).round(1).tolist():
        model.alpha = alpha
        tried[alpha] = parts.judge(scores_of(model, parts, run), model.context_, "validation", run)
    model.alpha = max(tried, key=lambda alpha: tried[alpha]["ndcg@10"])
    return model, tried[model.alpha]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="settings tried of Friends; half as many of ItemKNN")
    parser.add_argument("--ease", default="100,300", help="values of reg tried for EASE; none leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=Run().n_threads)
    asked = parser.parse_args()
    folder = Path(os.environ.get("ZHIYIN_DATA", ".")) / "lastfm"
    if not folder.exists():
        sys.exit("set ZHIYIN_DATA to the folder that holds lastfm/user_artists.dat and user_friends.dat")
    run = Run(seed=asked.seed, threads=asked.threads)
    # Plays are no ratings: an artist in the list counts once.
    data = zy.read(folder / "user_artists.dat", links=folder / "user_friends.dat", weights={"weight > 0": 1})
    parts = Parts.of(data, asked.seed)
    print(data, f"{len(data.links):,} links; test pairs {parts.truth['test'].n_events:,}", flush=True)
    print(f"{'model':18} {'validation':>16} {'test':>16}   Recall@10, NDCG@10", flush=True)
    fitted: dict[str, Recommender] = {}

    def show(name: str, there: dict[str, float], test: dict[str, float], what: str) -> None:
        cells = "  ".join(f"{there[m]:.4f}" for m in PUBLISHED), "  ".join(f"{test[m]:.4f}" for m in PUBLISHED)
        print(f"{name:18} {cells[0]:>16} {cells[1]:>16}   {what}", flush=True)

    searched = {
        "Popular": [zy.Popular()],
        "ItemKNN": drawn(zy.ItemKNN, asked.trials // 2, asked.seed),
        "ALS": [
            zy.ALS(factors=factors, reg=reg, alpha=alpha)
            for factors in (64, 128)
            for reg in (30.0, 60.0, 100.0)
            for alpha in (8.0, 16.0, 32.0)
        ],
        "EASE": [zy.EASE(reg=float(reg)) for reg in asked.ease.split(",") if reg],
    }
    for name, models in searched.items():
        if not models:
            continue
        begun = time.perf_counter()
        fitted[name], there = best_of(models, parts, run)
        test = parts.judge(scores_of(fitted[name], parts, run), fitted[name].context_, "test", run)
        show(name, there, test, f"{label(fitted[name])}, {len(models)} tried, {time.perf_counter() - begun:.0f} s")
        if name == "ALS":
            begun = time.perf_counter()
            models = drawn(zy.Friends, asked.trials, asked.seed, base=written(fitted["ALS"]))
            fitted["Friends"], there = best_of(models, parts, run)
            test = parts.judge(scores_of(fitted["Friends"], parts, run), fitted["Friends"].context_, "test", run)
            seconds = time.perf_counter() - begun
            show("Friends", there, test, f"{label(fitted['Friends'])}, {len(models)} tried, {seconds:.0f} s")
    for name in ("ItemKNN", "EASE"):
        if name in fitted:
            model, there = friends_over(fitted[name], settings_of(fitted["Friends"]), parts, run)
            test = parts.judge(scores_of(model, parts, run), model.context_, "test", run)
            show(f"Friends, {name}", there, test, f"alpha={model.alpha}")
    show("published", {m: float("nan") for m in PUBLISHED}, PUBLISHED, "SEPT (Recall), MHCN (NDCG)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
