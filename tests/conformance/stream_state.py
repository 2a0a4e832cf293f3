"""What every streamed state does, whatever database is below it: inherit `StreamStateConformance` and give `make`."""

from __future__ import annotations

import math
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from zhiyin.core.errors import ConfigError, DataError
from zhiyin.store import stream_definitions
from zhiyin.store.records import Event
from zhiyin.store.segment_files import Segment
from zhiyin.store.stream_definitions import OUTPUTS, SESSION_GAP, STATE_OUTPUTS, merge_sessions, polars_schema
from zhiyin.store.stream_state import StreamState

Make = Callable[[str], StreamState]
NOW = 1_790_000_000_000_000
DAY = NOW // (24 * 3_600 * 1_000_000)
PLACEMENT = "home"


def rows_of(output: str, rows: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=polars_schema(OUTPUTS[output]), orient="row")


def history_row(user: str, *seqs: int, **more: Any) -> dict[str, Any]:
    """A row of histories, with events made of their numbers."""
    events = [
        {"seq": seq, "id": f"id {seq}", "item": f"film {seq % 7}", "time": NOW + seq % 5, "kind": "view",
         "value": seq / 8 if seq % 3 else None, "list_id": None if seq % 2 else f"list {seq}"} | more
        for seq in seqs
    ]  # fmt: skip
    return {"user": user, "events": events}


def event_of(user: str, seq: int) -> Event:
    one = history_row(user, seq)["events"][0]
    return Event(user, one["item"], one["time"], one["kind"], one["value"], one["id"], one["list_id"], seq)


def names_of(*ends: tuple[int, int]) -> list[str]:
    """Names of segments that follow each other, by their last numbers and their numbers of rows."""
    names, before = [], 0
    for last, n_rows in ends:
        names.append(Segment("events", before + 1, last, n_rows).name)
        before = last
    return names


class Reference:
    """The same by dictionaries of Python, of all files at once."""

    def __init__(self, files: dict[tuple[str, str], pl.DataFrame]) -> None:
        by_job: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for (job, _), rows in files.items():
            by_job[job] += rows.to_dicts()
        self.trending: dict[str, float] = defaultdict(float)
        for row in by_job["trending"]:
            self.trending[row["item"]] += row["score"] * 2.0 ** (row["bucket"] - DAY)
        self.covisits: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for row in by_job["covisits"]:
            for one, other in ((row["a"], row["b"]), (row["b"], row["a"])):
                self.covisits[one][other] += row["n"] * 2.0 ** ((row["bucket"] - DAY) / 7)
        self.events: dict[str, set[int]] = defaultdict(set)
        for row in by_job["histories"]:
            self.events[row["user"]].update(event["seq"] for event in row["events"])
        self.buckets: dict[str, dict[int, list[int]]] = defaultdict(dict)
        for row in by_job["sessions"]:
            of_bucket = self.buckets[row["user"]].setdefault(row["bucket"], [row["first"], row["last"], 0])
            of_bucket[:] = [min(of_bucket[0], row["first"]), max(of_bucket[1], row["last"]), of_bucket[2] + row["n"]]
        self.clicks: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for row in by_job["click_through"]:
            self.clicks[row["item"]][0] += row["shown"]
            self.clicks[row["item"]][1] += row["clicked"]


def check_equal(state: StreamState, reference: Reference) -> None:
    trending = dict(state.trending(1_000).iter_rows())
    expected = {item: DAY + math.log2(score) for item, score in reference.trending.items() if score > 0}
    assert trending == pytest.approx(expected, abs=1e-9)
    assert list(trending.values()) == sorted(trending.values(), reverse=True)
    items = ["d", "a", "nothing", "b", "c"]
    covisits = state.covisits(items, 100)
    scores = {
        (item, other): DAY / 7 + math.log2(score)
        for item, others in reference.covisits.items()
        for other, score in others.items()
    }
    assert {(item, other): score for item, other, score in covisits.iter_rows()} == pytest.approx(scores, abs=1e-9)
    assert covisits["item"].unique(maintain_order=True).to_list() == [one for one in items if one in reference.covisits]
    for user in ("u", "v", "知音"):
        expected_events = sorted(
            (event_of(user, seq) for seq in reference.events.get(user, ())), key=lambda one: (one.time, one.seq)
        )
        events, _ = state.history(user)
        assert events == expected_events
        assert [event.seq for event in events] == [event.seq for event in expected_events]
        newest, _ = state.history(user, 2)
        assert {event.seq for event in newest} == set(sorted(reference.events.get(user, ()))[-2:])
        of_user = [(bucket, *values) for bucket, values in reference.buckets.get(user, {}).items()]
        buckets = pl.DataFrame(of_user, schema=dict.fromkeys(("bucket", "first", "last", "n"), pl.Int64), orient="row")
        assert state.sessions(user).rows() == merge_sessions(buckets).rows()
    assert state.click_through(PLACEMENT).rows() == sorted((item, *counts) for item, counts in reference.clicks.items())


# Rows of a file of each output. Sequence numbers are drawn without regard to other files: events repeat by union.
_items, _users, _days = st.sampled_from("abcd"), st.sampled_from(["u", "v", "知音"]), st.integers(DAY - 20, DAY)
_offsets = st.integers(0, SESSION_GAP - 1)
_bucket = NOW // SESSION_GAP
_rows: dict[str, Any] = {
    "trending": st.tuples(_items, _days, st.floats(1e-6, 1e9), st.integers(1, 9)),
    "covisits": st.tuples(st.sampled_from(["ab", "ac", "bd", "cd"]), _days, st.integers(1, 9)).map(
        lambda row: (row[0][0], row[0][1], row[1], row[2])
    ),
    "histories": st.tuples(_users, st.lists(st.integers(1, 60), max_size=6, unique=True)).map(
        lambda row: history_row(row[0], *row[1])
    ),
    "sessions": st.tuples(_users, st.integers(_bucket, _bucket + 4), _offsets, _offsets, st.integers(1, 9)).map(
        lambda row: (row[0], row[1], *(row[1] * SESSION_GAP + one for one in sorted(row[2:4])), row[4], 1)
    ),
    "click_through": st.tuples(st.just(PLACEMENT), _items, st.integers(0, 9), st.integers(0, 9)),
}  # fmt: skip
_files = st.lists(
    st.sampled_from(STATE_OUTPUTS).flatmap(
        lambda job: st.tuples(st.just(job), st.lists(_rows[job], max_size=12).map(lambda rows: rows_of(job, rows)))
    ),
    max_size=8,
)


class StreamStateConformance:
    """`make(name)` opens the state of a name; all of a class are in one database."""

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Make:
        raise NotImplementedError

    @pytest.fixture
    def state(self, make: Make) -> Iterator[StreamState]:
        opened = make(uuid.uuid4().hex)
        yield opened
        opened.close()

    def fail_next(self, state: StreamState, when: str, at_part: int) -> None:
        """Make the next application fail "before" or "after" a part of it was written."""
        raise NotImplementedError

    # Inherited: each class runs it by itself.
    @settings(max_examples=examples(20), suppress_health_check=[HealthCheck.differing_executors])
    @given(drawn=_files, seed=st.integers(0, 2**32))
    def test_any_order_and_repetition_of_files_gives_the_same(self, make: Make, drawn: list[Any], seed: int) -> None:
        files = {(job, f"part-{number}"): rows for number, (job, rows) in enumerate(drawn)}
        state = make(uuid.uuid4().hex)
        order = random.Random(seed).choices(list(files), k=len(files)) + list(files)
        applied: set[tuple[str, str]] = set()
        for job, file in order:
            before = state.version(job)
            assert state.apply(job, file, files[job, file]) is ((job, file) not in applied)
            assert (state.version(job) != before) is ((job, file) not in applied)
            applied.add((job, file))
        check_equal(state, Reference(files))
        state.close()

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("job", STATE_OUTPUTS)
    def test_what_failed_half_way_is_applied_once(self, state: StreamState, job: str, when: str) -> None:
        rows = {
            "trending": [(item, DAY - n, 1.5 + n, 1) for n, item in enumerate("abcabcd")],
            "covisits": [(a, b, DAY - n, 1 + n) for n, (a, b) in enumerate(["ab", "ac", "ab", "bd", "cd", "ab", "ac"])],
            "histories": [history_row("u", 4, 2), history_row("v", 1, 3, 5), history_row("u", 7, 6)],
            "sessions": [("u", _bucket + n % 2, NOW + n, NOW + n, 1, n) for n in range(7)],
            "click_through": [(PLACEMENT, item, 3 + n, n) for n, item in enumerate("abcabcd")],
        }[job]
        frame = rows_of(job, rows)
        state.set_segments(names_of((7, 7)))
        for part in (1, 2):
            self.fail_next(state, when, part)
            with pytest.raises(Exception, match="failed here"):
                state.apply(job, "part-0", frame)
        state.apply(job, "part-0", frame)
        assert not state.apply(job, "part-0", frame)
        check_equal(state, Reference({(job, "part-0"): frame}))
        assert state.mark == (7 if job == "histories" else 0)

    def test_names_are_apart_and_outlive_the_connection(self, make: Make) -> None:
        one, other = make("one"), make("other")
        one.apply("trending", "part-0", rows_of("trending", [("a", DAY, 1.0, 1)]))
        assert other.trending(10).is_empty()
        assert other.apply("trending", "part-0", rows_of("trending", [("b", DAY, 1.0, 1)]))
        one.close()
        again = make("one")
        assert again.trending(10)["item"].to_list() == ["a"]
        assert not again.apply("trending", "part-0", rows_of("trending", [("a", DAY, 1.0, 1)]))
        again.close()
        other.close()

    def test_nothing_is_known_of_what_never_came(self, state: StreamState) -> None:
        check_equal(state, Reference({}))
        assert state.covisits([], 10).is_empty()
        assert state.trending(0).is_empty()
        assert state.mark == 0

    def test_large_numbers_stay_whole(self, state: StreamState) -> None:
        """A double holds no whole number beyond 2**53 exactly."""
        seq, moment = 2**62 + 1, 2**61 + 3
        value = 0.1 + 0.2
        row = history_row("u", seq, seq + 1, seq + 2, time=moment, value=value, item='"知音" \\ 🎧')
        state.apply("histories", "part-0", rows_of("histories", [row]))
        (event,), _ = state.history("u", 1)
        assert (event.seq, event.time, event.value, event.item) == (seq + 2, moment, value, '"知音" \\ 🎧')
        sessions = [("u", 5, moment + 1, moment + 1, 2**53, 1), ("u", 5, moment, moment + 2, 2**53 + 1, 1)]
        state.apply("sessions", "part-0", rows_of("sessions", sessions))
        assert state.sessions("u").rows() == [(moment, moment + 2, 2**54 + 1)]
        clicks = [(PLACEMENT, "a", 2**60, 1), (PLACEMENT, "a", 1, 2**60)]
        for n, click in enumerate(clicks):
            state.apply("click_through", f"part-{n}", rows_of("click_through", [click]))
        assert state.click_through(PLACEMENT).rows() == [("a", 2**60 + 1, 2**60 + 1)]

    def test_histories_keep_the_highest_numbers(self, state: StreamState) -> None:
        keep = stream_definitions.MAX_HISTORY_EVENTS
        seqs = list(range(1, 4 * keep))
        random.Random(0).shuffle(seqs)
        for n in range(0, len(seqs), 150):
            state.apply("histories", f"part-{n}", rows_of("histories", [history_row("u", *seqs[n : n + 150])]))
        events, _ = state.history("u", keep)
        assert sorted(event.seq for event in events) == list(range(3 * keep, 4 * keep))

    def test_sessions_keep_the_last_buckets(self, state: StreamState) -> None:
        keep = stream_definitions.MAX_SESSION_BUCKETS
        buckets = list(range(5 * keep))
        random.Random(0).shuffle(buckets)
        for n in range(0, len(buckets), 100):
            part = [("u", bucket, bucket * SESSION_GAP, bucket * SESSION_GAP, 1, 1) for bucket in buckets[n : n + 100]]
            state.apply("sessions", f"part-{n}", rows_of("sessions", part))
        assert state._session_buckets("u")["bucket"].sort().to_list() == list(range(4 * keep, 5 * keep))
        assert state.sessions("u", 3)["first"].to_list() == [n * SESSION_GAP for n in range(5 * keep - 3, 5 * keep)]

    def test_an_item_has_a_bounded_number_of_others(self, state: StreamState) -> None:
        rows = [("a", f"b{n:04}", DAY, 1 + n) for n in range(1_000)]
        for n in range(0, 1_000, 50):
            state.apply("covisits", f"part-{n}", rows_of("covisits", rows[n : n + 50]))
        best = state.covisits(["a"], 1_000)
        assert best["other"].to_list() == [f"b{n:04}" for n in range(999, 799, -1)]
        assert state.covisits(["b0999", "a"], 1)["other"].to_list() == ["a", "b0999"]

    def test_pairs_count_in_either_order(self, state: StreamState) -> None:
        rows = [("a", "b", DAY, 1), ("b", "a", DAY, 2), ("a", "a", DAY, 9)]
        state.apply("covisits", "part-0", rows_of("covisits", rows))
        assert state.covisits(["a", "b"], 5).rows() == [
            ("a", "b", pytest.approx(DAY / 7 + math.log2(3))), ("b", "a", pytest.approx(DAY / 7 + math.log2(3))),
        ]  # fmt: skip

    def test_the_mark_is_the_end_of_the_longest_complete_run(self, state: StreamState) -> None:
        names = names_of((10, 3), (20, 2), (30, 2))
        state.set_segments(names[:2])
        state.apply("histories", "part-0", rows_of("histories", [history_row("u", 2, 12), history_row("v", 15)]))
        assert (state.mark, state.history("u")[1]) == (0, 0)
        state.apply("histories", "part-1", rows_of("histories", [history_row("v", 10)]))
        assert state.mark == 0
        state.set_segments(names)
        state.set_segments(names)
        state.apply("histories", "part-2", rows_of("histories", [history_row("u", 7, 21)]))
        assert (state.mark, state.history("u")[1]) == (20, 20)
        state.apply("histories", "part-2", rows_of("histories", [history_row("u", 7, 21)]))
        state.set_segments(names[1:])  # the first was old, and is deleted
        state.apply("histories", "part-3", rows_of("histories", [history_row("u", 30)]))
        assert state.mark == 30

    def test_a_run_that_does_not_begin_at_one_is_not_complete(self, state: StreamState) -> None:
        """The state was emptied, or the segments of before are deleted: nobody may rely on it."""
        state.set_segments(names_of((10, 1), (20, 1))[1:])
        state.apply("histories", "part-0", rows_of("histories", [history_row("u", 15)]))
        assert state.mark == 0

    def test_who_was_forgotten_does_not_come_back(self, state: StreamState) -> None:
        state.set_segments(names_of((5, 5), (9, 4)))
        state.apply("histories", "part-0", rows_of("histories", [history_row("u", 1, 2), history_row("v", 3)]))
        state.apply("sessions", "part-0", rows_of("sessions", [("u", 1, 5, 6, 2, 1), ("v", 1, 7, 7, 1, 3)]))
        versions = state.version("histories"), state.version("sessions")
        state.forget("u", 6)
        assert versions != (state.version("histories"), state.version("sessions"))
        assert (state.has_forgotten("u"), state.has_forgotten("v")) == (True, False)
        assert (state.history("u")[0], state.sessions("u").rows()) == ([], [])
        state.forget("u", 4)  # told again, late
        state.apply("histories", "part-1", rows_of("histories", [history_row("u", 4, 5, 6, 7), history_row("v", 8, 9)]))
        state.apply("sessions", "part-1", rows_of("sessions", [("u", 1, 6, 9, 4, 4), ("u", 2, 9, 9, 1, 7)]))
        assert [event.seq for event in state.history("u")[0]] == [7]
        assert state.sessions("u").rows() == [(9, 9, 1)]
        assert len(state.history("v")[0]) == 3
        assert state.mark == 9  # rows that are refused count as applied
        state.clear()
        assert state.has_forgotten("u")
        state.apply("histories", "part-2", rows_of("histories", [history_row("u", 5)]))
        assert state.history("u")[0] == []

    def test_clearing_drops_all_but_who_was_forgotten(self, state: StreamState) -> None:
        files = {
            ("trending", "f"): rows_of("trending", [("a", DAY, 2.0, 1)]),
            ("covisits", "f"): rows_of("covisits", [("a", "b", DAY, 2)]),
            ("histories", "f"): rows_of("histories", [history_row("u", 1)]),
            ("sessions", "f"): rows_of("sessions", [("u", _bucket, NOW, NOW, 1, 1)]),
            ("click_through", "f"): rows_of("click_through", [(PLACEMENT, "a", 2, 1)]),
        }
        state.set_segments(names_of((1, 1)))
        for (job, file), rows in files.items():
            assert state.apply(job, file, rows)
        assert state.mark == 1
        before = [state.version(job) for job in STATE_OUTPUTS]
        state.clear()
        assert all(state.version(job) != version for job, version in zip(STATE_OUTPUTS, before, strict=True))
        check_equal(state, Reference({}))
        assert state.mark == 0
        state.set_segments(names_of((1, 1)))
        for (job, file), rows in files.items():
            assert state.apply(job, file, rows)
        check_equal(state, Reference(files))
        assert state.mark == 1

    def test_that_results_are_missing_is_held_until_it_is_cleared(self, make: Make, state: StreamState) -> None:
        assert not state.is_incomplete
        state.set_incomplete()
        state.set_incomplete()
        assert state.is_incomplete
        assert state.mark == 0
        state.clear()
        assert not state.is_incomplete

    def test_marks_go_with_their_files(self, state: StreamState) -> None:
        rows = rows_of("click_through", [(PLACEMENT, "a", 1, 0)])
        for file in ("one", "two"):
            state.apply("click_through", file, rows)
        assert state.applied_files("click_through") == {"one", "two"}
        assert state.applied_files("trending") == set()
        state.remove_marks("click_through", ["one", "never"])
        assert state.applied_files("click_through") == {"two"}
        state.remove_marks("click_through", [])
        assert not state.apply("click_through", "two", rows)
        assert state.apply("click_through", "one", rows)

    @pytest.mark.parametrize(
        ("output", "frame", "message"),
        [
            ("trending", pl.DataFrame({"item": ["a"]}), "bucket"),
            ("trending", rows_of("trending", [(None, DAY, 1.0, 1)]), "item is null"),
            ("trending", rows_of("trending", [("a", DAY, math.inf, 1)]), "score is not finite"),
            ("sessions", rows_of("sessions", [("u", 1, -5, 5, 1, 1)]), "first is negative"),
            ("histories", rows_of("histories", [history_row("u", 1, id=None)]), "id is null"),
        ],
    )
    def test_rows_of_something_else_are_refused(
        self, state: StreamState, output: str, frame: pl.DataFrame, message: str
    ) -> None:
        with pytest.raises(DataError, match=message):
            state.apply(output, "part-0", frame)
        assert state.version(output) == 0

    def test_other_outputs_are_refused(self, state: StreamState) -> None:
        with pytest.raises(ConfigError, match="rewards"):
            state.apply("rewards", "part-0", pl.DataFrame())
