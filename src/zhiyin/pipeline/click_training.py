"""Training for probabilities: `[train] goal = "ctr"`, of a click of what is displayed, or "cvr", of a purchase of what
was clicked.

Rankers learn from all displays but the last ones, the best by log-loss is calibrated, and the gate compares it on the
last displays, which nothing has seen, with the base rate, with the rates of items and positions, and with the version
in use. Then the same ranker learns anew from all displays, and is saved as a version whose lists are ordered by it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import Run
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.evaluable_users import MIN_USERS
from zhiyin.data.project_config.training_sections import TrainSection
from zhiyin.evaluation.probability_metrics import ProbabilityFigures, probability_figures, reliability, row_losses
from zhiyin.evaluation.significance import bootstrap_interval, standard_error, users_needed
from zhiyin.models.training_context import TrainingContext
from zhiyin.pipeline.click_learning import Taught, build, labels_of, learn_builder, simple_rates, teach
from zhiyin.pipeline.display_log import DisplayLog, display_log
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.pipeline_fitting import SEGMENTS
from zhiyin.pipeline.probabilities import has_probabilities
from zhiyin.pipeline.promotion_gate import BOOTSTRAP_ROUNDS, MARGIN, PairedTest, Verdict
from zhiyin.pipeline.training import TrainedVersion, load_current, write_version
from zhiyin.ranking.feature_builder import FeatureBuilder
from zhiyin.ranking.ranker import Ranker

METRIC = "log-loss"
# Retrievers of the lists that the ranker orders.
SOURCES = "popular; popular:half_life=7d; itemknn"
# Share of the displays that the gate evaluates on, where [split] test does not say.
TEST_SHARE = 0.2
# Share of the time that learning before the gate may take; learning anew takes about as long as one ranker.
BUDGET_SHARE = 0.6


def train_click_version(
    data: Dataset,
    bundles: Bundles,
    seconds: float,
    *,
    goal: str = "ctr",
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
    """Learn, judge and save a version for probabilities; see the module. Takes what `train_version` takes.

    margin: share of what the version in use gains over the base rate that may be lost.

    Raises DataError where the log has no displays, or too few that were clicked.
    """
    run, started, created = run or Run(), time.monotonic(), datetime.now(UTC)
    judged = learn_and_judge(data, goal, BUDGET_SHARE * seconds, settings or TrainSection(), test, run, say)
    models, labels, users = dict(judged.models), judged.labels, judged.held.users
    current, current_model = load_current(bundles, say)
    note = ""
    if current is not None and isinstance(current_model, Pipeline):
        try:
            models[f"version {current.version}"] = _rival(current_model, judged, data, run)
        except ZhiyinError as error:
            note = f"; version {current.version} is not compared: {error.message}"
    verdict = judge(models, labels, users, margin, first=current is None, run=run, note=note)
    say(f"last displays: {verdict.why}")
    final = teach(data, judged.displays, goal, seconds, run, judged.taught.specification)
    pipeline = pipeline_of(final, data, goal, run)
    pipeline.report_ = judged.report(models, run) | {  # type: ignore[misc]
        "calibrated": final.ranker.calibrate, "seconds": time.monotonic() - started,
    }  # fmt: skip
    bundle = write_version(bundles, pipeline, verdict, verdict.why, Catalogue.of(data), created)
    promoted = verdict.passed or force
    if promoted:
        bundles.promote(bundle.version, verdict.why if verdict.passed else f"forced; {verdict.why}")
    trained = TrainedVersion(bundle, verdict, promoted, None, time.monotonic() - started)
    on_saved(trained)
    return trained


@dataclasses.dataclass(frozen=True)
class JudgedGoal:
    """What was learned without the last displays, and what it says of these.

    Parameters
    ----------
    displays, before, held: all displays, those learned from, and the last ones. past: the events of `before`.
    models: probabilities float[m] of the held displays by name: "candidate" and the simple rates.
    labels: float32[m] of the held displays.
    """

    goal: str
    displays: DisplayLog
    past: Dataset
    before: DisplayLog
    held: DisplayLog
    taught: Taught
    models: dict[str, np.ndarray]
    labels: np.ndarray

    def figures(self, models: dict[str, np.ndarray], run: Run) -> dict[str, ProbabilityFigures]:
        """The figures of each model."""
        return {name: probability_figures(self.labels, p, self.held.users, run) for name, p in models.items()}

    def report(self, models: dict[str, np.ndarray], run: Run) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "goal": self.goal, "displays": len(self.displays), "lists": len(self.displays.requests),
            "rate": float(labels_of(self.displays, self.goal).mean()), "judged_displays": len(self.held),
            "tried": self.taught.tried, "ranker": self.taught.specification,
            "figures": {name: one.to_dict() for name, one in self.figures(models, run).items()},
            "reliability": reliability(self.labels, models["candidate"]),
        }  # fmt: skip


def learn_and_judge(
    data: Dataset,
    goal: str,
    seconds: float,
    settings: TrainSection,
    test: str | float | None,
    run: Run,
    say: Callable[[str], None],
) -> JudgedGoal:
    """Learn from all displays but the last ones, within a time, and score these. Raises DataError as `teach` does."""
    displays = displays_for(data, goal, settings)
    say(f"displays: {len(displays):,} in {len(displays.requests):,} lists, {labels_of(displays, goal).mean():.2%} "
        f"{'bought' if goal == 'cvr' else 'clicked'}")  # fmt: skip
    cut = _cut(displays, test)
    past = data.subset(data.events["time"].to_numpy() < cut)
    before, held = displays_for(past, goal, settings), displays.between(cut, 2**62)
    taught = teach(past, before, goal, seconds, run)
    for one in taught.tried:
        left = one.get("left_out")
        say(f"ranker {one['ranker']}: " + (f"left out, {left}" if left else f"log-loss {one['log_loss']:.5f}"))
    models = {"candidate": probabilities_as_of(taught.ranker, taught.builder, data, held, run)}
    models |= {name: rate(held) for name, rate in simple_rates(before, goal).items()}
    judged = JudgedGoal(goal, displays, past, before, held, taught, models, labels_of(held, goal))
    for name, own in judged.figures(models, run).items():
        say(f"{name}: log-loss {own.log_loss:.5f}, AUC {own.auc:.4f}, GAUC {own.gauc:.4f}, ECE {own.ece:.5f}")
    return judged


train_purchase_version = partial(train_click_version, goal="cvr")


def displays_for(data: Dataset, goal: str, settings: TrainSection) -> DisplayLog:
    """The displays that a goal learns from: all, or for purchases those that were clicked."""
    displays = display_log(data, settings.display, settings.click_window)
    return displays.clicked() if goal == "cvr" else displays


def pipeline_of(taught: Taught, data: Dataset, goal: str, run: Run) -> Pipeline:
    """A pipeline whose lists are ordered by probabilities."""
    pipeline = Pipeline(sources=SOURCES, ranker=taught.specification, candidates=200)
    pipeline.sources_ = {name: model.fit(data, run) for name, model in pipeline._parse_sources().items()}  # type: ignore[misc]
    pipeline.choices_ = dict.fromkeys(("all", *SEGMENTS), "ranker")  # type: ignore[misc]
    pipeline.weights_ = np.ones((2, 2 * len(pipeline.sources_)))  # type: ignore[misc]
    pipeline.ranker_, pipeline.builder_ = taught.ranker, taught.builder  # type: ignore[misc]
    pipeline.goal_, pipeline.context_ = goal, TrainingContext.of(data, run)  # type: ignore[misc]
    pipeline.report_ = {}  # type: ignore[misc]
    return pipeline


def judge(
    models: dict[str, np.ndarray],
    labels: np.ndarray,
    users: np.ndarray,
    margin: float,
    *,
    first: bool,
    run: Run,
    note: str = "",
) -> Verdict:
    """The verdict on "candidate" by log-loss: better than the simple rates, and than a version in use but for a margin.

    Parameters
    ----------
    models: probabilities float[m] of the displays by name.
    users: int[m], whose displays they are: intervals are over users.
    margin: share of what a version gains over the base rate that may be lost.
    note: what else there is to say.
    """
    losses = {name: row_losses(labels, p) for name, p in models.items()}
    figures = {name: float(loss.mean()) for name, loss in losses.items()}
    n = len(np.unique(users))
    tests = {}
    for name, loss in losses.items():
        if name != "candidate":
            gained = max(0.0, figures["base rate"] - figures[name]) if name.startswith("version ") else 0.0
            tests[name] = _test(loss - losses["candidate"], figures[name], -margin * gained, users, n, first, run)
    why = f"{METRIC} {figures['candidate']:.5f} on {len(labels):,} displays of {n:,} users; "
    why += "; ".join(test.describe(name, n, first) for name, test in tests.items()) + note
    return Verdict(all(test.passed for test in tests.values()), why, METRIC, figures, tests, n, margin, first)


def _test(
    gain: np.ndarray, figure: float, bound: float, users: np.ndarray, n: int, first: bool, run: Run
) -> PairedTest:
    """Of the gains of displays, float64[m]: how much smaller the loss of the candidate is."""
    low, high = (float(end[0]) for end in bootstrap_interval(gain[:, None], run, BOOTSTRAP_ROUNDS, groups=users))
    mean, error, _ = standard_error(gain, users)
    needed = users_needed(error * np.sqrt(n), mean - bound) if np.isfinite(error) else None
    passed = high >= bound if first else n >= MIN_USERS and low > bound
    return PairedTest(figure, mean, low, high, bound, passed, needed)


def _rival(model: Pipeline, judged: JudgedGoal, data: Dataset, run: Run) -> np.ndarray:
    """float[m]: probabilities of the held displays by the version in use: as it is where its data ended before them
    under the same codes, else its ranker, learned anew from what lies before them.

    Raises DataError for one without probabilities.
    """
    goal, held = judged.goal, judged.held
    if not has_probabilities(model) or model.goal_ != goal or model.ranker_ is None or model.builder_ is None:
        raise DataError(f"it was trained for {model.goal_}", remedy=f"zhiyin train --goal {goal}")
    context = model._context()
    if context.window[1] < held.times.min() and context.item_ids.values.equals(data.item_ids.values):
        return probabilities_as_of(model.ranker_, model.builder_, data, held, run)
    taught = teach(judged.past, judged.before, goal, 0.0, run, model.ranker)
    return probabilities_as_of(taught.ranker, taught.builder, data, held, run)


def probabilities_as_of(
    ranker: Ranker, builder: FeatureBuilder, data: Dataset, held: DisplayLog, run: Run
) -> np.ndarray:
    """float[m]: probabilities of displays, with the features as of each: the index knows all events, and counts those
    before the display, as the index of a running service does."""
    return ranker.score(build(learn_builder(data, 0, run, like=builder), held, run), run)


def _cut(displays: DisplayLog, test: str | float | None) -> int:
    """The moment from which on displays are held back, microseconds UTC."""
    if isinstance(test, str):
        return int(displays.times.max()) + 1 - microseconds(test)
    return int(np.quantile(displays.times, 1 - (TEST_SHARE if test is None else test)))
