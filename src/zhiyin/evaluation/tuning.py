"""Tuning: search a model's declared ranges on a validation window that is part of train. A test set is never seen.

found = zy.tune("als", train, trials=30, storage="als.journal")
model = found.model.fit(train)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.atomic_files import mend_last_line
from zhiyin.core.errors import ConfigError, DataError, MissingExtraError, suggest
from zhiyin.core.params import Param, params_of, settings_of, whole_number
from zhiyin.core.registry import label
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.splits import Split, split
from zhiyin.evaluation.comparison_table import direction
from zhiyin.evaluation.model_evaluation import Window, evaluate_window, metric_k
from zhiyin.evaluation.rating_evaluation import (
    RatingWindow,
    calibration_error,
    calibration_table,
    evaluate_ratings,
    figure,
    has_ratings,
    need_ratings,
)
from zhiyin.evaluation.rating_metric_names import default_metric, is_rating_metric
from zhiyin.models import registry
from zhiyin.models.recommender import Recommender

# Users are evaluated in growing parts, so that a poor trial is pruned before the catalogue is ranked for all.
_PARTS = (1 / 8, 1 / 4, 1 / 2, 1.0)
_FEWEST = 200
# Trials that are not pruned, before the median is used.
_STARTUP = 5
# Finished trials from which on it is told how much each hyperparameter matters.
MIN_IMPORTANCE_TRIALS = 8


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """The result of a search.

    Parameters
    ----------
    best: all settings of the best trial, those not searched included.
    model: an unfitted model with these settings; fit it on the whole of train.
    value: `metric` of the best trial on the validation window.
    default_value: likewise of the initial settings; NaN where that trial did not finish.
    trials: frame `trial`, `state` (complete, pruned, fail), `value`, `seconds` and a column for each setting searched
        (text where it is a choice).
    protocol: how it was measured, in sentences.
    warnings: of the validation split.
    interrupted: Ctrl-C ended the search early; what was finished counts.
    importance: share of the differences between trials that each hyperparameter explains, by PED-ANOVA (Watanabe,
        Bansal & Hutter, IJCAI 2023); empty where too few trials were finished.
    """

    best: dict[str, Any]
    model: Recommender
    metric: str
    value: float
    default_value: float
    trials: pl.DataFrame
    protocol: list[str]
    warnings: list[str]
    interrupted: bool = False
    importance: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def history(self) -> dict[str, Any]:
        """The search as JSON, for reports: "metric", "importance" and "trials", each with its "settings"."""
        names = ("trial", "state", "value", "seconds")
        trials = [
            {name: row[name] for name in names} | {"settings": {k: v for k, v in row.items() if k not in names}}
            for row in self.trials.fill_nan(None).to_dicts()
        ]
        return {"metric": self.metric, "importance": self.importance, "trials": trials}

    def __str__(self) -> str:
        finished = int((self.trials["state"] == "complete").sum())
        return (
            f"{label(self.model)}: {self.metric} {self.value:.4f} on the validation window "
            f"({self.default_value:.4f} to begin with; {finished} of {len(self.trials)} trials finished)"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers; what is not a number is None."""
        plain = {
            name: getattr(self, name)
            for name in ("best", "metric", "protocol", "warnings", "interrupted", "importance")
        }
        plain |= {name: _number(getattr(self, name)) for name in ("value", "default_value")}
        return plain | {"model": label(self.model), "trials": self.trials.fill_nan(None).to_dicts()}


def tune(
    model: Recommender | str,
    train: Dataset,
    *,
    metric: str | None = None,
    trials: int = 30,
    timeout: float | None = None,
    validation: str | float | None = None,
    storage: str | Path | None = None,
    fixed: Sequence[str] = (),
    exclude_seen: bool = True,
    run: Run | None = None,
    parts: Split | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TuneResult:
    """Search the `tune` ranges of a model's hyperparameters with Optuna (TPE, median pruning).

    Parameters
    ----------
    model: a model, whose settings are the first trial, or its name; what is written in a name such as
        "als:factors=32" is held, as are the settings named in `fixed`.
    train: all there is to learn from. Its last window (or, without times, a random share of each user's events) is
        held out to validate on.
    metric: as `main` in `evaluate`: of lists, such as "ndcg@10", or of ratings, such as "rmse". None: "rmse" for a
        model of ratings where the log has some, else "ndcg@10".
    trials: how many in all, those already in `storage` counted.
    timeout: seconds after which no trial begins, and a model that reports its epochs stops in the middle of one.
    validation: a duration ("7d") or share (0.2) of train; a share where there are no times.
    parts: `train` as a part to learn from and a part to validate on, instead of `validation`.
    storage: file that keeps the trials: SQLite when it ends in .db, .sqlite or .sqlite3, else an Optuna journal.
        Asked again with the same model, metric, data and validation, the search goes on from there.
    clock: seconds as they pass, which the timeout is counted by.

    Ctrl-C ends the search with what is finished so far. Raises MissingExtraError without Optuna.
    """
    optuna = _optuna()
    run = run or Run()
    model, held = _begin(model, fixed)
    space = {p.name: p for p in params_of(type(model)).values() if p.tune is not None and p.name not in held}
    if not space:
        raise ConfigError(f"{type(model).__name__} has nothing to tune", remedy="its settings are all fixed")
    trials = whole_number(trials, "trials")
    metric, given = metric or default_metric([model], has_ratings(train)), parts is not None
    if parts is None:
        by = "auto" if is_rating_metric(metric) else "time" if train.has_times else "ratio"
        parts = split(train, by, test=validation, run=run, exclude_seen=exclude_seen)
    window = _window(metric, parts, exclude_seen)
    start = settings_of(model)
    key = [train.fingerprint, validation, exclude_seen, {name: start[name] for name in start if name not in space}]
    key += [parts.train.fingerprint] if given else []
    digest = hashlib.blake2b(json.dumps(key, default=str).encode(), digest_size=6).hexdigest()
    deadline = _Deadline(clock, timeout)
    objective = _Objective(type(model), start, space, _Validation.of(window, metric, run), run, deadline)
    interrupted = False
    with _quiet(optuna):
        less = direction(metric) == "↓"
        study = _open_study(optuna, f"{type(model).__name__} {metric} {digest}", storage, less)
        done = _finished(study)
        # A search that goes on must not draw what it drew before.
        study.sampler = optuna.samplers.TPESampler(seed=_seed(run, len(done)))
        if not done:
            study.enqueue_trial(_inside(space, start), skip_if_exists=True)
        with run.bar(f"Tuning {type(model).__name__}", max(0, trials - len(done))) as advance:
            try:
                if len(done) < trials:
                    study.optimize(
                        objective,
                        n_trials=trials - len(done),
                        callbacks=[lambda *_: advance(1), deadline.stop],
                    )
            except KeyboardInterrupt:
                interrupted = True
        complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
        if not complete:
            if interrupted:
                raise KeyboardInterrupt
            raise DataError("no trial was finished in time", remedy="a longer timeout")
        # The first of equals, so that the answer does not hang on the storage.
        best = max(complete, key=lambda trial: (-trial.value if less else trial.value, -trial.number))
        chosen = start | {name: best.params[name] for name in space if name in best.params}
        first = _inside(space, start)
        began = next((t.value for t in complete if all(t.params.get(n) == v for n, v in first.items())), float("nan"))
        frame, importance = _frame(study, space), _importance(optuna, study)
    return TuneResult(
        chosen,
        type(model)(**chosen),
        metric,
        float(best.value),
        float(began),
        frame,
        _protocol(parts.protocol, window, space, metric, run),
        list(parts.warnings),
        interrupted,
        importance,
    )


def _window(metric: str, parts: Split, exclude_seen: bool) -> Window | RatingWindow:
    """What trials are judged on: lists or ratings."""
    if not is_rating_metric(metric):
        metric_k(metric)
        return Window.of(parts, exclude_seen)
    ratings = RatingWindow.of(parts)
    need_ratings([ratings])
    assert ratings is not None
    if metric == "log_loss" and ratings.threshold is None:
        raise ConfigError("log_loss needs ratings of 0 or 1", remedy="tune by rmse or mae")
    return ratings


class _Validation:
    """The part to validate on, in growing parts of its users: the whole catalogue ranked, or ratings predicted."""

    def __init__(self, train: Dataset, metric: str, parts: Sequence[Window | RatingWindow], run: Run) -> None:
        self.train, self.metric, self.parts, self.run = train, metric, parts, run

    @classmethod
    def of(cls, window: Window | RatingWindow, metric: str, run: Run) -> _Validation:
        """In a seeded order of the users."""
        rated = isinstance(window, RatingWindow)
        users, place = np.unique(window.users, return_inverse=True) if rated else (window.users, np.zeros(0, np.int64))
        order = run.rng(231).permutation(len(users))
        sizes = sorted({min(len(order), max(_FEWEST, round(part * len(order)))) for part in _PARTS})
        some = np.split(order, sizes[:-1])
        if rated:
            return cls(window.train, metric, [window.take(np.isin(place, rows)) for rows in some], run)
        return cls(window.train, metric, [window.take(rows) for rows in some], run)

    def values(self, model: Recommender, part: Window | RatingWindow) -> np.ndarray:
        """What the figure is a mean of: a value a user, or a loss a rating."""
        if not isinstance(part, RatingWindow):
            return evaluate_window(model, part, [metric_k(self.metric) or 1], self.run).per_user[self.metric]
        rating_model = model.rating_model
        if rating_model is None:
            raise ConfigError(
                f"{type(model).__name__} predicts no ratings", remedy="tune it by a metric of lists: ndcg@10"
            )
        result = evaluate_ratings(rating_model, part, self.run)
        if self.metric in result.losses:
            return result.losses[self.metric]
        return np.full(len(part), calibration_error(calibration_table(part.ratings, result.predictions)))

    def figure(self, values: np.ndarray) -> float:
        return figure(self.metric, float(values.mean()))


class _Objective:
    """Fit a trial's model on the train part, then evaluate it on growing parts of the users."""

    def __init__(
        self,
        owner: type[Recommender],
        start: dict[str, Any],
        space: dict[str, Param],
        validation: _Validation,
        run: Run,
        deadline: _Deadline,
    ) -> None:
        self.owner, self.start, self.space = owner, start, space
        self.validation, self.deadline = validation, deadline
        # One bar, of the trials.
        self.run = dataclasses.replace(run, progress=False, callbacks=(*run.callbacks, self._look_at_clock))

    def __call__(self, trial: Any) -> float:
        optuna = _optuna()
        settings = self.start | {name: _suggest(trial, p) for name, p in self.space.items()}
        model, parts = self.owner(**settings), self.validation.parts
        try:
            model.fit(self.validation.train, self.run)
        except _OutOfTime:
            raise optuna.TrialPruned("the time is up") from None
        except DataError as error:
            if trial.number == 0:  # of the settings that were given: it is no matter of the search
                raise
            raise optuna.TrialPruned(f"it cannot be fitted: {error.message}") from None
        values = np.zeros(0)
        for step, part in enumerate(parts):
            values = np.concatenate([values, self.validation.values(model, part)])
            trial.report(self.validation.figure(values), step)
            if step < len(parts) - 1 and trial.should_prune():
                raise optuna.TrialPruned(f"worse than the median after {len(values)} users")
        return self.validation.figure(values)

    def _look_at_clock(self, news: dict[str, Any]) -> None:
        if self.deadline.passed:
            raise _OutOfTime


class _Deadline:
    """When no further trial begins: after `seconds` of the clock, never where that is None."""

    def __init__(self, clock: Callable[[], float], seconds: float | None) -> None:
        self.clock, self.end = clock, None if seconds is None else clock() + seconds

    @property
    def passed(self) -> bool:
        return self.end is not None and self.clock() >= self.end

    def stop(self, study: Any, trial: Any) -> None:
        """End the search after a trial; a callback of Optuna."""
        if self.passed:
            study.stop()


class _OutOfTime(Exception):  # noqa: N818 -- not an error: the search ends as asked
    """The timeout has passed."""


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "tune", "tuning") from None
    return optuna


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Limit Optuna's process-wide log to errors within the block."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _begin(model: Recommender | str, fixed: Sequence[str]) -> tuple[Recommender, set[str]]:
    """An unfitted copy of the model to begin with, and the settings that are held."""
    held = set(fixed)
    if isinstance(model, str):
        pairs = (part.partition("=") for part in model.partition(":")[2].split(","))
        held |= {name.strip() for name, equals, _ in pairs if equals}
        model = registry.parse(model)
    names = list(params_of(type(model)))
    for name in held - set(names):
        raise ConfigError(f"{type(model).__name__} has no hyperparameter {name!r}", remedy=suggest(name, names))
    return dataclasses.replace(model), held


def _suggest(trial: Any, p: Param) -> Any:
    """One value of a hyperparameter, from its `tune` range: (low, high) for numbers, choices for all else."""
    choices = _choices(p)
    if choices is not None:
        return trial.suggest_categorical(p.name, choices)
    assert p.tune is not None
    low, high = p.tune
    suggest: Callable[..., Any] = trial.suggest_int if p.kind == "int" else trial.suggest_float
    return suggest(p.name, low, high, log=p.log)


def _choices(p: Param) -> list[Any] | None:
    """The choices of a hyperparameter that is no range of numbers, None among them where it is optional; else None."""
    assert p.tune is not None
    if p.kind in ("int", "float") and not p.optional and len(p.tune) == 2:
        return None
    return [None, *p.tune] if p.optional and None not in p.tune else list(p.tune)


def _inside(space: dict[str, Param], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that lie within the search space; Optuna draws the others."""
    inside = {}
    for name, p in space.items():
        choices, value = _choices(p), settings[name]
        low, high = p.tune[:2] if choices is None and p.tune else (value, value)
        if (choices is None and low <= value <= high) or (choices is not None and value in choices):
            inside[name] = value
    return inside


def _storage(optuna: Any, path: str | Path | None) -> Any:
    if path is None:
        return None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".db", ".sqlite", ".sqlite3"):
        return f"sqlite:///{path}"
    journal = optuna.storages.journal
    lock = journal.JournalFileSymlinkLock(str(path))
    if path.is_file() and path.stat().st_size:
        # What a crash left of a line would make one with the next line, and the whole journal unreadable.
        lock.acquire()
        try:
            mend_last_line(path)
        finally:
            lock.release()
    return optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), lock))


def _open_study(optuna: Any, name: str, storage: str | Path | None, less: bool) -> Any:
    """The study of that name, with its stored trials. Raises DataError where they cannot be read.

    less: whether less is better.
    """
    try:
        study = optuna.create_study(
            study_name=name,
            storage=_storage(optuna, storage),
            load_if_exists=True,
            direction="minimize" if less else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP),
        )
        _finished(study)
    except Exception as error:  # of a damaged file each storage raises what it likes
        if storage is None:
            raise
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"the trials kept here cannot be read ({why})", file=storage, remedy="remove it, or name another file"
        ) from None
    return study


def _finished(study: Any) -> list[Any]:
    """Trials that are complete or pruned; a trial that was interrupted is repeated."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _seed(run: Run, done: int) -> int:
    return int(run.rng(232, done).integers(2**31))


def _frame(study: Any, space: dict[str, Param]) -> pl.DataFrame:
    rows = []
    for trial in study.trials:
        if not trial.state.is_finished():
            continue
        settings = {}
        for name, p in space.items():
            value = trial.params.get(name)
            settings[name] = value if _choices(p) is None or value is None else str(value)
        length = trial.duration.total_seconds() if trial.duration else None
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "value": trial.value if trial.state.name == "COMPLETE" else None,
                "seconds": length,
                **settings,
            }
        )
    kinds: dict[str, Any] = {"trial": pl.Int64, "state": pl.String, "value": pl.Float64, "seconds": pl.Float64}
    numbers = {"int": pl.Int64, "float": pl.Float64}
    kinds |= {name: numbers[p.kind] if _choices(p) is None else pl.String for name, p in space.items()}
    return pl.DataFrame(rows, schema=kinds)


def _importance(optuna: Any, study: Any) -> dict[str, float]:
    """The importance of each hyperparameter; empty where it cannot be told."""
    finished = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(finished) < MIN_IMPORTANCE_TRIALS or len({trial.value for trial in finished}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():  # it is an experimental part of Optuna
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _protocol(parts: str, window: Window | RatingWindow, space: dict[str, Param], metric: str, run: Run) -> list[str]:
    judged = f"{metric} on {len(window):,} users by {len(window.items):,} relevant items, the whole catalogue ranked."
    if isinstance(window, RatingWindow):
        judged = f"{metric} on {len(window):,} ratings of {window.n_users:,} users."
    return [
        f"Within train, {parts}; no test data is used.",
        judged,
        f"Searched: {', '.join(space)}; TPE with seed {run.seed}, the given settings first. A trial that is worse than "
        f"the median of earlier ones on a part of the users is cut, after {_STARTUP} trials.",
    ]


def _number(value: float) -> float | None:
    return None if value != value else value
