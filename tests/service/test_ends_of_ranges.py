"""Every number of the settings file, at both ends of its range: it is accepted and works; one step beyond is refused.

The fields are found by walking the models of the file, the rules and the placements: a number without bounds, or one
that nothing here uses, fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sqlite3
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("starlette")

from pydantic import BaseModel

from zhiyin.api.ad_requests import MAX_MICROS
from zhiyin.api.requests import ExplorationSettings, PlacementSettings, PolicySettings, RewardRule
from zhiyin.cli.evaluation_output import evaluate_models
from zhiyin.cli.project import Project, project_of
from zhiyin.core.errors import ConfigError
from zhiyin.core.params import Param, params_of
from zhiyin.data.dataset import Dataset
from zhiyin.data.project_config import Config, load_config
from zhiyin.data.reading import read
from zhiyin.data.splits import split
from zhiyin.evaluation.tuning import tune
from zhiyin.models.als import ALS
from zhiyin.models.popularity import Popular
from zhiyin.models.ratings.rating_baselines import UserItemBias
from zhiyin.pipeline import rules
from zhiyin.pipeline.ad_candidates import sampled_probabilities
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.promotion_gate import decide_promotion
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.rules import Rules
from zhiyin.policies.ad_auction import run_auctions
from zhiyin.service.placements import validate_setting
from zhiyin.service.training_share import ShareController

from .conftest import client_of, listed, shop

# Free tables, whose numbers are checked by what they are for: hyperparameters by `Param`, the others below.
FREE = ("models", "rules", "placements", "experiments")


@dataclasses.dataclass(frozen=True)
class Number:
    """A number of the file: where it stands, its type, the ends of its range."""

    place: str
    whole: bool
    low: float
    high: float

    def __str__(self) -> str:
        return self.place

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def beyond(self) -> list[Any]:
        """The nearest values outside, what is no number, and what is of the wrong type."""
        if self.whole:
            return [int(self.low) - 1, int(self.high) + 1, 10**30, -(10**30), 1.5, True, math.inf, math.nan]
        outside = [math.nextafter(self.low, -math.inf), math.nextafter(self.high, math.inf)]
        return [*outside, math.inf, -math.inf, math.nan, True, 10**30]


def numbers(owner: type[BaseModel], place: str = "", without: tuple[str, ...] = ()) -> Iterator[Number]:
    """The numbers of a model of settings, those in lists, tables and unions included. Fails for one without ends."""
    for name in [name for name in owner.model_fields if name not in without]:
        field = owner.model_fields[name]
        yield from _numbers(field.annotation, list(field.metadata), f"{place}{name}")


def _numbers(kind: Any, limits: list[Any], place: str) -> Iterator[Number]:
    if typing.get_origin(kind) is typing.Annotated:
        inner, *more = typing.get_args(kind)
        yield from _numbers(inner, [*limits, *more], place)
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from numbers(kind, f"{place}.")
    elif kind in (int, float):
        limits = [part for limit in limits for part in [limit, *getattr(limit, "metadata", [])]]
        low = next((limit.ge for limit in limits if getattr(limit, "ge", None) is not None), None)
        high = next((limit.le for limit in limits if getattr(limit, "le", None) is not None), None)
        assert low is not None, f"{place} has no lower end"
        assert high is not None, f"{place} has no upper end"
        yield Number(place, kind is int, low, high)
    else:
        arguments = typing.get_args(kind)
        bounds = limits if typing.get_origin(kind) not in (list, dict) else []
        for argument in arguments:
            if argument not in (None, type(None)) and not isinstance(argument, str):
                yield from _numbers(argument, bounds, place)


def of_file() -> list[Number]:
    return list(numbers(Config, without=FREE))


def written(tmp_path: Path, place: str, value: Any) -> Path:
    """A settings file with one key."""
    section, _, name = place.partition(".")
    name = name or "view"  # of [weights]
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value)
    text = f"[{text}]" if place == "evaluate.k" else text
    path = tmp_path / "zhiyin.toml"
    path.write_text(f"[{section}]\n{name} = {text}\n")
    return path


def project(tmp_path: Path, config: Config) -> Project:
    return project_of(config, tmp_path)


def log(days: int = 30, users: int = 20) -> Dataset:
    """An event of every user each day."""
    user, day = (part.ravel() for part in np.meshgrid(np.arange(users), np.arange(days)))
    item = (user + 3 * day) % 61
    return Dataset.build(pl.DataFrame({"user": user, "item": item, "time": (day + 15_000) * 86_400_000_000 + user}))


def splits(config: Config, tmp_path: Path) -> None:
    config.split.by, config.split.test = "rolling", "1d"
    parts = project(tmp_path, config).splits(log(120))
    assert isinstance(parts, list)
    assert len(parts) == config.split.folds


def share(config: Config, tmp_path: Path) -> None:
    config.split.by = "time"
    part = project(tmp_path, config).splits(log(200, 60))
    assert part.train.n_events  # type: ignore[union-attr]
    assert part.test.n_events  # type: ignore[union-attr]


def margin(config: Config, tmp_path: Path) -> None:
    parts = split(log(), "time", test="5d")
    verdict = decide_promotion(ALS(epochs=1, factors=2), parts, {"used": Popular()}, margin=config.train.margin)
    assert verdict.margin == config.train.margin
    assert verdict.tests["used"].bound == pytest.approx(-config.train.margin * verdict.figures["used"])


def evaluated(config: Config, tmp_path: Path) -> None:
    config.split.test = "5d"
    found = evaluate_models(project(tmp_path, config), [Popular()], log(users=8))
    assert set(config.evaluate.k) <= set(found.k)
    assert bool(found["Popular"].intervals) == bool(config.evaluate.bootstrap)
    assert found.report(tmp_path / "report.html").exists()


def liked(config: Config, tmp_path: Path) -> None:
    events = log(users=8).events
    rated = Dataset.build(events.select("user", "item", "time").with_columns(value=1.0 + pl.col("item") % 5))
    config.split.test = "5d"
    found = evaluate_models(project(tmp_path, config), [UserItemBias()], rated)
    assert 0 <= found["UserItemBias"].metrics["log_loss"] < 1


def tuned(config: Config, tmp_path: Path) -> None:
    found = tune(Popular(), log(), trials=config.tune.trials, timeout=0.2)
    assert 1 <= len(found.trials) <= config.tune.trials


def mixed(config: Config, tmp_path: Path) -> None:
    data = shop()
    answers = Answers(Pipeline.wrapping(Popular().fit(data)), data.items, by="genre")
    for diversity in ("mmr", "dpp", "calibrate"):
        request = Request(user="u3", k=5, diversity=diversity, balance=config.answers.balance)
        assert len(answers.ask(request).items) == 5


def workers(config: Config, tmp_path: Path) -> None:
    from zhiyin.service.settings import read_settings

    assert read_settings(tmp_path / "zhiyin.toml").config.service.workers == config.service.workers


def weighed(config: Config, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,kind\n" + "".join(f"u{n % 5},i{n % 7},view\n" for n in range(35)))
    data = read(tmp_path / "events.csv", weights=config.weights)
    assert set(data.events["weight"]) == {config.weights["view"]}
    for model in (ALS(factors=4), Popular()):
        scores = model.fit(data).score(data.histories)
        assert np.isfinite(scores).all()


def headed(config: Config, tmp_path: Path) -> None:
    header = config.read.header
    lines = [*["junk"] * ((header or 1) - 1), *(["user,item"] if header else [])]
    lines += [f"u{n},i{n % 7}" for n in range(500)]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    config.data.source = "events.csv"
    if not header:
        config.columns.user, config.columns.item = "column_1", "column_2"
    assert project(tmp_path, config).data().n_events == 500


def queried(config: Config, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as link:
        link.execute("CREATE TABLE log (user TEXT, item TEXT)")
        link.execute("INSERT INTO log VALUES ('a', 'x')")
        link.commit()
    config.data.source, config.data.query = f"sqlite:///{tmp_path}/shop.db", "SELECT user, item FROM log"
    assert project(tmp_path, config).data().n_events == 1


def reviewed(config: Config, tmp_path: Path) -> None:
    rows = [f"u{n % 5},i{n % 7},{('awful', 'great')[n % 2]}" for n in range(35)]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,review", *rows]) + "\n")
    config.data.source, reviews = "events.csv", config.features.reviews
    reviews.column = "review"
    values = project(tmp_path, config).data().events["value"]
    ends = (-1.0 if reviews.worst is None else reviews.worst, 1.0 if reviews.best is None else reviews.best)
    assert values.is_between(min(ends), max(ends)).all()
    assert values.n_unique() == (1 if ends[0] == ends[1] else 2)


def computed(config: Config, tmp_path: Path) -> None:
    run = project(tmp_path, config).run
    made = Pipeline(sources="popular; als:factors=4,epochs=2; itemknn", ranker="trees:trees=5,min_leaf=5").fit(
        log(), run
    )
    assert len(made.recommend([0, 1], 5, run=run)) == 10


def trained_beside(config: Config, tmp_path: Path) -> None:
    controller = ShareController(config.service.train_share)
    for waited in (9.0, 0.0) * 50:
        controller.update(1.0, waited)
        assert 0 < controller.share <= config.service.train_share


def advertised(config: Config, tmp_path: Path) -> None:
    """An auction of three ads with the reserve, and the probabilities that exploration draws."""
    ads, codes = config.ads, np.arange(3)
    probabilities = np.array([0.5, 0.3, 0.1])
    if ads.exploration > 0:
        probabilities = sampled_probabilities(probabilities, np.zeros(3), np.zeros(3), ads.exploration, 1)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    bids = np.full(3, MAX_MICROS)[: ads.candidates]
    part = probabilities[: len(bids)] * (probabilities[: len(bids)] >= ads.quality_floor)
    won = run_auctions(np.array([0, len(bids)]), part, bids, np.full(len(bids), ads.reserve), codes, codes, slots=3)
    shown = won.ads[0] >= 0
    assert shown.sum() == np.count_nonzero(part)
    assert (won.prices[0][shown] >= max(ads.reserve, 1)).all()
    assert (won.prices[0][shown] <= MAX_MICROS).all()


USES: dict[str, Callable[[Config, Path], None]] = {
    "ads.reserve": advertised,
    "ads.quality_floor": advertised,
    "ads.candidates": advertised,
    "ads.exploration": advertised,
    "weights": weighed,
    "data.query_rows": queried,
    "read.header": headed,
    "features.reviews.worst": reviewed,
    "features.reviews.best": reviewed,
    "split.folds": splits,
    "split.test": share,
    "train.margin": margin,
    "evaluate.k": evaluated,
    "evaluate.bootstrap": evaluated,
    "evaluate.threshold": liked,
    "tune.trials": tuned,
    "answers.balance": mixed,
    "service.workers": workers,
    "service.train_share": trained_beside,
    "run.seed": computed,
    "run.threads": computed,
}
SERVED = {f"service.{name}" for name in ("budget", "rate", "connections", "lists_size", "log_features")}
SERVED.add("service.log_features_rate")


def test_every_number_has_two_ends_and_a_use() -> None:
    assert {number.place for number in of_file()} == set(USES) | SERVED


@pytest.mark.parametrize("number", of_file(), ids=str)
def test_one_step_beyond_is_refused_by_name(number: Number, tmp_path: Path) -> None:
    for value in number.beyond:
        with pytest.raises(ConfigError, match=number.place):
            load_config(written(tmp_path, number.place, value))


@pytest.mark.parametrize("end", [0, 1], ids=["low", "high"])
@pytest.mark.parametrize("number", [n for n in of_file() if n.place not in SERVED], ids=str)
def test_the_ends_are_accepted_and_work(number: Number, end: int, tmp_path: Path) -> None:
    value = int(number.ends[end]) if number.whole else float(number.ends[end])
    USES[number.place](load_config(written(tmp_path, number.place, value)), tmp_path)


@pytest.mark.parametrize("end", [0, 1], ids=["low", "high"])
@pytest.mark.parametrize("number", [n for n in of_file() if n.place in SERVED], ids=str)
def test_a_service_answers_at_the_ends(number: Number, end: int, tmp_path: Path, opened: Callable[..., Any]) -> None:
    name = number.place.partition(".")[2]
    value = int(number.ends[end]) if number.whole else float(number.ends[end])
    service = load_config(written(tmp_path, number.place, value)).service
    assert getattr(service, name) == value
    client = client_of(opened(**{name: value}))
    assert len(listed(client, user="u3", k=4, explain=True, diversity="mmr")) == 4


# -- [rules] -----------------------------------------------------------------------------------------------------------

NEEDED = {"caps": {"per": "genre"}, "shares": {"of": "genre = 'odd'"}, "exposure": {"of": "genre = 'odd'"}}
OWNERS = {**rules._LISTS, **rules._TABLES}


def of_rules() -> list[tuple[str, Param]]:
    return [
        (name, declared)
        for name, owner in OWNERS.items()
        for declared in params_of(owner).values()
        if declared.kind in ("int", "float")
    ]


def rule(name: str, key: str, value: Any) -> dict[str, Any]:
    table = {**NEEDED.get(name, {}), key: value}
    return {name: [table] if name in rules._LISTS else table}


@pytest.fixture(scope="module")
def answered() -> Callable[[dict[str, Any]], int]:
    """The number of items that a list of 6 has under rules."""
    data = shop()
    model = Pipeline.wrapping(Popular().fit(data))

    def ask(table: dict[str, Any]) -> int:
        answers = Answers(model, data.items, kinds=data.kinds, rules=Rules.from_dict(table))
        answer = answers.ask(Request(user="u3", k=6, visit=3, shown={"i3": 1}, explain=True))
        assert len(set(answer.items)) == len(answer.items)
        return len(answer.items)

    return ask


@pytest.mark.parametrize(("name", "declared"), of_rules(), ids=lambda part: getattr(part, "name", part))
def test_rules_at_the_ends(name: str, declared: Param, answered: Callable[[dict[str, Any]], int]) -> None:
    low, high = declared.range
    assert low is not None
    assert high is not None
    for value in (low, high):
        assert answered(rule(name, declared.name, int(value) if declared.kind == "int" else value)) == 6
    whole = declared.kind == "int"
    beyond = [low - 1, high + 1] if whole else [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]
    for value in [*beyond, math.nan, math.inf, "many", True]:
        with pytest.raises(ConfigError, match=declared.name):
            Rules.from_dict(rule(name, declared.name, value))


@pytest.mark.parametrize("amount", ["0.000001", "1000000", "3e38"])
@pytest.mark.parametrize("key", ["multiply", "add"])
def test_boosts_of_any_size_give_a_list(key: str, amount: str, answered: Callable[[dict[str, Any]], int]) -> None:
    assert answered({"boosts": [{"when": "genre = 'odd'", key: amount}]}) == 6


@pytest.mark.parametrize(
    ("slot", "good"), [(1, True), (1000, True), (0, False), (-1, False), (1001, False), (10**30, False)]
)
def test_pins_at_the_ends(slot: int, good: bool, answered: Callable[[dict[str, Any]], int]) -> None:
    if good:
        assert answered({"pins": {str(slot): "i1"}}) == 6
        return
    with pytest.raises(ConfigError, match=r"rules\.pins"):
        Rules.from_dict({"pins": {str(slot): "i1"}})


# -- [placements] ------------------------------------------------------------------------------------------------------


def of_placements() -> list[Number]:
    return list(numbers(PlacementSettings, without=("boosts", "pins", "policy")))  # as in [rules], above


@pytest.mark.parametrize("number", of_placements(), ids=str)
def test_placements_at_the_ends(number: Number) -> None:
    data = shop()
    answers = Answers(Pipeline.wrapping(Popular().fit(data)), data.items)
    for value in number.ends:
        made = validate_setting("home", {number.place: value}, answers)
        assert getattr(made, number.place) == value
    for value in number.beyond:
        if value is not True:  # read from JSON, where true is not 1, but pydantic takes it for one
            with pytest.raises(ConfigError, match=number.place):
                validate_setting("home", {number.place: value}, answers)


def of_policies() -> list[Number]:
    """Numbers of a placement's policy but its hyperparameters, which `Param` checks."""
    return [
        *numbers(PolicySettings, "policy.", without=("settings", "rewards", "exploration")),
        *numbers(ExplorationSettings, "policy.exploration.", without=("slot_shares",)),
        *numbers(RewardRule, "policy.rewards.click."),
    ]


def with_policy(place: str, value: Any) -> dict[str, Any]:
    """Settings of a placement with a policy that has one number."""
    _, *names = place.split(".")
    inner: Any = value
    if "rewards" in names and names[-1] != "reward":
        inner = {names.pop(): value, "reward": 1}
    for name in reversed(names):
        inner = {name: inner}
    return {"policy": {"kind": "beta_bernoulli", **inner}}


@pytest.mark.parametrize("number", of_policies(), ids=str)
def test_policies_at_the_ends(number: Number) -> None:
    data = shop()
    answers = Answers(Pipeline.wrapping(Popular().fit(data)), data.items)
    for value in number.ends:
        made: Any = validate_setting("home", with_policy(number.place, value), answers)
        for name in number.place.split("."):
            made = made[name] if isinstance(made, dict) else getattr(made, name)
        assert made == value
    for value in number.beyond:
        if value is not True:
            with pytest.raises(ConfigError, match=r"policy\."):
                validate_setting("home", with_policy(number.place, value), answers)


@pytest.mark.parametrize(("slot", "good"), [("1", True), ("1000", True), ("0", False), ("1001", False)])
def test_shares_of_slots_at_the_ends(slot: str, good: bool) -> None:
    settings = {"policy": {"kind": "beta_bernoulli", "exploration": {"slot_shares": {slot: 0.5}}}}
    data = shop()
    answers = Answers(Pipeline.wrapping(Popular().fit(data)), data.items)
    if good:
        made = validate_setting("home", settings, answers).policy
        assert made is not None
        assert made.exploration.slot_shares == {int(slot): 0.5}
        return
    with pytest.raises(ConfigError, match="slot_shares"):
        validate_setting("home", settings, answers)


@pytest.mark.parametrize(("slot", "good"), [("1", True), ("1000", True), ("0", False), ("1001", False)])
def test_pins_of_placements_at_the_ends(slot: str, good: bool) -> None:
    data = shop()
    answers = Answers(Pipeline.wrapping(Popular().fit(data)), data.items)
    if good:
        assert validate_setting("home", {"pins": {slot: "i1"}}, answers).pins == {int(slot): "i1"}
        return
    with pytest.raises(ConfigError, match="pins"):
        validate_setting("home", {"pins": {slot: "i1"}}, answers)
