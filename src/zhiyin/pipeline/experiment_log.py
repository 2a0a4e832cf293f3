"""What the units of an experiment got and did, as sums that grow with the log.

A list counts once its window is closed; each list is read once. Sums are kept by unit, arm and epoch of the assignment,
so that results are made of them however large the log is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from zhiyin.api.experiment_settings import ExperimentSettings, MetricSettings
from zhiyin.core.durations import SECOND, microseconds
from zhiyin.pipeline.experiment_state import ExperimentVersion
from zhiyin.pipeline.reward_ownership import is_own_event
from zhiyin.store.experiment_export import event_counts, experiment_lists, oldest_open_decision
from zhiyin.store.store import Store

# How long after the end of its window a list may still be on its way into the store.
GRACE = 5 * SECOND
# How long after that a policy's decision may be open before the list counts by its events.
MAX_OPEN = 3_600 * SECOND
# What sums are kept by.
_KEYS: Any = {"unit": pl.String, "arm": pl.String, "epoch": pl.Int64, "segment": pl.Int64}


def metric_column(name: str) -> str:
    return f"metric.{name}"


class ExperimentLog:
    """The sums of one experiment. One thread may use it at a time.

    Parameters
    ----------
    store: with the lists and events.

    Attributes
    ----------
    units: `unit`, `arm` (assigned), `epoch`, `segment` (number of stops before the lists), `p` (of the arm),
        `lists`, `items`, a column a metric, and `won`: worth for the second team less that for the first.
    covariates: `unit` and a column a metric: of before the experiment.
    until: lists up to this time are counted, microseconds UTC.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._state: object = None

    def update(self, version: ExperimentVersion, now: int | None = None) -> ExperimentLog:
        """Add the lists whose windows have closed since the last update; all anew for another design or other metrics,
        and where a user was forgotten."""
        settings, began = version.settings, version.state.started
        metrics = {name: metric.model_dump() for name, metric in settings.metrics.items()}
        state = (version.name, began, metrics, settings.covariate, self.store.forget_count())
        if state != self._state:
            self._state, self.until = state, began - 1
            self.units = _empty(settings)
            self.covariates = self._read_covariates(settings, began)
        now = self.store.clock() if now is None else now
        until = now - microseconds(settings.window) - GRACE
        if any(metric.policy_rewards for metric in settings.metrics.values()):
            placements = {settings.placement, *(arm.placement or settings.placement for arm in settings.arms.values())}
            still_open = oldest_open_decision(self.store, placements, until - MAX_OPEN)
            until = until if still_open is None else min(until, still_open - 1)
        stops = sorted(stop.time for stop in version.state.stopped.values())
        for lists, events in experiment_lists(self.store, self.until, until):
            part = unit_sums(lists, events, version.name, settings, began, stops)
            self.units = _sum(pl.concat([self.units, part.select(self.units.columns)]))
        self.until = max(self.until, until)
        return self

    def _read_covariates(self, settings: ExperimentSettings, began: int) -> pl.DataFrame:
        wanted = {name: metric for name, metric in settings.metrics.items() if metric.cuped}
        if not wanted or settings.unit != "user":
            return pl.DataFrame(schema={"unit": pl.String})
        counts = event_counts(self.store, began - microseconds(settings.covariate), began)
        values = [_event_value(metric, pl.col("count"), pl.col("value")).sum().alias(metric_column(name))
                 for name, metric in wanted.items()]  # fmt: skip
        return counts.group_by(pl.col("user").alias("unit")).agg(values)


def unit_sums(
    lists: pl.DataFrame,
    events: pl.DataFrame,
    name: str,
    settings: ExperimentSettings,
    began: int,
    stops: list[int],
) -> pl.DataFrame:
    """Sums by unit, arm, epoch and segment of lists and the events that name them; see `ExperimentLog.units`.

    Parameters
    ----------
    lists, events: LIST_FRAME and EVENT_FRAME of `zhiyin.store.experiment_export`.
    name: of the experiment. began: lists of an earlier design are left out.
    stops: times at which arms were stopped, in order; they part the segments.
    """
    mark: Any = pl.Struct({"arm": pl.String, "p": pl.Float64, "began": pl.Int64, "epoch": pl.Int64, "unit": pl.String})
    marks = lists["assignments"].str.json_decode(pl.Struct({name: mark})).struct.field(name)
    lists = lists.with_columns(marks.struct.unnest()).filter(pl.col("began") == began)
    unit = {"user": pl.col("user"), "session": pl.col("unit"), "list": pl.col("list_id")}[settings.unit]
    segment = pl.sum_horizontal([(pl.col("time") >= stop).cast(pl.Int64) for stop in stops]) if stops else pl.lit(0)
    lists = lists.with_columns(
        unit=unit, epoch=pl.col("epoch").fill_null(0), segment=segment.cast(pl.Int64),
        items=pl.col("items").str.json_decode(pl.List(pl.String)),
        lists=pl.lit(1, pl.Int64),
    ).filter(pl.col("unit").is_not_null())  # fmt: skip
    window = microseconds(settings.window)
    events = events.join(lists.select("list_id", "time", owner="user"), on="list_id")
    events = events.filter(pl.col("received") <= pl.col("time") + window, is_own_event("owner", "user"))
    one, value = pl.lit(1.0), pl.col("value").fill_null(0.0)
    values = [
        _event_value(metric, one, value).sum().alias(metric_column(key)) for key, metric in settings.metrics.items()
    ]
    lists = lists.join(events.group_by("list_id").agg(values), on="list_id", how="left")
    if settings.kind == "interleaving":
        lists = lists.join(_wins(lists, events, settings), on="list_id", how="left")
    else:
        lists = lists.with_columns(won=pl.lit(0.0))
    sums = [pl.col("items").list.len().cast(pl.Int64), pl.col("lists")]
    columns = [metric_column(key) for key in settings.metrics]
    rewards = pl.col("rewards").str.json_decode(pl.List(pl.Float64)).list.sum()
    lists = lists.with_columns(
        pl.coalesce(rewards, metric_column(key)).alias(metric_column(key))
        for key, metric in settings.metrics.items()
        if metric.policy_rewards
    )
    return _sum(lists.select(*_KEYS, "p", *sums, *(pl.col(key).fill_null(0.0) for key in (*columns, "won"))))


def _wins(lists: pl.DataFrame, events: pl.DataFrame, settings: ExperimentSettings) -> pl.DataFrame:
    """`list_id`, `won`: worth of the events with items of the second team, less that of the first's."""
    metric = next(iter(settings.metrics.values()))
    team = lists.select("list_id", pl.col("items").alias("item"), pl.col("teams").str.json_decode(pl.List(pl.Int64)))
    team = team.explode("item", "teams").filter(pl.col("teams") >= 0)
    credited = events.join(team, on=["list_id", "item"])
    value = _event_value(metric, pl.lit(1.0), pl.col("value").fill_null(0.0)) * (2 * pl.col("teams") - 1)
    return credited.group_by("list_id").agg(value.sum().alias("won"))


def _event_value(metric: MetricSettings, count: pl.Expr, value: pl.Expr) -> pl.Expr:
    """What events are worth to a metric.

    Parameters
    ----------
    count: how many events of one kind a row has. value: the sum of their values.
    """
    result = pl.lit(0.0)
    for kind, weight in metric.events.items():
        amount = value if weight == "value" else count * float(weight)
        result = pl.when(pl.col("kind") == kind).then(amount).otherwise(result)
    return result


def _empty(settings: ExperimentSettings) -> pl.DataFrame:
    columns = {metric_column(name): pl.Float64 for name in settings.metrics}
    schema: Mapping[str, Any] = {
        **_KEYS, "p": pl.Float64, "items": pl.Int64, "lists": pl.Int64, **columns, "won": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(schema=schema)


def _sum(frame: pl.DataFrame) -> pl.DataFrame:
    values = [name for name in frame.columns if name not in (*_KEYS, "p")]
    grouped = frame.group_by(*_KEYS, maintain_order=True)
    return grouped.agg(pl.col("p").first(), *(pl.col(name).sum() for name in values))
