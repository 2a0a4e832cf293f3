"""Joins rewards to decisions: what a list of a policy has earned in the window after it, slot by slot.

An event counts for the slot of its list that shows its item, if it is of whom the list was made for. A decision is
closed once, some seconds after its window has ended; from then on its rewards do not change, and what comes later is
counted as late, not learned.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from zhiyin.core.durations import microseconds
from zhiyin.pipeline.decision_record import HEAD
from zhiyin.pipeline.reward_ownership import is_own_event
from zhiyin.store.decisions import ClosedRow
from zhiyin.store.store import Store
from zhiyin.store.traces import Trace

if TYPE_CHECKING:
    from zhiyin.api.requests import PolicySettings

Aggregation = Literal["sum", "first", "last", "max", "min", "mean", "median"]
# Microseconds after the end of a window in which traces and events that came within it are still written.
GRACE = 2_000_000
# Decisions that are closed in one transaction, and bytes of their arrays, at most.
BATCH, BATCH_BYTES = 2_000, 64 << 20
_AGGREGATIONS: Mapping[str, Any] = {
    "sum": pl.col("reward").sum(), "first": pl.col("reward").first(), "last": pl.col("reward").last(),
    "max": pl.col("reward").max(), "min": pl.col("reward").min(), "mean": pl.col("reward").mean(),
    "median": pl.col("reward").median(),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """What counts as the reward of a slot.

    Parameters
    ----------
    rewards: by kind of event, its reward and the least value that it must have, None for any.
    window: microseconds after the list in which rewards are received.
    aggregation: of several rewards of one slot, in the order of their times.
    default_reward: of a slot without any.
    impressions: "required": a list that was not reported as shown is not learned.
    """

    rewards: Mapping[str, tuple[float, float | None]]
    window: int
    aggregation: Aggregation = "sum"
    default_reward: float = 0.0
    impressions: Literal["optional", "required"] = "optional"

    @classmethod
    def of(cls, policy: PolicySettings) -> RewardSettings:
        """Of the settings of a placement's policy."""
        rewards: dict[str, tuple[float, float | None]] = {}
        for kind, rule in policy.rewards.items():
            if isinstance(rule, int | float):
                rewards[kind] = (float(rule), None)
            else:
                rewards[kind] = (float(rule.reward), rule.value_at_least)
        return cls(
            rewards, microseconds(policy.window), policy.aggregation, policy.default_reward, policy.impressions
        )  # fmt: skip


class RewardJoiner:
    """Closes the decisions of one placement. One object at a time may work for a store.

    Parameters
    ----------
    grace: microseconds between the end of a window and its closing.

    `late_traces` counts decisions that were written after younger ones had been closed; they are learned as others are.
    `foreign_events` counts events of other users than the one that the list was made for, in the decisions it closed.
    """

    def __init__(self, store: Store, placement: str, settings: RewardSettings, grace: int = GRACE) -> None:
        self.store, self.placement, self.settings, self.grace = store, placement, settings, grace
        self.late_traces = self.foreign_events = 0
        self._closed_until = 0
        # Rewards up to these sequence numbers were searched for late ones.
        self._searched = store.last_closed_seqs(placement) or store.last_reward_seqs()

    def step(self) -> int:
        """Count late rewards, then close all decisions that are due by `store.clock()`; returns how many."""
        until = self.store.clock() - self.settings.window - self.grace
        last_seqs = self.store.last_reward_seqs()
        self._count_late(last_seqs)
        n_closed, closed_before = 0, self._closed_until
        while True:
            forget_count = self.store.forget_count()
            traces = self.store.due_decisions(self.placement, until, BATCH, BATCH_BYTES)
            if not traces:
                break
            rows, n_foreign = self._closed_rows(traces, last_seqs)
            n_rows = self.store.close_decisions(rows, forget_count)
            if n_rows is None:  # a user was forgotten whose events may be in these rewards
                continue
            n_closed += n_rows
            self.foreign_events += n_foreign
            self.late_traces += sum(trace.time < closed_before for trace in traces)
            self._closed_until = max(self._closed_until, traces[-1].time)
        return n_closed

    def _closed_rows(self, traces: Sequence[Trace], last_seqs: tuple[int, int]) -> tuple[list[ClosedRow], int]:
        """The decisions of traces with their rewards, and the number of events of other users."""
        slots, list_ids = _decided_slots(traces), [trace.list_id for trace in traces]
        matched = self._matched_rewards(list_ids, slots, last_seqs)
        rewards = matched.filter("own")
        rows = joined(traces, slots, rewards, self.store.shown_items_of(list_ids), self.settings, last_seqs)
        return rows, len(matched) - len(rewards)

    def _matched_rewards(
        self, list_ids: Sequence[str], slots: pl.DataFrame, last_seqs: tuple[int, int] | None = None
    ) -> pl.DataFrame:
        """As `matched_rewards`, of lists; up to these sequence numbers."""
        events = self.store.event_rewards_of(list_ids, self.settings.rewards)
        reported = self.store.reported_rewards_of(list_ids)
        if last_seqs is not None:
            events = events.filter(pl.col("seq") <= last_seqs[0])
            reported = reported.filter(pl.col("seq") <= last_seqs[1])
        return matched_rewards(slots, events, reported, self.settings)

    def _count_late(self, last_seqs: tuple[int, int]) -> None:
        """Store how many rewards came late to decisions that are closed."""
        kinds = self.settings.rewards
        lists = self.store.lists_with_later_rewards(self.placement, self._searched, last_seqs, kinds)
        for start in range(0, len(lists), BATCH):
            closed = self.store.closed_of_lists(lists[start : start + BATCH])
            traces = [decision.trace for decision in closed.values()]
            rewards = self._matched_rewards(list(closed), _decided_slots(traces)).filter("own")
            totals = dict(rewards.group_by("list").len().iter_rows())
            late = {
                list_id: max(0, totals.get(number, 0) - decision.n_events)
                for number, (list_id, decision) in enumerate(closed.items())
            }
            self.store.set_late_counts({key: n for key, n in late.items() if n != closed[key].late})
        self._searched = last_seqs


def _decided_slots(traces: Sequence[Trace]) -> pl.DataFrame:
    """The slots that were decided, in the order of the traces: number of the trace, its list and whom that was made for
    (null: it names nobody), position, item, row."""
    numbers: list[int] = []
    positions: list[int] = []
    items: list[str] = []
    for number, trace in enumerate(traces):
        slots = trace.arrays.get("decision_slots")
        if slots is None or not isinstance(trace.head.get(HEAD), dict):
            continue
        listed = trace.head["items"]
        numbers += [number] * len(slots)
        positions += range(len(slots))
        items += [listed[slot] for slot in slots.tolist()]
    ids = [traces[number].list_id for number in numbers]
    owners = [traces[number].user for number in numbers]
    schema: Any = {
        "list": pl.Int64, "list_id": pl.String, "owner": pl.String, "position": pl.Int64, "item": pl.String,
    }  # fmt: skip
    return pl.DataFrame([numbers, ids, owners, positions, items], schema=schema).with_row_index("row")


def matched_rewards(
    slots: pl.DataFrame, events: pl.DataFrame, reported: pl.DataFrame, settings: RewardSettings
) -> pl.DataFrame:
    """Rewards of slots: list, row, reward, time, received, user, own; in the order of slots, of times, of arrival.

    Those that are not own are of another user than the one whom the list was made for, and are no rewards. `user` is
    whose event it was where the list names nobody, else null.

    Parameters
    ----------
    slots: list, list_id, owner, position, item, row.
    events: as `Store.event_rewards_of` gives them; those of items that no decided slot shows bring nothing.
    reported: as `Store.reported_rewards_of` gives them.
    """
    rules = pl.DataFrame(
        [(kind, reward, least) for kind, (reward, least) in settings.rewards.items()],
        schema={"kind": pl.String, "reward": pl.Float64, "least": pl.Float64}, orient="row",
    )  # fmt: skip
    names = ("list", "row", "reward", "time", "received", "seq", "user", "own")
    by_event = (
        events.join(rules, on="kind")
        .filter(pl.col("least").is_null() | (pl.col("value") >= pl.col("least")).fill_null(False))
        .join(slots.unique(["list_id", "item"], keep="first"), on=["list_id", "item"])
        .with_columns(is_own_event("owner", "user").alias("own"))
        .with_columns(pl.when(pl.col("owner").is_null()).then("user").alias("user"))
        .select(names)
    )
    by_report = (
        reported.with_columns(pl.col("slot").cast(pl.Int64, strict=False).alias("position"))
        .rename({"value": "reward"})
        .join(slots, on=["list_id", "position"])
        .with_columns(pl.lit(None, pl.String).alias("user"), pl.lit(True).alias("own"))
        .select(names)
    )
    return pl.concat([by_event, by_report]).sort("row", "time", "seq", maintain_order=True)


def joined(
    traces: Sequence[Trace],
    slots: pl.DataFrame,
    rewards: pl.DataFrame,
    shown: Mapping[str, set[str]],
    settings: RewardSettings,
    last_seqs: tuple[int, int],
) -> list[ClosedRow]:
    """The decisions of traces with their rewards.

    Parameters
    ----------
    slots: of the traces, as `matched_rewards` takes them. rewards: what it gave, without those that are not own.
    shown: items that were reported as shown, by list; of lists that are absent all were.
    last_seqs: the last event and reported reward that were looked at.
    """
    deadlines = [trace.time + settings.window for trace in traces]
    by_list = pl.DataFrame({"list": range(len(traces)), "deadline": deadlines}, schema=dict.fromkeys(
        ("list", "deadline"), pl.Int64))  # fmt: skip
    timed = rewards.join(by_list, on="list", maintain_order="left")
    in_time = timed.filter(pl.col("received") <= pl.col("deadline"))
    values = in_time.group_by("row", maintain_order=True).agg(_AGGREGATIONS[settings.aggregation].alias("reward"))
    by_slot = slots.join(values, on="row", how="left", maintain_order="left")["reward"].to_list()
    n_in_time = dict(in_time.group_by("list").len().iter_rows())
    users = dict(
        in_time.filter(pl.col("user").is_not_null()).group_by("list").agg(pl.col("user").unique().sort()).iter_rows()
    )
    n_all = dict(rewards.group_by("list").len().iter_rows())
    numbers, items = slots["list"].to_list(), slots["item"].to_list()
    slots_of = {number: list(part) for number, part in itertools.groupby(range(len(numbers)), numbers.__getitem__)}
    rows = []
    for number, trace in enumerate(traces):
        decision, seen = trace.head.get(HEAD), shown.get(trace.list_id)
        learned: list[float | None] | None = None
        if (
            isinstance(decision, dict)
            and number in slots_of
            and not (seen is None and _needs_impression(trace, settings))
        ):
            learned = [
                by_slot[row] if by_slot[row] is not None
                else settings.default_reward if seen is None or items[row] in seen
                else None
                for row in slots_of[number]
            ]  # fmt: skip
        n_events = n_in_time.get(number, 0)
        rows.append(
            ClosedRow(
                trace.list_id, trace.placement, trace.time, trace.version,
                str((decision if isinstance(decision, dict) else {}).get("mode", "")), learned, n_events,
                n_all.get(number, 0) - n_events, deadlines[number], *last_seqs,
                users.get(number, ()),
            )
        )  # fmt: skip
    return rows


def _needs_impression(trace: Trace, settings: RewardSettings) -> bool:
    """Whether a decision is learned only if its list was reported as shown: settings say so, or it was deferred."""
    event: Any = trace.head.get("decision_event")
    return settings.impressions == "required" or (isinstance(event, dict) and bool(event.get("deferred")))
