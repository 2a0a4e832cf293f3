"""Training with ratings as the goal: models of ratings are tried, tuned and blended within a time budget, by RMSE.

    all events | learn ........................ | held back: choose | judge
                 candidates are fitted on it      tuned, weighed      the gate

Models learn from the first part alone. Settings and the weights of the blend (`RatingBlend`) come from one half of what
is held back; the gate judges on the other one, which nothing before has seen, against the version in use and the biases
of users and items. Then the chosen models learn from all events, with the settings and weights as they are.

Time is planned as it goes (`rating_candidates`): a model that does not fit gets fewer steps, or is left out, the last
of `suitable_rating_models` first; tuning takes what is left over. Where the last fits would end too late, the slowest
model is dropped and the others are weighed anew.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import numpy as np

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import Run, log
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.project_config.training_sections import TrainSection
from zhiyin.data.splits import Split, split
from zhiyin.evaluation.rating_evaluation import (
    RatingWindow,
    calibration_table,
    figures,
    has_ratings,
    intervals,
    losses,
)
from zhiyin.evaluation.tuning import tune
from zhiyin.models.ratings.rating_blend import RatingBlend, equal_weights, stack
from zhiyin.models.ratings.rating_model import RatingModel
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline import rating_candidates
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.promotion_gate import BOOTSTRAP_ROUNDS, MARGIN, Verdict, verdict_without_users
from zhiyin.pipeline.rating_candidates import Clock, OutOfTimeError, fit_timed, name_of, parsed
from zhiyin.pipeline.rating_gate import BASELINE, decide_by_ratings
from zhiyin.pipeline.training import TrainedVersion, load_current, write_version

# The baseline that is always fitted.
BIAS = "useritembias"
# What a fit on all events takes, in fits on the first part: it has more events, and a machine may have become slower.
REFIT_FACTOR = 1.4
# Share of what is left of the budget that one model may take, its fit on all events included.
MODEL_SHARE = 0.8
# A search of fewer trials is not begun; a setting has to be better by so much (RMSE) to be taken.
FEWEST_TRIALS, LEAST_GAIN = 4, 1e-4
# A model that makes the blend better by less than this share of its RMSE is left out.
LEAST_ADDED = 2e-4
# End of the budget that the last fits may not be begun after, as a share of it.
LAST_START = 1.0
# Share of the judged ratings that lie within the half width of a prediction.
INTERVAL = 0.9
# Random streams: the halves of what is held back, the folds that models are left out by.
_HALVES_STREAM, _FOLDS_STREAM = 71, 72


@dataclasses.dataclass
class Candidate:
    """A model that was fitted on the first part: the seconds that took, and its scores of the ratings held back."""

    name: str
    model: RatingModel
    seconds: float
    choose: np.ndarray
    judge: np.ndarray


@dataclasses.dataclass(frozen=True)
class HeldBack:
    """What is held back of a log: `part` as a split, `choose` and `judge` as its halves."""

    part: Split
    choose: RatingWindow
    judge: RatingWindow


def train_rating_version(
    data: Dataset,
    bundles: Bundles,
    seconds: float,
    *,
    test: str | float | None = None,
    exclude_seen: bool = True,
    margin: float = MARGIN,
    force: bool = False,
    run: Run | None = None,
    say: Callable[[str], None] = lambda message: None,
    on_pipeline: Callable[[Pipeline], None] = lambda pipeline: None,
    on_saved: Callable[[TrainedVersion], None] = lambda trained: None,
    settings: TrainSection | None = None,
) -> TrainedVersion:
    """Build a version that predicts ratings within a time budget, judge it by RMSE, and save it; see the module.

    It lists items by their predicted rating. Parameters as in `training.train_version`; `margin` is a share of the RMSE
    of the version in use. Raises DataError where the log has no ratings.
    """
    run, started, created = run or Run(), time.monotonic(), datetime.now(UTC)
    if not has_ratings(data):
        raise DataError(
            "the log has no ratings to learn from",
            remedy='name their column under [columns]: rating = "stars"; or train what lists: --goal ranking',
        )
    clock, held, reason = Clock(seconds, started), None, ""
    try:
        held = hold_back(data, test, run)
        for warning in held.part.warnings:
            say(f"ratings held back: {warning}")
    except DataError as error:  # a version that nobody can judge is better than none
        reason = error.message
        say(f"ratings held back: there are none to judge by: {error}")
    current, current_model = load_current(bundles, say)
    in_use = None if current_model is None else current_model.rating_model
    search = _Search(data, held, clock, run, _parts_of(in_use))
    model, chosen, report = search.finish(search.run_all(say))
    pipeline = _pipeline(model, report)
    on_pipeline(pipeline)
    first = current_model is None
    if held is None:
        verdict = verdict_without_users(reason, "rmse", margin, first=first)
    else:
        rivals, left_out = {}, {}
        if current is not None and current_model is not None:
            name = f"version {current.version}"
            errors = None if in_use is None else search.errors_of_version(in_use)
            if errors is not None:
                rivals[name] = errors
            else:
                left_out[name] = (
                    "it predicts no ratings" if in_use is None else "there is no time to fit its models once more"
                )
        verdict = decide_by_ratings(
            search.judged(chosen.names, chosen.weights),
            search.judged([BIAS], np.array([0.0, 1.0])),
            rivals,
            held.judge.users,
            margin=margin,
            first=first,
            left_out=left_out,
            run=run,
        )
    say(f"ratings held back: {verdict.why}")
    catalogue = Catalogue.of(data)
    bundle = write_version(bundles, pipeline, verdict, verdict.why, catalogue, created)
    promoted = verdict.passed or force
    if promoted:
        bundles.promote(bundle.version, verdict.why if verdict.passed else f"forced; {verdict.why}")
    trained = TrainedVersion(bundle, verdict, promoted, None, time.monotonic() - started)
    on_saved(trained)
    if promoted or current is None or in_use is None or held is None:
        return trained
    again = search.learned_anew(in_use, verdict)
    if again is None:
        return trained
    renewed = _pipeline(again, report)
    why = f"version {current.version}, learned anew, for version {bundle.version} did not pass; {verdict.why}"
    refitted = write_version(bundles, renewed, verdict, why, catalogue, created)
    bundles.promote(refitted.version, why)
    say(f"version {refitted.version} is in use: it is version {current.version}, learned anew from all events")
    return dataclasses.replace(trained, refitted=refitted)


def _pipeline(model: RatingBlend, report: dict[str, Any]) -> Pipeline:
    """The pipeline of a version: its lists are in the order of predicted ratings."""
    pipeline = Pipeline.wrapping(model)
    pipeline.report_, pipeline.goal_ = report, "rating"  # type: ignore[misc]
    return pipeline


def hold_back(data: Dataset, test: str | float | None, run: Run) -> HeldBack:
    """Cut off what is held back, as `split(by="auto")` does, and halve it: by time where it lies after the rest, else
    by users. Raises DataError where a half has no rating."""
    part = split(data, "auto", test=test, run=run)
    whole = RatingWindow.of(part)
    if whole is None or len(np.unique(whole.users)) < 2:
        raise DataError("fewer than two users have ratings in the last part", remedy="a longer log")
    if whole.times is not None:
        later = whole.times > np.quantile(whole.times, 0.5, method="lower")
    else:
        users, place = np.unique(whole.users, return_inverse=True)
        later = (run.rng(_HALVES_STREAM).permutation(len(users)) % 2 == 0)[place]
    if not later.any() or later.all():
        raise DataError("the last part cannot be halved", remedy="a longer log")
    return HeldBack(part, whole.take(~later), whole.take(later))


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The models of a blend by name, their weights, float64[1 + models], and what each adds: RMSE without it."""

    names: list[str]
    weights: np.ndarray
    without: dict[str, float]


class _Search:
    """The candidates of one training, fitted and weighed within its time.

    in_use: names of the models of the version in use, whose settings are tried in place of the usual ones.
    """

    def __init__(
        self, data: Dataset, held: HeldBack | None, clock: Clock, run: Run, in_use: Mapping[str, RatingModel]
    ) -> None:
        self.data, self.held, self.clock, self.run = data, held, clock, run
        self.in_use = {type(model).__name__.lower(): name for name, model in in_use.items()}
        self.train = data if held is None else held.part.train
        self.fitted: dict[str, Candidate] = {}
        self.fitted_on_all: dict[str, RatingModel] = {}
        self.tried: list[dict[str, Any]] = []
        self.notes: list[str] = []
        # A fit on all events, in fits on the first part.
        self.refit = REFIT_FACTOR if held is not None else 0.0

    # -- trying -------------------------------------------------------------------------------------------------------

    def run_all(self, say: Callable[[str], None]) -> Chosen:
        """Fit what there is time for, tune it in what is left, and weigh it."""
        for source in rating_candidates.suitable_rating_models(self.data):
            name = self.in_use.get(source.specification, source.specification)
            record: dict[str, Any] = {"source": name, "why": source.reason}
            self.tried.append(record)
            try:
                self._try(name, record)
            except ZhiyinError as error:  # a model that does not fit the data after all is no reason to stop
                record["left_out"] = str(error)
            if "left_out" in record:
                log.info("ratings: %s is left out: %s", name, record["left_out"])
            else:
                say(f"{record['source']}: " + ("" if self.held is None else f"rmse {record['rmse']:.4f}, ")
                    + f"fitted in {record['fit_seconds']:.1f} s")  # fmt: skip
        if not self.fitted:
            raise DataError("no model of ratings could be fitted", remedy="see what was left out above")
        if self.held is not None:
            self._tune(say)
        return self._weigh(list(self.fitted))

    def _try(self, name: str, record: dict[str, Any]) -> None:
        """Fit a model, with as many steps as there is time for."""
        model = parsed(name)
        rating_candidates.load_kernels(model, self.train, self.run)
        # It is fitted now, and again on all events.
        allowed = MODEL_SHARE * self.clock.left / (1 + self.refit)
        steps = rating_candidates.affordable_steps(model, self.train, allowed, self.run)
        if steps is None:
            if self.fitted:
                record["left_out"] = "its fit is too slow for the budget"
                return
            steps = rating_candidates.PROBE_STEPS  # something has to be there
        usual = rating_candidates.steps_of(model)
        if usual is not None and steps < getattr(model, usual):
            self.notes.append(f"{name} with {steps} of {getattr(model, usual)} {usual}, for lack of time")
            model = rating_candidates.with_steps(model, steps)
        self._fit(model, record, time.monotonic() + 1.5 * max(allowed, 1.0) if self.fitted else None)

    def _fit(self, model: RatingModel, record: dict[str, Any], deadline: float | None) -> None:
        """Fit a model on the first part, and have it predict what is held back."""
        name = record["source"] = name_of(model)
        started = time.monotonic()
        try:
            seconds = fit_timed(model, self.train, self.run, deadline)
        except OutOfTimeError:
            record["left_out"] = "its fit took longer than planned"
            return
        choose, judge = (self._scores(model, window) for window in self._windows())
        seconds = max(seconds, 0.9 * (time.monotonic() - started))
        candidate = Candidate(name, model, seconds, choose, judge)
        self.fitted[name] = candidate
        if self.held is None:
            self.fitted_on_all[name] = model
        self.clock.reserved += self.refit * seconds
        record |= {"fit_seconds": round(seconds, 2)}
        if self.held is not None:
            record["rmse"] = _rmse(model.clip(choose), self.held.choose.ratings)

    def _windows(self) -> Sequence[RatingWindow | None]:
        return (None, None) if self.held is None else (self.held.choose, self.held.judge)

    def _scores(self, model: RatingModel, window: RatingWindow | None) -> np.ndarray:
        """float32[m]: scores of the ratings of a window."""
        if window is None:
            return np.zeros(0, np.float32)
        return model.pair_scores(window.histories, window.users, window.items, window.times, self.run)

    def _tune(self, say: Callable[[str], None]) -> None:
        """Search settings other than sizes and steps, in equal shares of what is left, the cheapest models first."""
        assert self.held is not None
        if not find_spec("optuna"):
            self.notes.append('models are not tuned, for optuna is not installed: pip install "zhiyin[tune]"')
            return
        part = self.held.part
        window = Split(self.train, part.test.subset(_rows_of(self.held)), part.by, "what is held back to choose by")
        order = sorted(self.fitted.values(), key=lambda one: one.seconds)
        for place, candidate in enumerate(order):
            record = next(one for one in self.tried if one["source"] == candidate.name)
            share = self.clock.left / (len(order) - place)
            # A better setting is fitted once more.
            if share < (FEWEST_TRIALS + 1) * candidate.seconds:
                continue
            model = dataclasses.replace(candidate.model)
            fixed = [name for name in ("factors", "epochs", "sweeps", "bins") if hasattr(model, name)]
            try:
                found = tune(model, self.train, metric="rmse", trials=40, timeout=share - candidate.seconds,
                             fixed=fixed, parts=window, run=dataclasses.replace(self.run, progress=False))  # fmt: skip
            except ZhiyinError:  # such as nothing to tune
                continue
            if found.interrupted:  # Ctrl-C ends all of the training, not the tuning of one model
                raise KeyboardInterrupt
            if not found.value < found.default_value - LEAST_GAIN:
                continue
            assert isinstance(found.model, RatingModel)
            del self.fitted[candidate.name]
            self.clock.reserved -= self.refit * candidate.seconds
            self._fit(found.model, record, None)
            record |= {"tuned": record["source"], "value": found.value, "before": found.default_value,
                       "trials": len(found.trials)}  # fmt: skip
            say(f"tuned to {record['source']}: rmse {found.value:.4f} from {found.default_value:.4f}")

    # -- weighing -----------------------------------------------------------------------------------------------------

    def _weigh(self, names: list[str]) -> Chosen:
        """Weights of a blend of some of these models, by the ratings to choose by; those that add nothing are left out.

        What a model adds is seen on halves of the users, each weighed by the other.
        """
        if self.held is None:
            return Chosen(names, equal_weights(len(names)), {})
        ratings = self.held.choose.ratings.astype(np.float64)
        users, place = np.unique(self.held.choose.users, return_inverse=True)
        halves = (self.run.rng(_FOLDS_STREAM).permutation(len(users)) % 2 == 0)[place]
        names = sorted(names, key=lambda name: self.fitted[name].seconds)
        whole = self._crossed(names, ratings, halves)
        while len(names) > 1:
            without = {name: self._crossed([n for n in names if n != name], ratings, halves) for name in names}
            least = min(names, key=lambda name: (without[name], -self.fitted[name].seconds))
            if without[least] > whole * (1 + LEAST_ADDED):
                break
            names = [name for name in names if name != least]
            whole = without[least]
        without = {"none": whole}
        if len(names) > 1:
            without |= {name: self._crossed([n for n in names if n != name], ratings, halves) for name in names}
        scores = np.column_stack([self.fitted[name].choose for name in names])
        return Chosen(names, stack(scores, ratings), without)

    def _crossed(self, names: list[str], ratings: np.ndarray, halves: np.ndarray) -> float:
        """RMSE of a blend, each half of the users weighed by the other one."""
        scores = np.column_stack([self.fitted[name].choose for name in names]).astype(np.float64)
        found = np.empty(len(ratings))
        for half in (False, True):
            learn = halves != half
            weights = stack(scores[learn], ratings[learn]) if learn.any() else equal_weights(len(names))
            found[~learn] = weights[0] + scores[~learn] @ weights[1:]
        return _rmse(self._clip(found), ratings)

    def _clip(self, ratings: np.ndarray) -> np.ndarray:
        return next(iter(self.fitted.values())).model.clip(ratings)

    # -- judging ------------------------------------------------------------------------------------------------------

    def judged(self, names: Sequence[str], weights: np.ndarray) -> np.ndarray:
        """float64[m]: squared errors of a blend on the ratings to judge by."""
        assert self.held is not None
        return np.square(self._predictions(names, weights) - self.held.judge.ratings.astype(np.float64))

    def _predictions(self, names: Sequence[str], weights: np.ndarray) -> np.ndarray:
        scores = np.column_stack([self._candidate(name).judge for name in names]).astype(np.float64)
        return self._clip(weights[0] + scores @ weights[1:])

    def _candidate(self, name: str) -> Candidate:
        """A model by name; the baseline under whatever settings it was tuned to."""
        if name in self.fitted:
            return self.fitted[name]
        return next(one for one in self.fitted.values() if name_of(one.model).partition(":")[0] == name)

    def errors_of_version(self, model: RatingModel) -> np.ndarray | None:
        """Squared errors of the version in use, its models fitted on the first part; None where there is no time."""
        names = list(_parts_of(model))
        for name in names:
            if name not in self.fitted:
                like = [
                    one.seconds for one in self.fitted.values() if one.name.partition(":")[0] == name.partition(":")[0]
                ]
                if not like or self.clock.passed + max(like) > self.clock.seconds:
                    return None
                self._fit(parsed(name), {"source": name}, None)
        return self.judged(names, _weights_of(model))

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self, chosen: Chosen) -> tuple[RatingBlend, Chosen, dict[str, Any]]:
        """The chosen models, fitted on all events, as a blend; which they are, and the report.

        The cheapest are fitted first. One whose fit would begin after the end of the budget is dropped.
        """
        names = sorted(chosen.names, key=lambda name: self.fitted[name].seconds)
        for name in names:
            late = self.clock.passed > LAST_START * self.clock.seconds
            if self.fitted_on_all and late and name not in self.fitted_on_all:
                kept = [one for one in names if one in self.fitted_on_all]
                self.notes.append(
                    f"{', '.join(one for one in names if one not in kept)} dropped: no time for a last fit"
                )
                chosen = self._weigh(kept)
                break
            self._fit_on_all(name)
        blend = RatingBlend.of({name: self.fitted_on_all[name] for name in chosen.names}, chosen.weights, self.run)
        report = self._report(chosen)
        if self.held is not None:
            errors = np.sqrt(self.judged(chosen.names, chosen.weights))
            blend.half_width_ = report["half_width"] = float(np.quantile(errors, INTERVAL))  # type: ignore[misc]
        return blend, chosen, report

    def _fit_on_all(self, name: str) -> RatingModel:
        if name not in self.fitted_on_all:
            model = dataclasses.replace(self.fitted[name].model)
            model.fit(self.data, self.run)
            self.fitted_on_all[name] = model
        return self.fitted_on_all[name]

    def _report(self, chosen: Chosen) -> dict[str, Any]:
        """What was tried, weights, what each model adds, and figures on the ratings to judge by."""
        report: dict[str, Any] = {
            "goal": "rating", "metric": "rmse", "notes": self.notes, "tried": self.tried,
            "weights": dict(zip(("constant", *chosen.names), chosen.weights.tolist())), "without": chosen.without,
            "budget": self.clock.seconds, "seconds": round(self.clock.passed, 2),
        }  # fmt: skip
        if self.held is None:
            return report
        window = self.held.judge
        report["held_back"] = {
            "protocol": self.held.part.protocol,
            "choose": len(self.held.choose),
            "judge": len(window),
        }
        for label, names, weights in (
            ("blend", chosen.names, chosen.weights),
            (BASELINE, [BIAS], np.array([0.0, 1.0])),
        ):
            found = self._predictions(names, weights).astype(np.float32)
            loss = losses(window, found, self.run)
            report[label] = {
                "figures": figures(loss, window.ratings, found),
                "intervals": intervals(loss, window.users, self.run, BOOTSTRAP_ROUNDS),
                "calibration": calibration_table(window.ratings, found),
            }
        return report

    def learned_anew(self, model: RatingModel, verdict: Verdict) -> RatingBlend | None:
        """The version in use, its models fitted on all events with the weights they have.

        None where it already knows all events, was not compared, or is shown to be worse than the baseline.
        """
        names = list(_parts_of(model))
        same = model._context().fingerprint == self.data.fingerprint
        if same or any(name not in self.fitted for name in names):
            return None
        errors, baseline = (self.judged(*one) for one in ((names, _weights_of(model)), ([BIAS], np.array([0.0, 1.0]))))
        assert self.held is not None
        gate = decide_by_ratings(
            errors, baseline, {}, self.held.judge.users, margin=verdict.margin, first=True, run=self.run
        )
        if not gate.passed:
            return None
        blend = RatingBlend.of({name: self._fit_on_all(name) for name in names}, _weights_of(model), self.run)
        blend.half_width_ = float(np.quantile(np.sqrt(errors), INTERVAL))  # type: ignore[misc]
        return blend


def _rows_of(held: HeldBack) -> np.ndarray:
    """bool[events of the held part]: the ratings to choose by."""
    events = held.part.test.events
    value = events["value"].fill_null(np.nan).to_numpy()
    rated = np.isfinite(value)
    if held.choose.times is not None:
        return rated & (events["time"].to_numpy() <= held.choose.times.max())
    return rated & np.isin(events["user"].to_numpy(), held.choose.users)


def _parts_of(model: Recommender | None) -> dict[str, RatingModel]:
    """The models of a version in use by name."""
    if isinstance(model, RatingBlend):
        return dict(model.parts_)
    return {name_of(model): model} if isinstance(model, RatingModel) else {}


def _weights_of(model: RatingModel) -> np.ndarray:
    return model.weights_ if isinstance(model, RatingBlend) else np.array([0.0, 1.0])


def _rmse(predictions: np.ndarray, ratings: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(predictions - ratings.astype(np.float64)))))
