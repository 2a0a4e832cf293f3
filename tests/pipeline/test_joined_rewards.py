"""Joined rewards against a joiner that is written as the rules are said: one list, one slot, one event at a time."""

from __future__ import annotations

import statistics
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from tests.pipeline.decision_logs import START, decided_trace
from zhiyin.pipeline.reward_joiner import RewardSettings, _decided_slots, joined, matched_rewards
from zhiyin.store.decisions import EVENT_REWARDS, REPORTED

WINDOW = 100
KINDS = {"click": (1.0, None), "buy": (-2.5, None), "watch": (0.5, 3.0)}
LISTS, ITEMS = ["l0", "l1", "l2"], ["a", "b", "c", "d"]
AGGREGATIONS: dict[str, Any] = {
    "sum": sum, "first": lambda values: values[0], "last": lambda values: values[-1], "max": max, "min": min,
    "mean": statistics.fmean, "median": statistics.median,
}  # fmt: skip

events = st.lists(
    st.tuples(
        st.sampled_from(LISTS), st.sampled_from(["alice", "bob"]), st.sampled_from([*ITEMS, "elsewhere"]),
        st.sampled_from([*KINDS, "view"]),
        st.sampled_from([None, 2.0, 3.0]), st.integers(-5, 5), st.integers(0, 2 * WINDOW),
    ),
    max_size=12,
)  # fmt: skip
reports = st.lists(
    st.tuples(
        st.sampled_from(LISTS), st.sampled_from(["0", "1", "7", "x"]), st.sampled_from([-1.0, 2.0]), st.integers(-5, 5),
        st.integers(0, 2 * WINDOW),
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    events, reports, st.sampled_from([*AGGREGATIONS]), st.booleans(),
    st.dictionaries(st.sampled_from(LISTS), st.sets(st.sampled_from(ITEMS)), max_size=3),
)  # fmt: skip
def test_joined_as_the_rules_say(
    events: list[Any], reports: list[Any], aggregation: Any, required: bool, shown: dict[str, set[str]]
) -> None:
    import polars as pl

    owners = dict(zip(LISTS, ["alice", None, "s1"], strict=True))
    traces = [
        decided_trace(name, START + number, ITEMS[number : number + 3], user=owners[name])
        for number, name in enumerate(LISTS)
    ]
    rules = RewardSettings(KINDS, WINDOW, aggregation, 0.25, "required" if required else "optional")
    event_rows = [(*row[:5], START + row[5], START + row[6], seq) for seq, row in enumerate(events)]
    report_rows = [(*row[:3], START + row[3], START + row[4], 100 + seq) for seq, row in enumerate(reports)]
    slots = _decided_slots(traces)
    matched = matched_rewards(
        slots, pl.DataFrame(event_rows, schema=EVENT_REWARDS, orient="row"),
        pl.DataFrame(report_rows, schema=REPORTED, orient="row"), rules,
    )  # fmt: skip
    rows = joined(traces, slots, matched.filter("own"), shown, rules, (7, 8))
    for trace, row in zip(traces, rows, strict=True):
        found: list[tuple[int, int, float, int]] = []  # time, arrival, reward, slot
        n_late = 0
        owner, users = owners[trace.list_id], set()
        mine = []
        for _, user, item, kind, value, time, received, arrival in (r for r in event_rows if r[0] == trace.list_id):
            least = KINDS.get(kind, (0, None))[1]
            counts = kind in KINDS and (least is None or (value is not None and value >= least))
            if item in trace.head["items"] and counts and owner in (None, user):
                mine.append((time, arrival, KINDS[kind][0], trace.head["items"].index(item), received))
                if owner is None and received <= trace.time + WINDOW:
                    users.add(user)
        assert set(row.users) == users
        mine += [(row[3], row[5], row[2], int(row[1]), row[4]) for row in report_rows
                 if row[0] == trace.list_id and row[1] in ("0", "1", "2")]  # fmt: skip
        for time, arrival, reward, slot, received in mine:
            if received <= trace.time + WINDOW:
                found.append((time, arrival, reward, slot))
            else:
                n_late += 1
        assert (row.n_events, row.late) == (len(found), n_late)
        if required and trace.list_id not in shown:
            assert row.rewards is None
            continue
        assert row.rewards is not None
        for slot, item in enumerate(trace.head["items"]):
            values = [reward for _, _, reward, place in sorted(found) if place == slot]
            if values:
                assert abs(row.rewards[slot] - AGGREGATIONS[aggregation](values)) < 1e-12  # type: ignore[operator]
            elif trace.list_id in shown and item not in shown[trace.list_id]:
                assert row.rewards[slot] is None
            else:
                assert row.rewards[slot] == 0.25
