"""`train --budget` by a clock that tests set: it ends in time, sources leave in the stated order, a version results."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.models.recommender import Recommender
from zhiyin.pipeline import automl
from zhiyin.pipeline.automl import SuitableSource, fit_within_budget
from zhiyin.pipeline.fit_costs import Afterwards, FitCosts, Measured
from zhiyin.pipeline.fitting_plan import FittingPlan, newest_first
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.time_budget import OutOfTime, TimeBudget
from zhiyin.pipeline.training import train_version
from zhiyin.testing.recommender import DAY

RUN = Run(seed=0, threads=1, progress=False)
# Seconds that a fit on 10,000 events takes by the clock of a test.
SECONDS = {"Popular": 0.01, "ItemKNN": 1.0, "Transitions": 2.0, "ALS": 8.0}
SOURCES = ("popular", "itemknn", "als:factors=8,epochs=2", "transitions")


@dataclasses.dataclass
class SlowClock:
    """Stands still but for fits, which take what they are said to, `slow` times as long."""

    slow: float = 1.0
    now: float = 100.0
    longest: float = 0.0
    fits: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def fit(self, model: Recommender, data: Dataset) -> None:
        name = type(model).__name__
        if name in SECONDS:
            seconds = self.slow * SECONDS[name] * data.n_events / 10_000
            self.fits.append((name, data.n_events))
            self.longest = max(self.longest, seconds)
            self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SlowClock:
    """A clock that every fit of a source advances; the sources are four, untuned."""
    clock = SlowClock()
    real = Recommender.fit_by

    def slowed(model: Recommender, learn: Any, data: Dataset, run: Run) -> Any:
        result = real(model, learn, data, run)
        clock.fit(model, data)
        return result

    monkeypatch.setattr(Recommender, "fit_by", slowed)
    monkeypatch.setattr(
        automl, "suitable_sources", lambda data, seconds: [SuitableSource(text, "", tuned=False) for text in SOURCES]
    )
    return clock


def shop(users: int = 200, days: int = 20) -> Dataset:
    """Users who walk a ring of 60 items, a step a day: what comes next is known, and what is popular says nothing."""
    rng = np.random.default_rng(0)
    day, user = (part.ravel() for part in np.meshgrid(np.arange(days), np.arange(users), indexing="ij"))
    step = (rng.integers(0, 60, users)[user] + day + (rng.random(len(day)) < 0.3)) % 60
    frame = pl.DataFrame({"user": user, "item": step, "time": (day + 18_000) * DAY + user * 1_000_000})
    return Dataset.build(frame)


def version(clock: SlowClock, seconds: float, folder: Any, data: Dataset | None = None, **given: Any) -> Any:
    budget = TimeBudget(seconds, clock=clock, say=lambda text: None, on_stage=lambda *news: None)
    bundles = Bundles(folder / "bundles")
    with bundles.training():
        trained = train_version(data or shop(), bundles, budget, run=RUN, **given)
    return trained, budget


def class_names(trained: Any) -> set[str]:
    return {type(model).__name__ for model in trained.bundle.load().sources_.values()}


@pytest.mark.slow
@pytest.mark.parametrize("slow", [0.01, 1.0, 4.0, 30.0, 1_000.0])
def test_it_ends_in_time_however_slow_fits_are(slow: float, clock: SlowClock, tmp_path: Any) -> None:
    clock.slow = slow
    trained, budget = version(clock, 60.0, tmp_path)
    assert budget.elapsed <= 1.15 * 60 + clock.longest
    assert "Popular" in class_names(trained)
    assert trained.promoted
    if slow <= 0.01:
        assert class_names(trained) == {"Popular", "ItemKNN", "ALS", "Transitions"}
        assert not budget.decisions


@pytest.mark.slow
def test_sources_leave_from_the_most_expensive_on_and_popularity_stays(clock: SlowClock, tmp_path: Any) -> None:
    left_out = []
    for slow in (1.0, 8.0, 16.0, 40.0, 160.0, 640.0):
        clock.slow = slow
        trained, budget = version(clock, 60.0, tmp_path / str(slow))
        left_out.append({"Popular", "ItemKNN", "Transitions", "ALS"} - class_names(trained))
        for name in left_out[-1]:
            said = [text for text in budget.decisions if text.lower().startswith(name.lower())]
            assert said
            assert "is left out" in said[0]
    assert left_out[0] == set()
    assert left_out[-1] == {"ALS", "Transitions", "ItemKNN"}
    steps = [set(), {"ALS"}, {"ALS", "Transitions"}, {"ALS", "Transitions", "ItemKNN"}]
    assert all(one in steps for one in left_out)
    assert all(a <= b for a, b in itertools.pairwise(left_out))


@pytest.mark.slow
def test_windows_are_left_out_before_sources_and_the_oldest_first(clock: SlowClock) -> None:
    data = shop()
    used = []
    for slow in (1.0, 9.0, 14.0):
        clock.slow = slow
        budget = TimeBudget(60.0, clock=clock, say=lambda text: None, on_stage=lambda *news: None)
        pipeline = fit_within_budget(data, budget, run=RUN, ranker="none")
        windows = pipeline.report_["windows"]
        used.append(len(windows))
        assert [window["events"] for window in windows] == sorted(window["events"] for window in windows)
        if len(windows) < 8:
            assert any("windows are used, the newest" in text for text in budget.decisions)
    assert used[0] == 8
    assert used[1] < 8 or len(pipeline.sources_) < 4
    assert used == sorted(used, reverse=True)


@pytest.mark.slow
def test_a_fit_that_becomes_slow_on_the_way_is_planned_for(clock: SlowClock, tmp_path: Any) -> None:
    """The machine becomes busy after the sources were measured: fits take six times as long from then on."""
    clock.slow = 0.5
    n_measured = [0]

    def on_stage(budget: TimeBudget, stage: str, what: str) -> None:
        if stage.startswith("window 2"):
            clock.slow = 6 * 0.5
            n_measured[0] = len(clock.fits)

    budget = TimeBudget(30.0, clock=clock, say=lambda text: None, on_stage=on_stage)
    bundles = Bundles(tmp_path / "bundles")
    with bundles.training():
        trained = train_version(shop(), bundles, budget, run=RUN)
    assert n_measured[0]
    assert budget.elapsed <= 1.15 * 30 + clock.longest
    assert trained.promoted
    assert budget.decisions


@pytest.mark.slow
def test_a_version_results_from_a_budget_that_is_over_before_it_began(clock: SlowClock, tmp_path: Any) -> None:
    budget = TimeBudget(1.0, clock=clock, started=0.0, say=lambda text: None, on_stage=lambda *news: None)
    bundles = Bundles(tmp_path / "bundles")
    with bundles.training():
        trained = train_version(shop(), bundles, budget, run=RUN)
    assert class_names(trained) == {"Popular"}
    assert trained.promoted
    assert len(trained.bundle.load().recommend(k=5)) > 0


@pytest.mark.slow
def test_with_time_to_spare_the_same_seed_gives_the_same_version(clock: SlowClock, tmp_path: Any) -> None:
    lists = []
    for name in ("one", "other"):
        clock.slow = 0.01
        trained, _ = version(clock, 3_600.0, tmp_path / name)
        model = trained.bundle.load()
        lists.append((model.sources, model.choices_, model.recommend(k=10)))
    assert lists[0][:2] == lists[1][:2]
    assert lists[0][2].equals(lists[1][2])


@pytest.mark.slow
def test_the_version_in_use_is_planned_for(clock: SlowClock, tmp_path: Any) -> None:
    """A second training on more events must fit the version in use twice more, or say that it does not."""
    clock.slow = 0.01
    version(clock, 3_600.0, tmp_path, shop(days=18))
    for slow in (1.0, 20.0):
        clock.slow = slow
        trained, budget = version(clock, 60.0, tmp_path, shop(days=20))
        assert budget.elapsed <= 1.15 * 60 + clock.longest
        if "could not be compared" in trained.verdict.why:
            assert not trained.promoted


@pytest.mark.parametrize("events", [1, 3, 6, 12, 39])
def test_little_data_ends_with_a_message_or_a_version(events: int, clock: SlowClock, tmp_path: Any) -> None:
    """Of a few users, in a catalogue of far more items than there are events."""
    frame = pl.DataFrame({"user": [f"u{n % 4}" for n in range(events)], "item": [f"i{n % 17}" for n in range(events)],
                          "time": [DAY * (18_000 + n) for n in range(events)]})  # fmt: skip
    data = Dataset.build(frame, items=pl.DataFrame({"id": [f"i{n}" for n in range(500)], "title": ["x y z"] * 500}))
    message = None
    try:
        trained, _ = version(clock, 60.0, tmp_path, data)
    except DataError as error:
        message = str(error)
    assert message is not None or "Popular" in class_names(trained)
    assert message is None or "the log is too short to judge anything by" in message


def test_a_limited_run_stops_what_reports_its_epochs() -> None:
    clock = SlowClock()
    budget = TimeBudget(60.0, clock=clock)
    run = budget.limited(RUN, 5.0)
    run.report(epoch=1)
    clock.now += 5.1
    with pytest.raises(OutOfTime):
        run.report(epoch=2)


def test_the_pace_of_the_machine_is_that_of_all_sources() -> None:
    costs = FitCosts()
    costs.measure("itemknn", Measured(1.0, 1_000))
    costs.measure("als", Measured(2.0, 1_000))
    costs.measure("ease", Measured(3.0, 1_000, grows=False))
    assert costs.fit("als", 2_000) == pytest.approx(4.0)
    assert costs.fit("ease", 2_000) == pytest.approx(3.0)
    costs.correct("itemknn", 1_000, 3.0)
    assert costs.fit("itemknn", 1_000) == pytest.approx(3.0)
    assert costs.fit("als", 1_000) == pytest.approx(4.0)  # one fit may be slow for reasons of its own
    costs.correct("ease", 1_000, 9.0)
    assert costs.fit("als", 1_000) == pytest.approx(5.0)
    costs.correct("itemknn", 10_000, 300.0)  # of far more events: that says nothing of the others
    assert costs.fit("als", 1_000) == pytest.approx(5.0)
    assert costs.fit("itemknn", 1_000) == pytest.approx(30.0)
    assert Afterwards(fits=(1_000,), requests=0).of_source(costs, "als") == pytest.approx(costs.fit("als", 1_000))


def test_the_most_expensive_source_is_dropped_first_of_equal_ones_the_last() -> None:
    clock = SlowClock()
    budget = TimeBudget(10.0, clock=clock, say=lambda text: None)
    sources = Pipeline(sources="popular; itemknn; transitions; als")._parse_sources()
    for name, seconds in (("popular", 9.0), ("itemknn", 2.0), ("transitions", 2.0), ("als", 4.0)):
        budget.costs.measure(name, Measured(seconds, 1_000))
    fitting = FittingPlan(sources, 1_000, budget)
    assert fitting.make_room() == ["als", "transitions", "itemknn"]
    assert list(fitting.sources) == ["popular"]
    assert list(fitting.dropped) == ["als", "transitions", "itemknn"]


def test_windows_are_made_from_the_newest_on() -> None:
    assert newest_first(5, 3)[:4] == [("choose", 2), ("learn", 4), ("choose", 1), ("learn", 3)]
    assert len(set(newest_first(5, 3))) == 8
