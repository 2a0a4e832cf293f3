"""The protocol: every model is fitted on train alone, ranks the whole catalogue, and is compared with baselines.

    zy.evaluate({"ease": zy.EASE(), "als": zy.ALS()}, split=zy.split(data, test="7d"))

Nothing of the test part reaches `fit`: unfitted models are fitted on a copy here, and a fitted one is accepted
only when its fingerprint says that it learned from exactly this train part.
"""

from __future__ import annotations

import dataclasses
import io
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy import sparse

import zhiyin
from zhiyin.core.durations import UNITS
from zhiyin.core.errors import ConfigError
from zhiyin.core.params import list_length, settings_of
from zhiyin.core.ranking_metrics import RANKING
from zhiyin.core.registry import label
from zhiyin.core.run import Run
from zhiyin.data.catalogue import category_columns
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import Split
from zhiyin.evaluation import beyond_accuracy
from zhiyin.evaluation.comparison_table import direction, rich_table
from zhiyin.evaluation.significance import bootstrap_interval, paired_tests
from zhiyin.evaluation.window_evaluation import JUDGE_REPEATS, Judged, PeakMemory, Window, accuracy, judge, metric_k
from zhiyin.models.popularity import Popular
from zhiyin.models.random import Random
from zhiyin.models.recommender import CHUNK_BYTES, Recommender

if TYPE_CHECKING:
    from rich.console import RenderableType

HEAD_SHARE = 0.8
DIVERSITY_USERS = 20_000
# Entries of the item vectors that the diversity of all lists may walk over: some seconds.
_DIVERSITY_WORK = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """One model's figures: means over users, 95 % intervals, p against the best (Holm), by segment, cost.

    A user of several folds counts in the means once a fold; intervals and tests take all of their rows as one user's.
    `fit_seconds` is NaN for a model that came fitted. `peak_mb`: see `judging.PeakMemory`.
    """

    name: str
    settings: dict[str, Any]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    p_values: dict[str, float]
    segments: dict[str, dict[str, float]]
    fit_seconds: float
    score_seconds_per_1000: float
    peak_mb: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A comparison of models under one protocol. Print it, `report` it, or take the figures out.

    `per_user`: {model: {metric: float64[n]}} with NaN where a metric is not defined; row r is user `users[r]`
    (a user judged in several folds has a row in each).
    """

    title: str
    protocol: list[str]
    warnings: list[str]
    k: list[int]
    main: str
    best: str
    versions: dict[str, str]
    models: list[ModelResult]
    per_user: dict[str, dict[str, np.ndarray]]
    users: pl.Series

    def __getitem__(self, name: str) -> ModelResult:
        return next(model for model in self.models if model.name == name)

    def frame(self) -> pl.DataFrame:
        """Long frame `model`, `segment` ("all" or a segment's name), `metric`, `value`, `low`, `high`, `p`."""
        rows = []
        for model in self.models:
            for metric, value in model.metrics.items():
                low, high = model.intervals.get(metric, (None, None))
                rows.append((model.name, "all", metric, value, low, high, model.p_values.get(metric)))
            for segment, figures in model.segments.items():
                rows += [(model.name, segment, metric, v, None, None, None) for metric, v in figures.items()]
        schema: dict[str, Any] = dict.fromkeys(("model", "segment", "metric"), pl.String)
        schema |= dict.fromkeys(("value", "low", "high", "p"), pl.Float64)
        return pl.DataFrame(rows, schema=schema, orient="row")

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; what is not a number is None. Without the figures of single users."""
        names = ("title", "protocol", "warnings", "k", "main", "best", "versions", "models")
        plain = {name: getattr(self, name) for name in names}
        plain["models"] = [dataclasses.asdict(model) for model in self.models]
        return _plain(plain)

    def report(self, path: str | Path) -> Path:
        """Write the comparison as one self-contained HTML file. Needs the extra "report"."""
        from zhiyin.evaluation.report import write_report

        return write_report(self, path)

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        return Group(rich_table(self), *(Text(f"! {warning}", style="yellow") for warning in self.warnings))

    def __str__(self) -> str:
        from rich.console import Console

        page = io.StringIO()
        Console(file=page, width=120, color_system=None).print(self)
        return page.getvalue().rstrip()


def evaluate(
    models: Mapping[str, Recommender] | Iterable[Recommender] | Recommender,
    train: Dataset | None = None,
    test: Dataset | None = None,
    *,
    split: Split | Sequence[Split] | None = None,
    k: int | Sequence[int] = (10, 20),
    main: str = "ndcg@10",
    exclude_seen: bool = True,
    rounds: int = 1000,
    baselines: bool = True,
    auc: bool = False,
    run: Run | None = None,
    title: str = "",
) -> Evaluation:
    """Compare models on what users did after train.

    Parameters
    ----------
    models: by name, or a list (named by class and settings). Unfitted ones are fitted on train, as a copy. A
        fitted one is used as it is, and only if it learned from exactly this train part.
    train, test: two parts of one log; or `split`: what `zy.split` returns, or the list of `zy.folds`: models
        are then fitted afresh for each fold and the users of all folds judged together.
    k: lengths of lists. The length in `main` is added if it is missing.
    main: the metric models are sorted and tested by: one of recall, precision, hit_rate, ndcg, map, mrr at a
        k, or "auc".
    exclude_seen: do not recommend what is in a user's history; such items are no truth either.
    rounds: bootstrap draws of users for the 95 % intervals; 0 for no intervals.
    baselines: add Random, Popular and, for a log with times over more than 14 days, Popular with a half-life.
    auc: the AUC of each user over the whole catalogue as well; scores everything once more.

    Raises
    ------
    ConfigError when a fitted model learned from other data; DataError when nobody can be judged.
    """
    run = run or Run()
    splits = _splits(train, test, split)
    ks = _lengths(k, metric_k(main, auc))
    chosen = _named(models)
    _refuse_leaks(chosen, splits)
    if baselines:
        chosen = _baselines(chosen, splits[0].train) | chosen
    windows = [Window.of(part, exclude_seen) for part in splits]
    folds = [_Fold(window, ks, run) for window in windows]
    # A plain Popular goes first: its lists are what serendipity compares with.
    order = sorted(chosen, key=lambda name: not _plain_popular(chosen[name]))
    outcomes: dict[str, list[_Outcome]] = {name: [] for name in chosen}
    for number, fold in enumerate(folds):
        part = f" (fold {number + 1} of {len(folds)})" if len(folds) > 1 else ""
        for name in order:
            outcomes[name].append(fold.outcome(name + part, chosen[name], auc))
    per_user = {name: _joined([o.per_user for o in outcomes[name]]) for name in chosen}
    segments = _joined([fold.segments for fold in folds])
    metrics = {name: _means(per_user[name], outcomes[name], ks) for name in chosen}
    sign = -1 if direction(main) == "↓" else 1
    best = max(chosen, key=lambda name: _or_lowest(sign * metrics[name].get(main, math.nan)))
    users = _judged_users(windows)
    # Whose each row is: one user's rows of several folds say less than as many users' would.
    groups = users.rank("dense").to_numpy() if len(windows) > 1 else None
    tests: dict[str, dict[str, float]] = {name: {} for name in chosen}
    tested = [m for m in per_user[best] if m.partition("@")[0] in RANKING or m == "auc"]
    for metric in tested:
        for name, p in paired_tests({name: per_user[name][metric] for name in chosen}, best, groups).items():
            tests[name][metric] = p
    results = []
    for name, model in chosen.items():
        mine = outcomes[name]
        names = list(per_user[name])
        values = np.column_stack([per_user[name][m] for m in names])
        low, high = bootstrap_interval(values, run, rounds, groups=groups)
        by_items: dict[str, dict[str, np.ndarray]] = {
            segment: _joined([o.by_items[segment] for o in mine]) for segment in mine[0].by_items
        }
        judged = sum(len(window) for window in windows)
        results.append(
            ModelResult(
                name,
                settings_of(model),
                metrics[name],
                {m: (float(a), float(b)) for m, a, b in zip(names, low, high) if not math.isnan(a)},
                tests[name],
                _by_segment(per_user[name], segments, by_items),
                float(np.mean([o.fit_seconds for o in mine])),
                1000 * sum(o.score_seconds for o in mine) / judged,
                max(o.peak_mb for o in mine),
            )
        )
    return Evaluation(
        title or _title(windows),
        _protocol(splits, windows, folds, ks, rounds, run, auc),
        _warnings(splits, windows),
        ks,
        main,
        best,
        _versions(),
        results,
        per_user,
        users,
    )


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """One model on one fold. `by_items`: {"head items": {"recall@10": float64[n], NaN without such truth}}."""

    per_user: dict[str, np.ndarray]
    of_lists: dict[str, float]
    by_items: dict[str, dict[str, np.ndarray]]
    fit_seconds: float
    score_seconds: float
    peak_mb: float


class _Fold:
    """A window with all that models are compared by on it, computed once."""

    def __init__(self, window: Window, ks: list[int], run: Run) -> None:
        self.window, self.ks, self.run = window, ks, run
        train = window.train
        incidence = train.matrix()
        self.counts = np.bincount(incidence.indices, minlength=train.n_items).astype(np.float64)
        self.n_users = max(1, int((np.diff(incidence.indptr) > 0).sum()))
        # What each judged user chose before: distinct items worth more than nothing.
        chosen = window.histories.matrix(train.n_items)
        self.past = (chosen.indptr.astype(np.int64), chosen.indices)
        groups = _categories(train)
        self.by_category = groups is not None
        self.groups = beyond_accuracy.popularity_groups(self.counts) if groups is None else groups
        self.vectors = incidence.T.tocsr() if groups is None else groups
        self.diversity_rows = self._diversity_rows()
        positive = train.events["weight"].to_numpy() > 0
        events = np.bincount(train.events["item"].to_numpy()[positive], minlength=train.n_items)
        head = _head(events)
        self.item_segments = {"head items": head, "tail items": ~head}
        lengths = window.histories.lengths
        middle = np.median(lengths[lengths > 0]) if (lengths > 0).any() else 0
        self.segments = {
            "new users": lengths == 0,
            "light users": (lengths > 0) & (lengths <= middle),
            "heavy users": lengths > middle,
        }
        self.expected: np.ndarray | None = None

    def outcome(self, name: str, model: Recommender, auc: bool) -> _Outcome:
        """Fit if need be, rank, and measure."""
        window, fit_seconds = self.window, math.nan
        with PeakMemory() as memory:
            if not model.is_fitted:
                model = dataclasses.replace(model)
                begun = time.perf_counter()
                model.fit(window.train, self.run)
                fit_seconds = time.perf_counter() - begun
            # Kernels load at their first call; that is no model's scoring time.
            model.rank(window.histories.rows(0, 1), 1, run=self.run)
            judged = judge(model, window, self.ks, self.run, auc=auc, label=f"{name}: ranking")
        if self.expected is None:
            if _plain_popular(model):
                self.expected = judged.lists
            else:
                plain = Popular().fit(window.train, self.run)
                self.expected = judge(plain, window, self.ks, self.run).lists
        per_user, of_lists = self._beyond(judged)
        by_items = {segment: self._of_items(judged, kept) for segment, kept in self.item_segments.items()}
        return _Outcome(judged.per_user | per_user, of_lists, by_items, fit_seconds, judged.seconds, memory.mb)

    def _beyond(self, judged: Judged) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Metrics beyond accuracy: those with a value a user, and those of all lists together."""
        assert self.expected is not None
        train, run = self.window.train, self.run
        users: dict[str, np.ndarray] = {}
        whole: dict[str, float] = {}
        for k in self.ks:
            lists, hits = judged.lists[:, :k], judged.hits[:, :k]
            whole[f"coverage@{k}"] = beyond_accuracy.catalogue_coverage(lists, int(train.candidates.sum()))
            whole[f"gini@{k}"] = beyond_accuracy.gini(lists, train.candidates)
            whole[f"popularity_lift@{k}"] = beyond_accuracy.popularity_lift(lists, *self.past, self.counts, run)
            users[f"novelty@{k}"] = beyond_accuracy.novelty(lists, self.counts, self.n_users, run)
            diversity = np.full(len(lists), np.nan)
            some = self.diversity_rows
            diversity[some] = beyond_accuracy.intra_list_diversity(lists[some], self.vectors, run)
            users[f"diversity@{k}"] = diversity
            users[f"serendipity@{k}"] = beyond_accuracy.serendipity(lists, hits, self.expected[:, :k], run)
        first = self.ks[0]
        lists = judged.lists[:, :first]
        users[f"calibration@{first}"] = beyond_accuracy.calibration(lists, *self.past, self.groups, run=run)
        return users, whole

    def _of_items(self, judged: Judged, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Recall and NDCG when only the relevant items in `kept` (bool[n_items]) count."""
        window = self.window
        before = np.concatenate([[0], np.cumsum(kept[window.items])])
        relevant = before[window.offsets[1:]] - before[window.offsets[:-1]]
        return accuracy(judged.hits & kept[judged.lists], relevant, self.ks, ("recall", "ndcg"))

    def _diversity_rows(self) -> np.ndarray:
        """Users whose lists are measured for diversity: all, or a seeded sample that bounds the work."""
        longest = np.sort(np.diff(self.vectors.indptr))[-self.ks[-1] :].sum()
        most = min(DIVERSITY_USERS, max(500, int(_DIVERSITY_WORK // max(1, longest))))
        n = len(self.window)
        if n <= most:
            return np.arange(n)
        return np.sort(self.run.rng(221).choice(n, most, replace=False))


def _splits(train: Dataset | None, test: Dataset | None, split: Split | Sequence[Split] | None) -> list[Split]:
    if split is not None:
        if train is not None or test is not None:
            raise ConfigError("train and test cannot be given beside a split", remedy="give one of them")
        splits = [split] if isinstance(split, Split) else list(split)
        if not splits:
            raise ConfigError("there is no split to judge by", remedy="zy.split(data) or zy.folds(data)")
        return splits
    if train is None or test is None:
        raise ConfigError("train and test are both needed", remedy="evaluate(models, *zy.split(data))")
    if not (train.items["id"].equals(test.items["id"]) and train.users["id"].equals(test.users["id"])):
        raise ConfigError(
            "train and test do not share their codes of users and items",
            remedy="read them as one log and part it with zy.split or Dataset.subset",
        )
    later = train.has_times and train.n_events and test.n_events and train.window[1] >= test.window[0]
    warnings = ("train holds events later than the first test event: models learn from the future",)
    words = "train and test as given" + ("" if later or not train.has_times else ", train before test")
    return [Split(train, test, "given", words, warnings if later else ())]


def _lengths(k: int | Sequence[int], main: int | None) -> list[int]:
    many = np.atleast_1d(k).tolist() if isinstance(k, np.ndarray) else k
    ks = [list_length(one) for one in (many if isinstance(many, Iterable) and not isinstance(many, str) else [many])]
    if not ks:
        raise ConfigError("k names no length of lists", remedy="whole numbers of at least 1: k=(10, 20)")
    return sorted({*ks, main} if main else set(ks))


def _named(models: Mapping[str, Recommender] | Iterable[Recommender] | Recommender) -> dict[str, Recommender]:
    if isinstance(models, Mapping):
        return dict(models)
    named: dict[str, Recommender] = {}
    for model in [models] if isinstance(models, Recommender) else models:
        name = label(model)
        same = sum(known == name or known.startswith(f"{name} #") for known in named)
        named[f"{name} #{same + 1}" if same else name] = model
    return named


def _refuse_leaks(models: dict[str, Recommender], splits: list[Split]) -> None:
    for name, model in models.items():
        for part in splits:
            if model.is_fitted and model.context_.fingerprint != part.train.fingerprint:
                raise ConfigError(
                    f"{name} was fitted on other data; it may have seen the test window",
                    remedy="give an unfitted model (it is fitted here), or fit it on the train part of this split",
                )


def _baselines(models: dict[str, Recommender], train: Dataset) -> dict[str, Recommender]:
    """The baselines that are not among the models already."""
    wanted: dict[str, Recommender] = {"Random": Random(), "Popular": Popular()}
    if train.has_times and train.window[1] - train.window[0] > 14 * UNITS["d"]:
        wanted["Popular 7d"] = Popular(half_life="7d")
    there = [(type(model), settings_of(model)) for model in models.values()]
    return {
        f"{name} (baseline)" if name in models else name: model
        for name, model in wanted.items()
        if (type(model), settings_of(model)) not in there
    }


def _plain_popular(model: Recommender) -> bool:
    return type(model) is Popular and model.half_life is None


def _categories(data: Dataset) -> sparse.csr_matrix | None:
    """CSR float32[n_items, n_categories] of the first column that lists categories; None without one.

    Text or lists of text in a column named as categories are (`category_columns`), text parted at "|", ";" or ",";
    or else any column of lists of text.
    """
    named = category_columns(data.items.columns)
    for name in [*named, *(name for name in data.items.columns if name not in named)]:
        column, dtype = data.items[name], data.items.schema[name]
        if name in named and dtype == pl.String:
            column = column.str.replace_all(r"[;,]", "|").str.split("|")
        elif not (isinstance(dtype, pl.List) and dtype.inner == pl.String):
            continue
        pairs = pl.DataFrame({"item": np.arange(len(column)), "word": column}).explode("word")
        pairs = pairs.with_columns(pl.col("word").str.strip_chars()).filter(pl.col("word").str.len_chars() > 0)
        pairs = pairs.unique(maintain_order=True)
        if pairs.is_empty():
            continue
        code = pairs["word"].rank("dense").to_numpy() - 1
        ones = np.ones(len(pairs), dtype=np.float32)
        shape = (len(column), int(code.max()) + 1)
        return sparse.csr_matrix((ones, (pairs["item"].to_numpy(), code)), shape=shape)
    return None


def _head(events: np.ndarray) -> np.ndarray:
    """bool[n_items]: the fewest items that hold `HEAD_SHARE` of the events (int[n_items])."""
    order = np.argsort(-events, kind="stable")
    before = np.cumsum(events[order]) - events[order]
    head = np.zeros(len(events), dtype=bool)
    head[order] = (before < HEAD_SHARE * events.sum()) & (events[order] > 0)
    return head


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of all folds, end to end."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _means(users: dict[str, np.ndarray], outcomes: list[_Outcome], ks: list[int]) -> dict[str, float]:
    """Means over users, and over folds what is a figure of all lists; in the order of the table, k by k."""
    figures = {name: _mean(values) for name, values in users.items()}
    for name in outcomes[0].of_lists:
        figures[name] = float(np.mean([outcome.of_lists[name] for outcome in outcomes]))
    names = (*RANKING, *("coverage", "gini", "novelty", "diversity"), "serendipity", "popularity_lift", "calibration")
    ordered = [f"{name}@{k}" for k in ks for name in names] + ["auc"]
    return {name: figures[name] for name in ordered if name in figures}


def _by_segment(
    users: dict[str, np.ndarray],
    segments: dict[str, np.ndarray],
    by_items: dict[str, dict[str, np.ndarray]],
) -> dict[str, dict[str, float]]:
    """Means over the users of each segment, with how many they are; segments nobody is in are left out."""
    found = {}
    names = [name for name in users if name.partition("@")[0] in RANKING or name == "auc"]
    for segment, inside in segments.items():
        figures = {name: _mean(users[name][inside]) for name in names}
        found[segment] = {"users": float(inside.sum()), **figures}
    for segment, values in by_items.items():
        there = ~np.isnan(next(iter(values.values())))
        found[segment] = {"users": float(there.sum()), **{name: _mean(v) for name, v in values.items()}}
    return {segment: figures for segment, figures in found.items() if figures["users"]}


def _mean(values: np.ndarray) -> float:
    """Mean without NaN; NaN of nothing."""
    real = values[~np.isnan(values)]
    return float(real.mean()) if len(real) else math.nan


def _or_lowest(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _judged_users(windows: list[Window]) -> pl.Series:
    """The raw id of each row of `per_user`."""
    return pl.concat([window.train.users["id"].gather(window.users) for window in windows])


def _title(windows: list[Window]) -> str:
    judged, items = sum(map(len, windows)), windows[0].train.n_items
    return f"Comparison: {judged:,} users judged on {items:,} items"


def _protocol(
    splits: list[Split], windows: list[Window], folds: list[_Fold], ks: list[int], rounds: int, run: Run, auc: bool
) -> list[str]:
    judged, pairs = sum(map(len, windows)), sum(len(window.items) for window in windows)
    unjudged, seen = sum(w.unjudged for w in windows), sum(w.seen for w in windows)
    missed = sum(int((~w.train.candidates[w.items]).sum()) for w in windows)
    candidates = " / ".join(f"{int(w.train.candidates.sum()):,}" for w in windows)
    several = len(splits) > 1
    people = _judged_users(windows).n_unique()
    said = [f"Split by {'; '.join(part.protocol for part in splits)}."]
    if several:
        said.append(
            f"{len(splits)} folds: models are fitted afresh for each; a user judged in several counts in each, but is "
            f"one user to intervals and tests ({people:,} different users); coverage, Gini and popularity lift are "
            "means over folds."
        )
    said.append(
        f"{judged:,} users judged by {pairs:,} relevant items: distinct items whose test events are together worth "
        f"more than nothing. {unjudged:,} users of the test part have none and are not judged."
    )
    said.append(
        f"Every list is ranked from the whole catalogue of {candidates} candidates; {missed / pairs:.1%} of the "
        "relevant items are no candidates (unknown before the test) and count as misses."
    )
    said.append(
        "Models are shown each user's history before the test part; "
        + (
            f"what is in it is not recommended, and {seen:,} relevant items that are in it do not count."
            if windows[0].exclude_seen
            else "what is in it may be recommended again."
        )
    )
    said.append("Ties: more popular in train first, then a seeded shuffle.")
    said.append(
        f"Metrics at k = {', '.join(map(str, ks))}: Recall over all of a user's relevant items; NDCG with binary gain "
        "and log2 discount; MAP over min(k, relevant); MRR to the first hit; a list that is too short ends in misses."
        + (" AUC within each user over all candidates, ties one half." if auc else "")
    )
    measured = sum(len(fold.diversity_rows) for fold in folds)
    kind = "their categories" if folds[0].by_category else "the users they share"
    said.append(
        f"Likeness of items (diversity) by {kind}"
        + (f", measured on a seeded sample of {measured:,} users" if measured < judged else "")
        + f"; miscalibration over {'categories' if folds[0].by_category else 'head, mid and tail items'}, "
        f"at k = {ks[0]}."
    )
    said.append(
        "Segments: new users have no event in their history; the others part at the median length, light up to it. "
        f"Head items are the fewest that hold {HEAD_SHARE:.0%} of the events in train; there only such items count."
    )
    drawn = f"95 % intervals: percentiles of {rounds:,} bootstrap draws of users" if rounds else "No intervals"
    together = ", each with the rows of all folds" if several and rounds else ""
    said.append(
        f"{drawn}{together}. p: paired t-tests over users against the best by the main metric, with Holm's correction."
    )
    said.append(
        f"At most {CHUNK_BYTES >> 20} MiB of scores exist at once; {run.n_threads} threads; seed {run.seed}. Peak MB: "
        "rise of resident memory while fitting and ranking, looked at every 10 ms."
    )
    return said


def _warnings(splits: list[Split], windows: list[Window]) -> list[str]:
    said = list(dict.fromkeys(warning for part in splits for warning in part.warnings))
    pairs, seen = sum(len(w.items) for w in windows), sum(w.seen for w in windows)
    missed = sum(int((~w.train.candidates[w.items]).sum()) for w in windows)
    if seen > 0.3 * (seen + pairs):
        share = seen / (seen + pairs)
        said.append(f"{share:.0%} of what users did is repeats, which do not count; to judge them: {JUDGE_REPEATS}")
    if missed > 0.2 * pairs:
        said.append(f"{missed / pairs:.0%} of the relevant items are no candidates: no model can find them")
    return said


def _versions() -> dict[str, str]:
    packages = ("numpy", "scipy", "polars", "numba")
    here = {"python": platform.python_version(), "zhiyin": zhiyin.__version__}  # which may run uninstalled
    return here | {name: metadata.version(name) for name in packages}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
