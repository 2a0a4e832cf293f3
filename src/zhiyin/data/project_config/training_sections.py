"""Sections of training: the split, the models, evaluation, tuning, and the run."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from zhiyin.core.durations import is_duration
from zhiyin.data.project_config.section import Section, key

# What can be told of a training, beside the terminal.
CALLBACKS = ("tensorboard", "mlflow")


class SplitSection(Section):
    """What is held back to judge by."""

    by: Literal["auto", "time", "last", "ratio", "cold-users", "cold-items", "rolling"] = key(
        "auto",
        "time, last, ratio, cold-users, cold-items, rolling; auto chooses time or ratio",
        'one of "auto", "time", "last", "ratio", "cold-users", "cold-items", "rolling"',
    )
    test: str | Annotated[float, Field(ge=0.0001, le=0.9999)] | None = key(
        None,
        "how much is test: a duration or a share; left out, the last 20 % of events",
        'a duration such as "7d" or a share between 0 and 1, from 0.0001 to 0.9999, such as 0.2',
        "7d",
    )
    folds: int = key(3, "time windows of a rolling split", "a whole number from 1 to 100", ge=1, le=100)

    @field_validator("test")
    @classmethod
    def _test(cls, test: str | float | None) -> str | float | None:
        if isinstance(test, str) and not is_duration(test):
            raise ValueError
        return test


class TrainSection(Section):
    """Which models to learn, and where to keep them."""

    models: list[str] = key(["EASE", "ALS"], "models by name", "a list of texts")
    output: str = key("models", "folder of the trained models", "a text")
    goal: Literal["ranking", "ctr", "cvr", "rating"] = key(
        "ranking",
        "what a version is to be best at: the order of lists, a probability of clicks or purchases, ratings",
        'one of "ranking", "ctr", "cvr", "rating"',
    )
    display: str = key("impression", "kind of the events that say that an item was displayed", "a text")
    click_window: str = key(
        "1d", "an event this long after a display is of the display: a click, or a purchase", 'a duration such as "1d"'
    )
    callbacks: list[str] = key(
        [],
        "where curves of named models go: tensorboard, tensorboard=FOLDER, mlflow, mlflow=EXPERIMENT",
        'a list such as ["tensorboard", "mlflow=shop"]',
        max_length=10,
    )
    margin: float = key(
        0.02,
        "share of the metric of what is in use that a version of --budget may lose",
        "a number from 0 to 0.5",
        ge=0,
        le=0.5,
    )

    @field_validator("click_window")
    @classmethod
    def _click_window(cls, window: str) -> str:
        if not is_duration(window):
            raise ValueError
        return window

    @field_validator("callbacks")
    @classmethod
    def _callbacks(cls, callbacks: list[str]) -> list[str]:
        if any(text.partition("=")[0].strip() not in CALLBACKS for text in callbacks):
            raise ValueError
        return callbacks


class EvaluateSection(Section):
    """How lists are judged. The whole catalogue is ranked; Random and Popular are always shown beside."""

    k: list[Annotated[int, Field(ge=1, le=10_000)]] = key(
        [10, 20],
        "lengths of the lists",
        "a list of whole numbers from 1 to 10000, at most 20",
        min_length=1,
        max_length=20,
    )
    bootstrap: int = key(
        1000, "draws of users for the 95 % intervals; 0 for none", "a whole number from 0 to 20000", ge=0, le=20_000
    )
    exclude_seen: bool = key(True, "do not recommend what the user already had", "true or false")
    threshold: float | None = key(
        None,
        "a rating of at least this is liked, for the log-loss of ratings; left out, .5 where all are 0 or 1",
        "a number from -1e15 to 1e15",
        4.0,
        ge=-1e15,
        le=1e15,
    )


class TuneSection(Section):
    """How hyperparameters are searched, on a window before the test part."""

    trials: int = key(30, "settings to try of each model", "a whole number from 1 to 100000", ge=1, le=100_000)
    metric: str | None = key(
        None,
        "what is to become best; left out, rmse of a model of ratings and ndcg@10 of any other",
        'a metric, and of lists a length, such as "ndcg@10"',
        "ndcg@10",
    )
    timeout: str | None = key(None, "stop after this long", 'a duration such as "30m"', "30m")

    @field_validator("metric")
    @classmethod
    def _metric(cls, metric: str | None) -> str | None:
        if metric is not None and not re.fullmatch(r"[a-z][a-z_-]*(@[1-9]\d*)?", metric):
            raise ValueError
        return metric

    @field_validator("timeout")
    @classmethod
    def _timeout(cls, timeout: str | None) -> str | None:
        if timeout is not None and not is_duration(timeout):
            raise ValueError
        return timeout


class RunSection(Section):
    """What changes the work but not what is learned, the seed apart."""

    seed: int = key(0, "every random draw descends from it", "a whole number from 0 to 2^63 - 1", ge=0, le=2**63 - 1)
    threads: int | None = key(
        None, "worker threads; left out, all cores", "a whole number from 1 to 4096", 4, ge=1, le=4_096
    )
    device: str = key(
        "auto", "where networks are trained: auto takes a GPU where there is one", '"auto", "cpu" or "cuda"'
    )
