"""The ranker knows of what happened a moment ago: features and lists over HTTP equal those made of the log offline."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("starlette")
pytest.importorskip("lightgbm")

from zhiyin.data.event_schema import StorePosition
from zhiyin.data.histories import Histories
from zhiyin.data.project_config import ServiceSection
from zhiyin.pipeline.answers import Answers
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.rules import Rules
from zhiyin.ranking.feature_builder import FeatureBuilder
from zhiyin.service.feature_index_updater import FeatureIndexUpdater
from zhiyin.service.feature_skew import TOLERANCE, compare
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.service.whatif_replay import OtherConfiguration, WhatIfReplay
from zhiyin.store.decisions import ClosedRow
from zhiyin.store.store import Store

from . import ranked
from .conftest import client_of, eventually
from .ranked import DAY, TRAINED

HOUR = DAY // 24
RULES = Rules.from_dict({
    "filter": "price < 9.5", "caps": [{"per": "genre", "at_most": 4, "strict": True}], "bought": {"purchase": "never"},
    "boosts": [{"when": "genre = 'crime'", "multiply": "1.05"}], "pins": {"3": "i4"},
})  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranked")
    ranked.trained(folder, ranked.log(100).filter(pl.col("time") < TRAINED))
    return folder


@pytest.fixture
def opened(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Opens shops over one version and one store; all of their lists keep their features."""
    monkeypatch.setattr("zhiyin.service.serving_state.POLL_SECONDS", 0.02)
    made: list[Tenant] = []

    def open_shop(bundles: Bundles | None = None, rules: Rules | None = None, **settings: Any) -> Any:
        bundles = bundles or Bundles(home / "bundles")
        if bundles.current is None:
            bundles.promote(1)
        live = ServingState(bundles, Store(tmp_path / "shop.db"), {"rules": rules or Rules()}, several=bool(made))
        keys, shown = Keys.open(live.store)
        section = ServiceSection(**({"budget": 60_000, "log_features": 1.0, "log_features_rate": 10_000} | settings))
        shop = Tenant("ranked", live, keys, section)
        shop.shown = shown or made[0].shown  # type: ignore[attr-defined]
        made.append(shop)
        return client_of(shop)

    yield open_shop
    for shop in made:
        shop.close()


def told(events: pl.DataFrame) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if value is not None} for row in events.iter_rows(named=True)]


def send(client: Any, events: pl.DataFrame) -> None:
    """Events that are kept, and known to the ranker."""
    for part in events.iter_slices(200):
        assert client.post("/v1/events", json={"events": told(part)}).json()["rejected"] == 0
    known(client)


def known(client: Any) -> None:
    eventually(lambda: client.live.now.loaded.index.seq == client.store.last_seq)


def ask(client: Any, user: str, now: int, **more: Any) -> Any:
    answer = client.post("/v1/recommendations", json={"user": user, "k": 8, "now": now, **more})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["method"] == "ranker"
    return body


def traces(client: Any) -> list[Any]:
    eventually(lambda: client.shop.traces.waiting == 0)
    return client.store.traces(limit=10_000)


class Offline:
    """The same lists without the service: all of the log learned anew, and one pipeline over it."""

    def __init__(self, bundles: Bundles, new: pl.DataFrame, rules: Rules) -> None:
        self.model = bundles.get(1).load()
        self.answers = Answers(self.model, ranked.catalogue(), kinds=ranked.KINDS, new=new, rules=rules)

    def answer(self, events: pl.DataFrame, user: str, now: int) -> Any:
        old = events.filter(pl.col("item").is_in(ranked.catalogue()["id"].to_list()))
        data = ranked.data_of(old)
        index = FeatureBuilder.learn(data, self.model.sources_, like=self.model.builder_).index
        own = events.filter(pl.col("user") == user).sort("time", maintain_order=True)
        codes = self.answers.nearest_known_items(self.answers.ids.encode(own["item"]))
        seen = [item for item in own["item"] if item not in set(ranked.catalogue()["id"])]
        history = Histories(
            np.array([0, len(own)]), codes.astype(np.int32),
            own["kind"].replace_strict(ranked.WEIGHTS, return_dtype=pl.Float32).to_numpy(), own["time"].to_numpy(),
            own["kind"].cast(pl.Enum(ranked.KINDS)).to_physical().cast(pl.UInt8).to_numpy(),
            own["value"].cast(pl.Float32).fill_null(np.nan).to_numpy(), np.array([now]), np.array([-1], np.int32),
        )  # fmt: skip
        request = Request(user=user, history=history, seen=seen, k=8, now=now, features="shown", exclude_seen=False)
        return self.answers.ask(request, index=index)


def test_lists_and_features_equal_those_of_the_log(opened: Callable[..., Any], home: Path) -> None:
    """A ranker, rules, new items and late events."""
    client = opened(rules=RULES)
    new = pl.DataFrame({
        "id": ["n0", "n1"], "genre": ["crime", "drama"], "price": [2.0, 3.0], "title": ["rocket orbit", "rose tulip"],
    })  # fmt: skip
    for row in new.iter_rows(named=True):
        key = row.pop("id")
        assert client.put(f"/v1/items/{key}", json=row).status_code == 200
    eventually(lambda: len(client.live.now.ids) == ranked.ITEMS + 2)
    log = ranked.log(100)
    rng = np.random.default_rng(1)
    came = log.filter(pl.col("time").is_between(TRAINED, TRAINED + 6 * DAY, closed="left"))
    item = np.where(rng.random(len(came)) < 0.1, rng.choice(["n0", "n1"], len(came)), came["item"].to_numpy())
    came = came.with_columns(pl.Series("item", item))
    # A quarter arrives up to two days after it was done, some of it from before the version was trained; and some that
    # the version has learned from the files is sent as well.
    days = np.where(rng.random(len(came)) < 0.1, rng.integers(1, 10, len(came)), 0)
    delay = np.where(rng.random(len(came)) < 0.25, rng.integers(0, 2 * DAY, len(came)), 0)
    arrives = came["time"].to_numpy() + delay
    came = came.with_columns(pl.col("time") - pl.Series(days * DAY), pl.Series("arrives", arrives)).sort("arrives")
    assert (came["time"] < TRAINED).sum() > 5
    again = log.filter(pl.col("time") < TRAINED)[-30:]
    offline = Offline(Bundles(home / "bundles"), new, RULES)
    past, rows, lists = log.filter(pl.col("time") < TRAINED), 0, set()
    for day in (1, 2, 4, 6):
        now = TRAINED + day * DAY
        part = came.filter(pl.col("arrives").is_between(now - DAY if day < 4 else now - 2 * DAY, now, closed="left"))
        send(client, pl.concat([part.drop("arrives"), again if day == 2 else again[:0]]))
        past = pl.concat([past, part.drop("arrives")])
        for user in ("u1", "u4", "u7", "nobody"):
            body = ask(client, user, now, exclude_seen=False)
            expected = offline.answer(past, user, now)
            assert [row["item"] for row in body["items"]] == [str(item) for item in expected.items]
            assert np.allclose([row["score"] for row in body["items"]], expected.scores, rtol=1e-6, atol=1e-6)
            trace = client.shop.traces.find(body["list_id"])
            assert trace.head["index"][0] == client.store.last_seq
            logged = dict(zip(trace.arrays["feature_items"].tolist(), trace.arrays["feature_values"]))
            assert list(logged) == expected.features.items.tolist()
            assert np.allclose(
                np.stack(list(logged.values())), expected.features.values, rtol=1e-6, atol=1e-6, equal_nan=True
            )
            rows += len(logged)
            lists.add(tuple(row["item"] for row in body["items"]))
    assert rows > 60
    assert len(lists) > 8  # they change with what happens
    found = compare(client.shop.list_service, traces(client))
    assert found.within
    assert (found.lists, found.left_out) == (16, {})
    for trace in traces(client):
        assert client.shop.list_service.replays.replay(trace)[0]


@pytest.mark.parametrize("days", [1, 7, 30])
def test_windowed_counts_some_days_after_training(opened: Callable[..., Any], days: int) -> None:
    """Frozen, a one-day count is 0 a day after training, and all are after a month."""
    client, log = opened(), ranked.log(100)
    now = TRAINED + days * DAY
    send(client, log.filter(pl.col("time").is_between(TRAINED, now, closed="left")))
    body = ask(client, "nobody", now)
    trace = client.shop.traces.find(body["list_id"])
    names = client.live.now.loaded.model.builder_.number_names
    values = trace.arrays["feature_values"]
    whole = ranked.data_of(log.filter(pl.col("time") < now))
    builder = client.live.now.loaded.model.builder_
    index = FeatureBuilder.learn(whole, client.live.now.loaded.model.sources_, like=builder).index
    for window in index.windows:
        column = values[:, names.index(f"item events {window}")]
        items = whole.item_ids.encode([row["item"] for row in body["items"]])
        from zhiyin.core.durations import microseconds

        begin = now - microseconds(window)
        counts = log.filter(pl.col("time").is_between(begin, now, closed="left")).group_by("item").len()
        per_item = np.zeros(ranked.ITEMS)
        per_item[whole.item_ids.encode(counts["item"])] = counts["len"].to_numpy()
        assert np.allclose(column, np.log1p(per_item[items]), rtol=1e-6), window
        assert column.max() > 0


def test_reasons_tell_what_the_ranker_read(opened: Callable[..., Any]) -> None:
    client = opened()
    now = TRAINED + 20 * DAY
    send(client, ranked.log(100).filter(pl.col("time").is_between(TRAINED, now, closed="left")))
    body = ask(client, "u5", now, explain=True)
    trace = client.shop.traces.find(body["list_id"])
    names = client.live.now.loaded.model.builder_.number_names
    rows = dict(
        zip(client.live.now.context.item_ids.raw(trace.arrays["feature_items"]), trace.arrays["feature_values"])
    )
    compared = 0
    for row in body["items"]:
        for one in row["reason"]["features"]:
            if one["value"] is not None:
                logged = rows[row["item"]][names.index(one["feature"])]
                assert one["value"] == pytest.approx(float(logged), nan_ok=True)
                compared += one["feature"].startswith("item ")
    assert compared


def test_every_process_follows_the_log(opened: Callable[..., Any]) -> None:
    one, other = opened(), opened()
    came = ranked.log(100).filter(pl.col("time").is_between(TRAINED, TRAINED + DAY, closed="left"))
    send(one, came)
    known(other)
    lists = [ask(client, "u3", TRAINED + DAY)["items"] for client in (one, other)]
    assert lists[0] == lists[1]


@pytest.mark.slow
def test_another_version_begins_where_it_has_learned(opened: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    """Events that a version has learned are not counted twice."""
    bundles = ranked.trained(tmp_path, ranked.log(100).filter(pl.col("time") < TRAINED))
    bundles.promote(1)
    client = opened(bundles)
    came = ranked.log(100).filter(pl.col("time").is_between(TRAINED, TRAINED + 2 * DAY, closed="left"))
    first, second = came[: len(came) // 2], came[len(came) // 2 :]
    send(client, first)
    position = client.store.last_seq
    learned = pl.concat([ranked.log(100).filter(pl.col("time") < TRAINED), first])
    ranked.trained(tmp_path, learned, 2, StorePosition(client.store.identity, position), len(first))
    send(client, second)
    bundles.promote(2)
    eventually(lambda: client.live.now.version == 2)
    index = client.live.now.loaded.index
    assert (index.learned_seq, index.seq, index.events) == (position, client.store.last_seq, len(second))
    now = TRAINED + 2 * DAY
    trace = client.shop.traces.find(ask(client, "u2", now)["list_id"])
    values, items = trace.arrays["feature_values"], trace.arrays["feature_items"]
    whole = pl.concat([ranked.log(100).filter(pl.col("time") < TRAINED), came])
    counts = dict(whole.group_by("item").len().iter_rows())
    column = client.live.now.loaded.model.builder_.number_names.index("item events")
    expected = [np.log1p(counts[item]) for item in client.live.now.context.item_ids.raw(items)]
    assert np.allclose(values[:, column], expected, rtol=1e-6)


def test_who_is_forgotten_leaves_the_counts(opened: Callable[..., Any]) -> None:
    client = opened()
    now = TRAINED + DAY
    one = pl.DataFrame({"user": ["gone"] * 40, "item": ["i5"] * 40, "time": now - np.arange(40) - 1, "kind": "view"})
    other = one.with_columns(pl.lit("stays").alias("user"), pl.lit("i6").alias("item"))
    send(client, pl.concat([one, other]))
    before = ask(client, "nobody", now, include=["i5", "i6", "i7"])
    assert client.delete("/v1/users/gone").status_code == 200
    eventually(lambda: client.live.now.loaded.index.events == 40)
    after = ask(client, "nobody", now, include=["i5", "i6", "i7"])
    column = client.live.now.loaded.model.builder_.number_names.index("item events 1d")
    counts = []
    for body in (before, after):
        trace = client.shop.traces.find(body["list_id"])
        items = client.live.now.context.item_ids.raw(trace.arrays["feature_items"])
        counts.append(dict(zip(items, np.rint(np.expm1(trace.arrays["feature_values"][:, column])).tolist())))
    assert counts[0]["i5"] - counts[1]["i5"] == 40
    assert counts[0]["i6"] == counts[1]["i6"]
    found = compare(client.shop.list_service, traces(client))
    assert found.lists == 1
    assert found.left_out == {"events that its ranker knew of were deleted since": 1}
    assert found.within


def test_a_difference_is_found_and_named(opened: Callable[..., Any]) -> None:
    client = opened()
    send(client, ranked.log(100).filter(pl.col("time").is_between(TRAINED, TRAINED + DAY, closed="left")))
    ask(client, "u1", TRAINED + DAY)
    found = client.shop.skew.compare_recent()
    assert found.within
    assert found.rows == 8 == client.shop.skew.rows
    text = client.get("/metrics").text
    assert "zhiyin_feature_skew_max 0.0" in text
    assert "zhiyin_feature_rows_compared_total 8.0" in text
    index = client.live.now.loaded.index
    twice = pl.DataFrame({"item": np.arange(ranked.ITEMS), "time": np.full(ranked.ITEMS, TRAINED + DAY - HOUR)})
    index.append(twice, index.seq, 0)  # events that the log does not have
    ask(client, "u1", TRAINED + DAY)
    found = client.shop.skew.compare_recent()
    assert not found.within
    assert found.worst(1)[0][0].startswith("item ")
    assert client.shop.skew.maximum > 1000 * TOLERANCE
    assert "zhiyin_feature_skew_max 0.0" not in client.get("/metrics").text


def test_an_index_that_does_not_follow_the_log_is_found(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened()
    monkeypatch.setattr(FeatureIndexUpdater, "update", lambda self, view, seconds=None: None)
    event = {"user": "u1", "item": "i1", "time": TRAINED}
    assert client.post("/v1/events", json={"events": [event]}).json()["rejected"] == 0
    ask(client, "u1", TRAINED + DAY)
    (trace,) = traces(client)
    object.__setattr__(trace, "time", trace.time + 300_000_000)  # five minutes later
    found = compare(client.shop.list_service, [trace])
    assert found.behind == pytest.approx(300, abs=10)
    assert not found.within


def test_a_start_does_not_wait_for_many_events_and_says_so(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watching thread adds the rest, a slice at a time; until then /ready says that the ranker lacks some."""
    client = opened()
    events = [{"user": f"u{n % 50}", "item": f"i{n % 20}", "time": TRAINED + n} for n in range(100)]
    assert client.post("/v1/events", json={"events": events}).json()["rejected"] == 0
    store, view = client.live.store, client.live.now
    monkeypatch.setattr("zhiyin.service.feature_index_updater.BATCH_EVENTS", 30)
    monkeypatch.setattr("zhiyin.service.serving_state.START_CATCH_UP_SECONDS", 0.0)
    monkeypatch.setattr("zhiyin.service.serving_state.POLL_SECONDS", 1_000.0)
    with contextlib.closing(ServingState(client.live.bundles, store, watch=False)) as whole:
        assert whole.now.loaded.index.events == 100  # nobody would add the rest
        assert whole.health_issues() == []
    started = threading.Event()
    monkeypatch.setattr(ServingState, "_watch", lambda self: started.set())
    with contextlib.closing(ServingState(client.live.bundles, store)) as live:
        assert started.wait(60)
        updater, index = live.index_updater, live.now.loaded.index
        assert index.events == 30
        (issue,) = live.health_issues()
        assert issue.what == "features"
        assert "newest 70 events" in issue.reason
        updater.update(view, 0.0)
        assert index.events == 60
        append, issues = index.append, []
        monkeypatch.setattr(index, "append", lambda *events: (issues.append(live.health_issues()), append(*events)))
        updater.update(view, 60.0)
        assert all(issues)  # while it is at work, too
        assert len(issues) == 2
        assert index.events == 100
        assert live.health_issues() == []


@pytest.mark.slow
def test_the_command_compares_what_the_service_kept(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from zhiyin.cli.main import app

    config = tmp_path / "zhiyin.toml"
    config.write_text('[service]\nlog_features = 1.0\nbudget = 60000\n[rules]\nfilter = "price < 9.5"\n')
    log = ranked.log(62)
    ranked.trained(tmp_path / "models", log.filter(pl.col("time") < TRAINED)).promote(1)
    asked = ["check", "--serving", "--config", str(config)]
    shop, shown = Tenant.open(config)
    shop.shown = shown  # type: ignore[attr-defined]
    client = client_of(shop)
    try:
        empty = CliRunner().invoke(app, asked)
        assert empty.exit_code == 0
        assert "no list with features" in empty.output
        for part in log.filter(pl.col("time") >= TRAINED)[:80].iter_slices(40):
            send(client, part)
            ask(client, "u1", int(part["time"].max()))
        traces(client)
        same = CliRunner().invoke(app, [*asked, "--json"])
        assert same.exit_code == 0, same.output
        found = json.loads(same.stdout)
        assert (found["lists"], found["rows"], found["largest"], found["within"]) == (2, 16, 0.0, True)
        index = client.live.now.loaded.index
        index.append(pl.DataFrame({"item": np.arange(ranked.ITEMS), "time": TRAINED}), index.seq, 0)
        ask(client, "u1", TRAINED + 3 * DAY)
        traces(client)
        differs = CliRunner().invoke(app, asked)
        assert differs.exit_code == 1
        assert "differs" in differs.output
        assert "item events" in differs.output
    finally:
        shop.close()


def test_a_share_of_the_lists_is_kept_and_no_more_a_second() -> None:
    from zhiyin.core.uid import fresh_id
    from zhiyin.service.feature_log import FeatureLog

    second = [0.0]
    half = FeatureLog(0.5, 10_000, clock=lambda: second[0])
    assert 350 < sum(half.chooses(fresh_id()) for _ in range(1000)) < 650
    some = FeatureLog(1.0, 3, clock=lambda: second[0])
    assert sum(some.chooses(fresh_id()) for _ in range(10)) == 3
    second[0] = 1.0
    assert some.chooses(fresh_id())
    assert not FeatureLog(0.0).chooses(fresh_id())


def test_what_if_reads_the_events_that_were_known_then(opened: Callable[..., Any]) -> None:
    """Lists between batches of events, replayed long after: the same configuration is the log, bit for bit."""
    client = opened()
    policy = {"kind": "epsilon_greedy", "settings": {}, "mode": "online", "exploration": {"share": 0.9}}
    assert client.put("/v1/placements/home", json={"k": 4, "policy": policy}).status_code == 200
    later = ranked.log(100).filter(pl.col("time") >= TRAINED)
    for number in range(4):
        send(client, later[150 * number : 150 * (number + 1)])
        for user in ("u3", "u8", "nobody"):
            ask(client, user, TRAINED + number * DAY, placement="home", k=4)
    logged = traces(client)
    assert len({trace.head["index"][0] for trace in logged}) == 4
    client.store.close_decisions([
        ClosedRow(trace.list_id, "home", trace.time, 1, "online", [0.0, 1.0, 0.0, 0.0], 1, 0, trace.time, 0, 0)
        for trace in logged
    ])  # fmt: skip
    other = OtherConfiguration("the same", snapshot="logged")
    replay = WhatIfReplay(client.live, client.shop.placements, other)
    decisions = client.store.closed_decisions("home")
    for decision in [*decisions, decisions[2]]:  # the last one goes back in time
        one = replay.logged_list(decision)
        assert not isinstance(one, str), one
        assert (one.target_probabilities == one.propensities).all()
    assert replay.notes == {}
