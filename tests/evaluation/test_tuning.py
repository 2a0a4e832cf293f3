"""Tuning finds what was planted, goes on where it stopped, and sees train alone."""

from __future__ import annotations

import builtins
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from zhiyin.core.errors import ConfigError, MissingExtraError
from zhiyin.core.params import param
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.data.splits import split
from zhiyin.evaluation.model_evaluation import Window, evaluate_window
from zhiyin.evaluation.tuning import tune
from zhiyin.models.linear import EASE
from zhiyin.models.popularity import Popular
from zhiyin.models.random import Random
from zhiyin.models.recommender import Recommender

RUN = Run(seed=1, threads=2)
DAY = 86_400_000_000


def fashions(times: bool = True) -> Dataset:
    """Ten items are in fashion for four days each, so that only a short half-life knows what is next."""
    rng = np.random.default_rng(0)
    n = 6_000
    day = np.sort(rng.random(n) * 60)
    item = (day // 4).astype(int) * 10 + rng.integers(10, size=n)
    frame = pl.DataFrame({"user": rng.integers(300, size=n), "item": item})
    if times:
        frame = frame.with_columns(time=pl.Series((day * DAY).astype(np.int64)))
    return Dataset.build(frame)


@dataclasses.dataclass
class Dial(Recommender):
    """As good as `turn` is near 0.3: the best item keeps its place unless noise moves it."""

    scores_empty_histories: ClassVar[bool] = True
    fits: ClassVar[list[Dataset]] = []
    turn: float = param(0.9, "where the dial stands", at_least=0, at_most=1, tune=(0.0, 1.0))
    clicks: int = param(1, "does nothing", at_least=1, tune=(1, 3))
    still: int = param(7, "is not searched")

    def _fit(self, data: Dataset, run: Run) -> None:
        Dial.fits.append(data)
        newest = data.events.sort("time").tail(200)["item"].to_numpy()
        self.scores_ = np.log1p(np.bincount(newest, minlength=data.n_items))
        run.report(model="Dial", epoch=1, of=1)

    def _score(self, histories: Histories, run: Run) -> np.ndarray:
        noise = np.random.default_rng(0).standard_normal(len(self.scores_))
        line = self.scores_ + 20 * abs(self.turn - 0.3) * noise
        return np.tile(line.astype(np.float32), (len(histories), 1))


def test_finds_the_planted_half_life() -> None:
    found = tune(Popular(), fashions(), trials=8, validation="2d", run=RUN)
    assert found.best["half_life"] == "1d"
    assert found.value > 1.2 * found.default_value
    assert found.model == Popular(half_life="1d")
    assert not found.model.is_fitted
    assert found.trials["state"][0] == "complete"
    assert "half_life" in str(found)


def test_moves_a_number_to_where_it_is_best() -> None:
    found = tune(Dial(), fashions(), trials=15, validation="2d", run=RUN)
    assert abs(found.best["turn"] - 0.3) < 0.2
    assert found.best["still"] == 7
    assert found.value > found.default_value


def test_train_alone_is_seen_and_judged_like_evaluate_does() -> None:
    train, test = split(fashions(), test="6d")
    Dial.fits.clear()
    found = tune(Dial(), train, trials=3, validation="4d", run=RUN)
    inner = split(train, "time", test="4d")
    assert {data.fingerprint for data in Dial.fits} == {inner.train.fingerprint}
    assert max(data.window[1] for data in Dial.fits) < inner.test.window[0] <= train.window[1] < test.window[0]
    window = Window.of(inner)
    again = evaluate_window(found.model.fit(window.train, RUN), window, [10], RUN).per_user["ndcg@10"].mean()
    assert again == pytest.approx(found.value)


def test_same_seed_same_trials() -> None:
    one, two = (tune(Dial(), fashions(), trials=8, validation="2d", run=Run(seed=4, threads=t)) for t in (1, 2))
    assert one.trials.drop("seconds").equals(two.trials.drop("seconds"))
    assert one.best == two.best


@pytest.mark.parametrize("name", ["trials.db", "trials.journal"])
def test_goes_on_from_storage(tmp_path: Path, name: str) -> None:
    data, where = fashions(), tmp_path / "kept" / name
    first = tune(Dial(), data, trials=3, validation="2d", storage=where, run=RUN)
    Dial.fits.clear()
    more = tune(Dial(), data, trials=5, validation="2d", storage=where, run=RUN)
    assert len(Dial.fits) == 2
    assert len(more.trials) == 5
    assert more.trials.head(3).equals(first.trials)
    assert more.trials["turn"].n_unique() == 5
    Dial.fits.clear()
    assert tune(Dial(), data, trials=5, validation="2d", storage=where, run=RUN).best == more.best
    assert not Dial.fits
    # Another question has trials of its own in the same file.
    assert len(tune(Dial(still=8), data, trials=2, validation="2d", storage=where, run=RUN).trials) == 2


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    def stop(news: dict[str, Any]) -> None:
        if len(Dial.fits) == 3:
            raise KeyboardInterrupt

    Dial.fits.clear()
    where = tmp_path / "trials.journal"
    cut = tune(Dial(), fashions(), trials=6, storage=where, run=dataclasses.replace(RUN, callbacks=(stop,)))
    assert cut.interrupted
    assert cut.trials["state"].to_list() == ["complete", "complete", "fail"]
    whole = tune(Dial(), fashions(), trials=6, storage=where, run=RUN)
    assert not whole.interrupted
    assert whole.trials["state"].is_in(["complete", "pruned"]).sum() == 6


def test_poor_trials_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.evaluation.tuning._FEWEST", 20)
    found = tune(Dial(turn=0.3), fashions(), trials=20, validation="2d", run=RUN)
    assert (found.trials["state"] == "pruned").any()
    assert found.trials.filter(pl.col("state") == "pruned")["value"].null_count() > 0


def test_time_is_kept() -> None:
    found = tune(Dial(), fashions(), trials=10_000, timeout=0.5, run=RUN)
    assert 0 < len(found.trials) < 10_000


def test_a_log_without_times_is_parted_at_random() -> None:
    found = tune(EASE(), fashions(times=False), trials=2, run=RUN)
    assert "a random 20% of each user's events" in found.protocol[0]


def test_what_is_written_in_a_name_is_held() -> None:
    found = tune("transitions:window=3,last=4", fashions(), trials=2, fixed=["decay"], run=RUN)
    assert (found.best["window"], found.best["last"], found.best["decay"]) == (3, 4, 0.8)
    assert "window" not in found.trials.columns
    assert found.to_json()["model"].startswith("Transitions(window=3, last=4")


def test_wrong_questions_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data = fashions()
    with pytest.raises(ConfigError, match="nothing to tune"):
        tune(Random(), data, run=RUN)
    with pytest.raises(ConfigError, match="no metric"):
        tune(Popular(), data, metric="ndcg", run=RUN)
    with pytest.raises(ConfigError, match="no hyperparameter 'turm'"):
        tune(Dial(), data, fixed=["turm"], run=RUN)
    with pytest.raises(ConfigError, match="trials = 0"):
        tune(Dial(), data, trials=0, run=RUN)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match="optuna"):
        tune(Popular(), data, run=RUN)
