"""The gate: a new model goes into use only if it beats what is in use, and what is simply popular, on unseen days."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

from zhiyin.core.run import Run
from zhiyin.data.splits import Split
from zhiyin.evaluation.judging import Window, judge, metric_k
from zhiyin.evaluation.significance import bootstrap_interval
from zhiyin.models.base import Recommender
from zhiyin.models.popularity import Popular
from zhiyin.pipeline.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a model may go into use.

    Parameters
    ----------
    figures: the mean of the metric of each model judged.
    gains: of each rival, the mean gain of the new model over it and its 95 % interval.
    """

    passed: bool
    why: str
    metric: str
    figures: dict[str, float]
    gains: dict[str, tuple[float, float, float]]
    users: int

    def said(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def gate(
    candidate: Recommender,
    split: Split,
    rivals: Mapping[str, Recommender] | None = None,
    *,
    metric: str = "ndcg@10",
    exclude_seen: bool = True,
    run: Run | None = None,
) -> Verdict:
    """Judge a model on the test part of a split, against `Popular` and the rivals.

    The candidate, if it is not fitted, and `Popular` learn from the train part. A rival is taken as it is if its data
    ended before the test part began, as it does when it is what is in use; else a copy with its settings is fitted.

    Passed is who is above `Popular` and every rival, on the mean over users; `gains` say how surely.
    """
    run = run or Run()
    window = Window.of(split, exclude_seen)
    start = split.test.window[0]
    models: dict[str, Recommender] = {"candidate": _ready(candidate, split, start, run)}
    models["popular"] = Popular().fit(split.train, run)
    for name, rival in (rivals or {}).items():
        models[name] = _ready(rival, split, start, run)
    k = metric_k(metric) or 10
    values = {name: judge(model, window, [k], run).per_user[metric] for name, model in models.items()}
    figures = {name: float(value.mean()) for name, value in values.items()}
    gains = {}
    for name, value in values.items():
        if name == "candidate":
            continue
        gain = values["candidate"] - value
        low, high = bootstrap_interval(gain[:, None], run, 1000)
        gains[name] = (float(gain.mean()), float(low[0]), float(high[0]))
    lost = [name for name, (gain, _, _) in gains.items() if not gain > 0]
    why = f"{metric} {figures['candidate']:.4f} on {len(window):,} users; " + ", ".join(
        f"{name} {figures[name]:.4f} (gain {g:+.4f}, 95 % {low:+.4f} to {high:+.4f})"
        for name, (g, low, high) in gains.items()
    )
    return Verdict(not lost, why, metric, figures, gains, len(window))


def _ready(model: Recommender, split: Split, start: int, run: Run) -> Recommender:
    """The model as it is where it cannot have seen the test part under the same codes; else a copy, fitted on train."""
    if model.is_fitted:
        known = model._known()
        same = known.item_ids.values.equals(split.train.item_ids.values)
        if same and (
            known.fingerprint == split.train.fingerprint or (split.train.has_times and known.window[1] < start)
        ):
            return model
    if isinstance(model, Pipeline) and model.is_fitted:
        return model.refit(split.train, run)
    fresh = copy.copy(model)
    return fresh.fit(split.train, run)
