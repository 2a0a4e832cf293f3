"""The promotion gate: a new model is put in use only if it passes two tests on held-out events.

The tests are on the 95 % interval of its mean gain, paired by user:

- **superiority to `Popular`**: the low end is above 0;
- **non-inferiority to the model in use**: the low end is above minus a margin, a share of that model's metric.

The first model replaces none and often has few users to be evaluated on: it passes unless `Popular` is significantly
better, that is unless the high end of its gain is below 0. Where a test fails for lack of users, the verdict says how
many it would take at the observed gain. Where no user can be evaluated, the first model passes and no later one does.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.run import Run
from zhiyin.data.evaluable_users import MIN_USERS
from zhiyin.data.splits import Split
from zhiyin.evaluation.model_evaluation import Window, evaluate_window, metric_k
from zhiyin.evaluation.significance import bootstrap_interval, users_needed
from zhiyin.models.popularity import Popular
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline.pipeline import Pipeline

# Share of the metric of the model in use that a new model may lose.
MARGIN = 0.02
# Draws of users for the interval.
BOOTSTRAP_ROUNDS = 2_000


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """The gain of a new model over another one, and the bound it had to exceed.

    Parameters
    ----------
    figure: the other model's mean of the metric.
    gain: the new model's mean gain over it.
    low: lower end of its 95 % interval.
    high: upper end.
    bound: what `low` must exceed.
    needed: users for a power of 80 % at the observed gain; None where no number is enough.
    """

    figure: float
    gain: float
    low: float
    high: float
    bound: float
    passed: bool
    needed: int | None

    @property
    def worse(self) -> bool:
        """Whether the new model is significantly below the bound."""
        return self.high < self.bound

    def describe(self, name: str, users: int, first: bool) -> str:
        """The test as a sentence."""
        text = f"{name} {self.figure:.4f}: gain {self.gain:+.4f}, 95 % {self.low:+.4f} to {self.high:+.4f}, "
        text += f"must {'not be below' if first else 'be above'} {self.bound:+.4f}: {'yes' if self.passed else 'no'}"
        if (self.low > self.bound and users >= MIN_USERS) or self.worse:
            return text
        if self.needed is None:
            return f"{text}; no number of users would show that it is above"
        return (
            f"{text}; to show that it is above takes about {max(self.needed, MIN_USERS):,} users, there were {users:,}"
        )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a model may be put in use, and why.

    Parameters
    ----------
    figures: mean of the metric of each evaluated model.
    tests: the comparison with each other model.
    users: number of evaluated users; 0: there are no figures and no tests.
    margin: share of the metric of the model in use that may be lost.
    first: no model is in use yet.
    """

    passed: bool
    why: str
    metric: str
    figures: dict[str, float]
    tests: dict[str, PairedTest]
    users: int
    margin: float
    first: bool

    @property
    def worse(self) -> bool:
        """Whether it failed because it is significantly worse than allowed, and not for lack of users."""
        return not self.passed and any(test.worse for test in self.tests.values())

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def decide_promotion(
    candidate: Recommender,
    split: Split,
    rivals: Mapping[str, Recommender] | None = None,
    *,
    metric: str = "ndcg@10",
    margin: float = MARGIN,
    exclude_seen: bool = True,
    max_users: int | None = None,
    run: Run | None = None,
) -> Verdict:
    """Compare a model on the test part of a split with `Popular` and the model in use; see the module.

    The candidate, if it is not fitted, and `Popular` learn from the train part. A rival is taken as it is if its data
    ended before the test part began, as it does when it is what is in use; else a copy with its settings is fitted.

    Parameters
    ----------
    rivals: models in use, by name; none for the first model. One that cannot be fitted on this log (it lacks a
        column that the model reads, say) is not compared, and `why` says so.
    margin: share of a rival's metric that the candidate may lose, 0 for none.
    max_users: where more can be evaluated, so many are, drawn at random; `why` says so.
    """
    run = run or Run()
    try:
        window = Window.of(split, exclude_seen)
    except DataError as error:
        return verdict_without_users(error.message, metric, margin, first=not rivals)
    of = ""
    if max_users is not None and len(window) > max_users:
        of = f" of {len(window):,}, for lack of time"
        window = window.take(np.sort(run.rng(65).choice(len(window), max_users, replace=False)))
    models: dict[str, Recommender] = {"candidate": fitted_before(candidate, split, run)}
    models["popular"] = Popular().fit(split.train, run)
    left_out = {}
    for name, rival in (rivals or {}).items():
        try:
            models[name] = fitted_before(rival, split, run)
        except ZhiyinError as error:
            left_out[name] = error.message
    k = metric_k(metric) or 10
    values = {name: evaluate_window(model, window, [k], run).per_user[metric] for name, model in models.items()}
    figures = {name: float(value.mean()) for name, value in values.items()}
    first = not rivals
    tests = {}
    for name, value in values.items():
        if name != "candidate":
            bound = 0.0 if name == "popular" else -margin * figures[name]
            tests[name] = _test(values["candidate"] - value, figures[name], bound, first, run)
    why = f"{metric} {figures['candidate']:.4f} on {len(window):,} users{of}; "
    why += "; ".join(test.describe(name, len(window), first) for name, test in tests.items())
    why += "".join(
        f"; {name} is not compared, it cannot learn from this log: {reason}" for name, reason in left_out.items()
    )
    passed = all(test.passed for test in tests.values())
    if first and passed and not tests["popular"].low > 0:
        why += "; the first version is used unless popular is shown to be better"
    return Verdict(passed, why, metric, figures, tests, len(window), margin, first)


def verdict_without_users(reason: str, metric: str = "ndcg@10", margin: float = MARGIN, *, first: bool) -> Verdict:
    """The verdict where no user can be evaluated: a first version passes, a later one does not."""
    why = f"not judged: {reason}"
    why += "; the first version is used unless popular is shown to be better" if first else ""
    return Verdict(first, why, metric, {}, {}, 0, margin, first)


def _test(gain: np.ndarray, figure: float, bound: float, first: bool, run: Run) -> PairedTest:
    """Of the gains of users, float64[n]."""
    n, mean = len(gain), float(gain.mean())
    low, high = (float(end[0]) for end in bootstrap_interval(gain[:, None], run, BOOTSTRAP_ROUNDS))
    needed = users_needed(float(gain.std(ddof=1)) if n > 1 else 0.0, mean - bound)
    passed = high >= bound if first else n >= MIN_USERS and low > bound
    return PairedTest(figure, mean, low, high, bound, passed, needed)


def is_fitted_before(model: Recommender, split: Split) -> bool:
    """Whether the model, as it is, cannot have seen the test part under the codes of the split."""
    if not model.is_fitted:
        return False
    context = model._context()
    return context.item_ids.values.equals(split.train.item_ids.values) and (
        context.fingerprint == split.train.fingerprint
        or (split.train.has_times and context.window[1] < split.test.window[0])
    )


def fitted_before(model: Recommender, split: Split, run: Run) -> Recommender:
    """The model as it is where it cannot have seen the test part; else a copy, fitted on train."""
    if is_fitted_before(model, split):
        return model
    if isinstance(model, Pipeline) and model.is_fitted:
        return model.refit(split.train, run)
    fresh = copy.copy(model)
    return fresh.fit(split.train, run)
