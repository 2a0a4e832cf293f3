"""AutoML: a pipeline fitted within a time budget: suitable sources, tuned, and joined by the best method.

1. Each source that suits the data (`suitable_sources`) is measured on a sample (`source_timing`); one whose fits do
   not fit into the time is left out.
2. What the fits that must be leave of the time, up to `TUNING_SHARE`, is for tuning the sources on the first part of
   the log, which lies before the windows of blends, ranker and choice (see `time_windows`).
3. The pipeline is fitted by a plan (`fitting_plan`) that is made again after each fit, from what was measured.

The report names each source and decision.
"""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import Any

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.registry import specification
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.evaluation.tuning import TuneResult, tune
from zhiyin.pipeline.fit_costs import Afterwards
from zhiyin.pipeline.fitting_plan import FittingPlan
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.source_timing import SourceTimer
from zhiyin.pipeline.suitable_sources import SuitableSource, suitable_sources
from zhiyin.pipeline.time_budget import TimeBudget, spelled
from zhiyin.pipeline.time_windows import WindowPlan

# Windows of the log that blends, ranker and choice learn from, and the share of the events in each.
WINDOWS, SHARE = 8, 0.07
# Largest share of the budget that tuning takes, and trials of a source.
TUNING_SHARE, TRIALS = 0.45, 40
# Fits below which a search would find nothing.
MIN_TUNING_FITS = 4
# What is planned is taken to last this much longer.
SAFETY = 1.15


def fit_within_budget(
    data: Dataset,
    budget: float | TimeBudget = 600.0,
    *,
    metric: str = "ndcg@10",
    exclude_seen: bool = True,
    ranker: str = "auto",
    run: Run | None = None,
    after: Afterwards | None = None,
) -> Pipeline:
    """Choose, tune and fit a pipeline within `budget` seconds.

    Its `report_` holds the windows, the sources that were tried and why others were not, what was decided for lack of
    time, the tuned settings, the method of each segment of users, and what each source adds. `data` must not contain
    the events that the result is evaluated on: `gate_split` holds them back. Raises DataError where the log is too
    short for an evaluation.

    after: what the caller does with the pipeline within the same time.
    """
    run = run or Run()
    budget = budget if isinstance(budget, TimeBudget) else TimeBudget(budget)
    after = after or Afterwards()
    settings: dict[str, Any] = {"ranker": ranker, "windows": WINDOWS, "share": SHARE}
    settings |= {"metric": metric, "exclude_seen": exclude_seen}
    budget.begin("the sources, on samples of the events")
    plan = Pipeline(**settings).plan(data, run)
    if not plan.choose:
        raise DataError("the log is too short to judge anything by", remedy="more events, or name a model")
    costs = budget.costs
    fits = [part.train.n_events for part, _ in (*plan.learn[-1:], *plan.choose[-1:])] + [data.n_events, *after.fits]
    requests = sum(len(window) for _, window in (*plan.learn[-1:], *plan.choose[-1:])) + after.requests
    k = Pipeline(**settings).candidates
    timer = SourceTimer(plan.tune, fits, requests, k, budget, run)
    records, texts = [], []
    suitable = suitable_sources(data, budget.seconds)
    for source in [one for one in suitable if not one.why_not]:
        record: dict[str, Any] = {"source": source.specification, "why": source.reason}
        records.append(record)
        if why := timer.why_not(source):
            record["left_out"] = why
            budget.decide(f"{source.specification} is left out: {why}")
            continue
        record["fit_seconds"] = round(costs.fit(source.specification, plan.tune.n_events), 2)
        texts.append(source.specification)
    if not texts:
        raise DataError("no source could be fitted within the budget", remedy="a larger --budget")
    fitting = _plan_of(texts, settings, data, budget, after)
    fitting.make_room(lambda text: sum(costs.fit(text, events) for events in fits[:2]), fitting.joining)
    tuned = _tuned(fitting, plan, [one for one in suitable if one.specification in fitting.sources], records,
                   metric, exclude_seen, run)  # fmt: skip
    pipeline = Pipeline(sources="; ".join(dict.fromkeys(tuned)), **settings)
    dropped = fitting.dropped
    fitting = _plan_of(list(dict.fromkeys(tuned)), settings, data, budget, after)
    fitting.dropped.update(dropped)
    pipeline.fit_within(data, plan, fitting, run)
    for record in records:
        name = record.get("tuned") or record["source"]
        if name in fitting.dropped:
            record["left_out"] = fitting.dropped[name]
    not_tried = [{"source": one.specification, "why_not": one.why_not} for one in suitable if one.why_not]
    pipeline.report_ = {  # type: ignore[misc]
        **pipeline.report_, "tried": records, "not_tried": not_tried, "decisions": budget.decisions,
        "fit_seconds": fitting.fit_seconds, "stages": budget.stages(), "budget": budget.seconds,
        "seconds": budget.elapsed,
    }  # fmt: skip
    return pipeline


def _plan_of(
    texts: list[str], settings: dict[str, Any], data: Dataset, budget: TimeBudget, after: Afterwards
) -> FittingPlan:
    sources = Pipeline(sources="; ".join(texts), **settings)._parse_sources()
    return FittingPlan(sources, data.n_events, budget, after)


def _tuned(
    fitting: FittingPlan,
    plan: WindowPlan,
    sources: list[SuitableSource],
    records: list[dict[str, Any]],
    metric: str,
    exclude_seen: bool,
    run: Run,
) -> list[str]:
    """The specifications of the sources in the plan, those that are tuned with the settings that were found."""
    budget, costs, texts = fitting.budget, fitting.costs, []
    if find_spec("optuna") is None:
        log.info('pipeline: sources are not tuned, for optuna is not installed: pip install "zhiyin[tune]"')
        return list(fitting.sources)
    spent = 0.0
    for place, source in enumerate(sources):
        text = source.specification
        texts.append(text)
        if not source.tuned:
            continue
        waiting = sum(one.tuned for one in sources[place:])
        seconds = min(_tuning_time(fitting, plan), TUNING_SHARE * budget.seconds - spent) / waiting
        fit = costs.fit(text, plan.tune.n_events)
        record = next(record for record in records if record["source"] == text)
        if seconds < MIN_TUNING_FITS * fit:
            record["untuned"] = f"a fit takes {spelled(fit)}, {spelled(seconds)} are free"
            budget.decide(f"{text} is not tuned: {record['untuned']}")
            continue
        budget.begin(f"tuning of {text}")
        with budget.timed() as timer:
            result = _search(text, plan.tune, metric, seconds, exclude_seen, budget, run, record)
        spent += timer.seconds
        if result is not None:
            texts[-1] = _settled(text, result, fitting, record)
    return texts


def _tuning_time(fitting: FittingPlan, plan: WindowPlan) -> float:
    """Seconds that are left beside all windows and what comes after them; never below 0."""
    windows = sum(
        fitting.costs.window(name, part.train.n_events, min(len(window), fitting.max_requests or len(window)))
        for part, window in (*plan.learn, *plan.choose)
        for name in fitting.sources
    )
    budget = fitting.budget
    if not budget.bounded:
        return budget.left
    return max(0.0, budget.left - SAFETY * (windows + fitting.afterwards) - fitting.joining)


def _search(
    text: str,
    data: Dataset,
    metric: str,
    seconds: float,
    exclude_seen: bool,
    budget: TimeBudget,
    run: Run,
    record: dict[str, Any],
) -> TuneResult | None:
    """The best settings found in this time; None where tuning fails. Raises KeyboardInterrupt where it was stopped."""
    try:
        result = tune(
            text, data, metric=metric, trials=TRIALS, timeout=seconds, exclude_seen=exclude_seen, run=run,
            clock=budget.clock,
        )  # fmt: skip
    except ZhiyinError as error:  # such as a part in which nobody can be judged
        record["untuned"] = str(error)
        log.info("pipeline: %s is not tuned: %s", text, error)
        return None
    if result.interrupted:  # Ctrl-C ends all of the training, not the tuning of one source
        raise KeyboardInterrupt
    return result


def _settled(text: str, result: TuneResult, fitting: FittingPlan, record: dict[str, Any]) -> str:
    """The specification of a source with the settings that were found; unchanged where they take too long."""
    best, costs = specification(result.model), fitting.costs
    record |= {"value": result.value, "before": result.default_value, "trials": len(result.trials)}
    record["search"] = result.history
    slower = _slower(result)
    known = costs.measured[text]
    if best != text:
        costs.measured[best] = dataclasses.replace(known, seconds=known.seconds * slower)
    if slower > 1 and (slower - 1) * fitting.finish(text) > 0.5 * max(0.0, fitting.room):
        why = f"{best} is better, but its fits take {slower:.1f} times as long"
        fitting.budget.decide(f"{text} keeps its settings: {why}")
        record["untuned"] = why
        return text
    record["tuned"] = best
    return best


def _slower(result: TuneResult) -> float:
    """How much longer a fit with the best settings takes than with those at first."""
    trials = result.trials.filter(result.trials["state"] == "complete")
    if not len(trials) or trials["seconds"].null_count():
        return 1.0
    first, best = trials.row(0, named=True), trials.sort("value", descending=True).row(0, named=True)
    return max(0.1, best["seconds"] / max(first["seconds"], 1e-3))


__all__ = ["SuitableSource", "fit_within_budget", "suitable_sources"]
