"""AutoML: a pipeline fitted within a time budget: suitable sources, tuned, and joined by the best method.

Half of the budget is for tuning the sources on the first part of the log, which lies before the windows of blends,
ranker and choice (see `time_windows`); the other half is for fitting the pipeline. A source whose fit takes too
long is left out; the report names it.
"""

from __future__ import annotations

import dataclasses
import time
from importlib.util import find_spec
from typing import Any

from zhiyin.core.errors import DataError, ZhiyinError
from zhiyin.core.registry import specification
from zhiyin.core.run import Run, log
from zhiyin.data.dataset import Dataset
from zhiyin.evaluation.tuning import tune
from zhiyin.models.registry import parse
from zhiyin.pipeline.pipeline import Pipeline

# Above this many items EASE needs minutes and gigabytes.
EASE_ITEMS = 12_000
# A network is a source from this number of events and this time budget on.
DEEP_EVENTS, DEEP_SECONDS = 50_000, 900.0
# Windows of the log that blends, ranker and choice learn from, and the share of the events in each.
WINDOWS, SHARE = 8, 0.07


@dataclasses.dataclass(frozen=True)
class SuitableSource:
    """A source to try: its specification, why it suits the data, and whether it is tuned."""

    specification: str
    reason: str
    tuned: bool = True


def suitable_sources(data: Dataset, budget: float) -> list[SuitableSource]:
    """Sources that suit the data; popularity first. budget: seconds."""
    sources = [SuitableSource("popular", "for strangers, and as a floor", tuned=False)]
    if data.has_times:
        span = (data.window[1] - data.window[0]) / 86_400e6
        sources += [SuitableSource(f"popular:half_life={days}d", "the log has times", tuned=False)
                  for days in (1, 7, 30) if span > 2 * days]  # fmt: skip
    sources.append(SuitableSource("itemknn", "neighbours explain themselves"))
    sources.append(SuitableSource("als", "factors find what neighbours miss"))
    if data.n_items <= EASE_ITEMS:
        sources.append(SuitableSource("ease", f"{data.n_items:,} items are few enough for a full item-item model"))
    if data.has_times:
        sources.append(SuitableSource("transitions", "the order of events is known"))
    described = [
        name for name, kind in data.items.drop("id").schema.items() if kind.is_nested() or str(kind) == "String"
    ]
    known = [name for name in data.users.columns if name != "id"]
    if known:
        reason = f"users are described: {', '.join(known)[:80]}"
        sources.append(SuitableSource("segmentpopular", reason, tuned=False))
    if described:
        sources.append(SuitableSource("content", f"items are described: {', '.join(described)[:80]}"))
    if budget >= DEEP_SECONDS and data.n_events >= DEEP_EVENTS and data.has_times and find_spec("torch"):
        sources.append(
            SuitableSource("sasrec:max_len=50,epochs=20", "long histories, and time to learn from them", tuned=False)
        )
    return sources


def fit_within_budget(
    data: Dataset,
    budget: float = 600.0,
    *,
    metric: str = "ndcg@10",
    exclude_seen: bool = True,
    ranker: str = "auto",
    run: Run | None = None,
) -> Pipeline:
    """Choose, tune and fit a pipeline within about `budget` seconds.

    Its `report_` holds the windows, the sources that were tried, the tuned settings, the method of each segment of
    users, and what each source adds. `data` must not contain the events that the result is evaluated on: `gate_split`
    holds them back. Raises DataError where the log is too short for an evaluation.
    """
    run = run or Run()
    started = time.monotonic()
    settings: dict[str, Any] = {"ranker": ranker, "windows": WINDOWS, "share": SHARE}
    settings |= {"metric": metric, "exclude_seen": exclude_seen}
    plan = Pipeline(**settings).plan(data, run)
    if not plan.choose:
        raise DataError("the log is too short to judge anything by", remedy="more events, or name a model")
    tuning = find_spec("optuna") is not None
    if not tuning:
        log.info('pipeline: sources are not tuned, for optuna is not installed: pip install "zhiyin[tune]"')
    records: list[dict[str, Any]] = []
    texts = []
    sources = suitable_sources(data, budget)
    # A source is fitted once for each window and twice on everything, on more events than it is timed on.
    events = sum(part.train.n_events for part, _ in (*plan.learn, *plan.choose)) + 2 * data.n_events
    times = events / max(1, plan.tune.n_events)
    share = 0.45 * budget / max(1, sum(source.tuned for source in sources))
    for source in sources:
        record: dict[str, Any] = {"source": source.specification, "why": source.reason}
        records.append(record)
        clock = time.monotonic()
        try:
            fit_seconds = _time_of_fit(source.specification, plan.tune, run)
        except ZhiyinError as error:  # a source that does not fit the data after all is no reason to stop
            record["left_out"] = str(error)
            log.info("pipeline: %s is left out: %s", source.specification, error)
            continue
        record["fit_seconds"] = round(fit_seconds, 2)
        if times * fit_seconds > 0.25 * budget:
            record["left_out"] = "its fit is too slow for the budget"
            continue
        text = source.specification
        left = share - (time.monotonic() - clock)
        if tuning and source.tuned and left > 4 * fit_seconds:
            text = _tuned(source.specification, plan.tune, metric, left, exclude_seen, run, record)
        texts.append(text)
    if not texts:
        raise DataError("no source could be fitted within the budget", remedy="a larger --budget")
    pipeline = Pipeline(sources="; ".join(dict.fromkeys(texts)), **settings)
    pipeline.fit(data, run)
    pipeline.report_ = {**pipeline.report_, "tried": records, "budget": budget, "seconds": time.monotonic() - started}  # type: ignore[misc]
    return pipeline


def _tuned(
    text: str, data: Dataset, metric: str, seconds: float, exclude_seen: bool, run: Run, record: dict[str, Any]
) -> str:
    """The source with the best settings found in this time, written to `record`; unchanged where tuning fails.

    Raises KeyboardInterrupt where it was interrupted.
    """
    try:
        result = tune(text, data, metric=metric, trials=40, timeout=seconds, exclude_seen=exclude_seen, run=run)
    except ZhiyinError as error:  # such as a part in which nobody can be judged
        record["untuned"] = str(error)
        log.info("pipeline: %s is not tuned: %s", text, error)
        return text
    if result.interrupted:  # Ctrl-C ends all of the training, not the tuning of one source
        raise KeyboardInterrupt
    best = specification(result.model)
    record |= {"tuned": best, "value": result.value, "before": result.default_value, "trials": len(result.trials)}
    return best


def _time_of_fit(text: str, data: Dataset, run: Run) -> float:
    model = parse(text)
    started = time.monotonic()
    model.fit(data, dataclasses.replace(run, progress=False))
    return time.monotonic() - started
