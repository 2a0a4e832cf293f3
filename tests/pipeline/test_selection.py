"""What chooses a pipeline has not seen what judges it: planted items in a window reach nothing that comes before it.

Two logs are the same but for one window, in which every item of the second log is a marker that stands nowhere else.
Everything that tuning, blending, the ranker and its early stopping are given before the window's turn is recorded: it
holds no marker, and is the same for both logs to the last bit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from zhiyin.cli.main import app
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline import automl, blending, promotion_gate, time_windows
from zhiyin.pipeline.automl import SuitableSource, fit_within_budget
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.ranking.trees import Trees
from zhiyin.testing.recommender import DAY

RUN = Run(seed=0, threads=1, progress=False)
USERS, DAYS, ITEMS = 60, 30, 40
MARKERS = [f"marker {number}" for number in range(ITEMS)]


def shop(marked: tuple[int, int] | None = None, times: bool = True) -> pl.DataFrame:
    """Users who walk a ring of items; from one event to another, in the order of time, items are markers instead."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, ITEMS, USERS)
    day, user = (part.ravel() for part in np.meshgrid(np.arange(DAYS), np.arange(USERS), indexing="ij"))
    step = (starts[user] + day + (rng.random(len(day)) < 0.3)) % ITEMS
    item = np.array([f"item {number:02}" for number in range(ITEMS)], dtype=object)[step]
    if marked is not None:
        item[slice(*marked)] = np.array(MARKERS, dtype=object)[step[slice(*marked)]]
    frame = pl.DataFrame({"user": [f"u{u:02}" for u in user], "item": item})
    return frame.with_columns(time=pl.Series((day + 18_000) * DAY + user * 1_000_000)) if times else frame


def build(frame: pl.DataFrame) -> Dataset:
    """Under the same codes whether or not there are markers, which are described and so always candidates."""
    names = [f"item {number:02}" for number in range(ITEMS)] + MARKERS
    return Dataset.build(frame, items=pl.DataFrame({"id": names, "colour": ["red"] * len(names)}))


@dataclasses.dataclass
class Seen:
    """What was given to whom, in order: (purpose, arrays)."""

    rows: list[tuple[str, list[np.ndarray]]] = dataclasses.field(default_factory=list)
    inside: str = ""

    def before(self, purpose: str) -> list[tuple[str, list[np.ndarray]]]:
        names = [name for name, _ in self.rows]
        return self.rows[: names.index(purpose)]

    def items(self, *purposes: str) -> set[int]:
        found: set[int] = set()
        for name, (items, *_) in self.rows:
            if name in purposes:
                found |= set(items.tolist())
        return found


def events(data: Dataset) -> list[np.ndarray]:
    return [data.events[name].to_numpy() for name in ("item", "user", "time")]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Records what every fit, search, blend, ranker and choice is given."""
    seen = Seen()

    def spy(owner: Any, name: str, purpose: str, what: Any) -> None:
        real = getattr(owner, name)

        def spied(*args: Any, **named: Any) -> Any:
            seen.rows.append((seen.inside + purpose, what(*args, **named)))
            outer, seen.inside = seen.inside, f"{seen.inside}{purpose}: " if purpose == "tune" else seen.inside
            try:
                return real(*args, **named)
            finally:
                seen.inside = outer

        monkeypatch.setattr(owner, name, spied)

    # Where items stand for events, the first array has those that users had: right candidates and histories.
    def examples(_: Any, rows: Any, labels: np.ndarray, valid: Any = None, **named: Any) -> list[np.ndarray]:
        had = [part.items[marks > 0] for part, marks in ((rows, labels), valid)]
        arrays = [np.concatenate([*had, rows.histories.items, valid[0].histories.items])]
        arrays += [rows.histories.users, valid[0].histories.users, labels, valid[1], rows.items, valid[0].items]
        return [*arrays, np.nan_to_num(rows.numbers), np.nan_to_num(valid[0].numbers)]

    def blended(candidates: Any, labels: np.ndarray, **named: Any) -> list[np.ndarray]:
        return [candidates.items[labels > 0], candidates.items, candidates.ranks, labels, candidates.offsets]

    spy(Recommender, "fit", "fit", lambda _, data, *rest, **named: events(data))
    spy(automl, "tune", "tune", lambda _, data, **named: events(data))
    spy(blending, "learn_weights", "weights", blended)
    spy(Trees, "fit", "ranker", examples)
    spy(blending, "choose", "choose", lambda segment, values, *rest: [np.zeros(0, int), *values.values()])
    spy(promotion_gate, "evaluate_window", "gate", lambda model, window, *rest: [window.items])
    monkeypatch.setattr(
        automl,
        "suitable_sources",
        lambda *_: [
            SuitableSource("popular", "", tuned=False),
            SuitableSource("itemknn", ""),
            SuitableSource("transitions", ""),
        ],
    )
    real_tune = automl.tune
    monkeypatch.setattr(
        automl, "tune", lambda *args, **named: real_tune(*args, **{**named, "trials": 3, "timeout": None})
    )
    return seen


def same(one: list[tuple[str, list[np.ndarray]]], other: list[tuple[str, list[np.ndarray]]]) -> None:
    assert [name for name, _ in one] == [name for name, _ in other]
    for (name, a), (_, b) in zip(one, other, strict=True):
        assert len(a) == len(b)
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)), name


def trained(seen: Seen, data: Dataset) -> tuple[Seen, Pipeline]:
    """What was seen while a pipeline is made, at whatever speed."""
    seen.rows.clear()
    pipeline = fit_within_budget(data, 3_600.0, ranker="trees:trees=20,min_leaf=5", run=RUN)
    return Seen(list(seen.rows)), pipeline


def positions(data: Dataset, held: time_windows.WindowPlan, which: str) -> tuple[int, int]:
    """From which event to which the first of the windows to learn from, or to choose by, lies, in the order of time."""
    first = getattr(held, which)[0][0]
    times = np.sort(data.events["time"].to_numpy())
    return int(np.searchsorted(times, first.test.window[0])), len(times)


@pytest.mark.slow
def test_nothing_that_judges_reaches_tuning_blending_or_stopping(seen: Seen) -> None:
    plain = build(shop())
    plan = Pipeline(windows=automl.WINDOWS, share=automl.SHARE).plan(plain, RUN)
    start, end = positions(plain, plan, "choose")
    marked = build(shop((start, end)))
    markers = set(marked.item_ids.encode(MARKERS).tolist())

    one, first = trained(seen, plain)
    other, second = trained(seen, marked)
    # The same until the windows that choose have their turn, and no marker before.
    same(
        [row for row in one.before("choose") if row[0] != "fit"],
        [row for row in other.before("choose") if row[0] != "fit"],
    )
    before = Seen(other.before("choose"))
    assert {"tune", "tune: fit", "fit", "weights", "ranker"} <= {name for name, _ in before.rows}
    assert not before.items("tune", "tune: fit", "weights", "ranker") & markers
    assert [t.get("tuned") for t in first.report_["tried"]] == [t.get("tuned") for t in second.report_["tried"]]
    assert [t.get("value") for t in first.report_["tried"]] == [t.get("value") for t in second.report_["tried"]]
    # The choice and what is learned after it do see them: the markers are where they should be.
    assert any(not np.array_equal(x, y) for x, y in zip(one.rows[len(before.rows)][1], other.rows[len(before.rows)][1]))
    after = Seen(other.rows[len(before.rows) :])
    assert after.items("weights") & markers
    assert after.items("fit") >= markers


@pytest.mark.slow
def test_what_is_learned_from_reaches_no_tuning(seen: Seen) -> None:
    plain = build(shop())
    plan = Pipeline(windows=automl.WINDOWS, share=automl.SHARE).plan(plain, RUN)
    marked = build(shop(positions(plain, plan, "learn")))
    markers = set(marked.item_ids.encode(MARKERS).tolist())
    one, _ = trained(seen, plain)
    other, _ = trained(seen, marked)
    tuning = [[row for row in each.rows if row[0].startswith("tune")] for each in (one, other)]
    same(*tuning)
    assert not other.items("tune", "tune: fit") & markers
    assert Seen(other.before("choose")).items("weights") & markers


def test_a_source_is_fitted_on_nothing_of_the_window_it_is_asked_in(seen: Seen) -> None:
    data = build(shop())
    _, pipeline = trained(seen, data)
    del pipeline
    plan = Pipeline(windows=automl.WINDOWS, share=automl.SHARE).plan(data, RUN)
    starts = [part.test.window[0] for part, _ in (*plan.learn, *plan.choose)]
    ends = sorted({int(arrays[2].max()) for name, arrays in seen.rows if name == "fit"})
    # Tuned on the first part, measured on samples of it, fitted before each window, and at last on all there is.
    whole = [*(max(t for t in np.unique(data.events["time"]) if t < start) for start in starts), data.window[1]]
    assert [end for end in ends if end >= whole[0]] == whole
    assert len(ends) > len(whole)


def test_early_stopping_never_looks_at_a_user_who_was_learned_from(seen: Seen) -> None:
    trained(seen, build(shop()))
    rankers = [arrays for name, arrays in seen.rows if name == "ranker"]
    assert len(rankers) >= 1
    for _, taught, held, *_ in rankers:
        assert len(np.unique(taught)) < len(taught)  # users come back from window to window
        assert len(held)
        assert not set(taught.tolist()) & set(held.tolist())


@pytest.mark.slow
def test_without_times_the_shares_are_disjoint(seen: Seen) -> None:
    """Each event is named by its place: what tuning is given holds none of the events of a window."""
    data = build(shop(times=False))
    plan = Pipeline(windows=automl.WINDOWS, share=automl.SHARE).plan(data, RUN)
    trained(seen, data)

    def pairs(items: np.ndarray, users: np.ndarray) -> set[tuple[int, int]]:
        return set(zip(users.tolist(), items.tolist(), strict=True))

    window = set[tuple[int, int]]().union(*(pairs(*events(part.test)[:2]) for part, _ in (*plan.learn, *plan.choose)))
    once = window - pairs(*events(plan.tune)[:2])
    assert len(once) > 100
    tuned = [arrays for name, arrays in seen.rows if name.startswith("tune")]
    assert tuned
    assert not any(pairs(*arrays[:2]) & once for arrays in tuned)


@pytest.mark.slow
def test_the_gates_days_reach_nothing_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    """As it is typed: `zhiyin train --budget`."""
    monkeypatch.chdir(tmp_path)
    rows = USERS * DAYS
    frame = shop((int(0.8 * rows), rows)).with_columns(pl.from_epoch("time", time_unit="us"))
    frame.write_csv(tmp_path / "events.csv")
    for line in (["init", "events.csv"], ["train", "--budget", "60s", "--force"]):
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output
    ids = sorted(set(frame["item"].to_list()))
    markers = {ids.index(name) for name in ids if name.startswith("marker")}
    before = Seen(seen.before("gate"))
    assert {"tune", "tune: fit", "fit", "weights", "choose"} <= {name for name, _ in before.rows}
    assert before.items("fit", "tune", "tune: fit", "weights", "ranker")
    # `Popular` is fitted for the gate itself, on the same part.
    assert not before.items("fit", "tune", "tune: fit", "weights", "ranker") & markers
    assert seen.items("gate") & markers
    assert Seen(seen.rows[len(before.rows) :]).items("fit") & markers
