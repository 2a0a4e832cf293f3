"""Training and serving mean the same by an event: the same events by files, by the store and over HTTP give the same
histories bit for bit; what is not right is refused or set aside everywhere, and changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.examples import examples

pytest.importorskip("starlette")

from hypothesis import given, settings
from hypothesis import strategies as st

from zhiyin.core.errors import DataError
from zhiyin.data.checks import examine
from zhiyin.data.dataset import Dataset
from zhiyin.data.reading import read
from zhiyin.pipeline.model_versions import checksum
from zhiyin.service.version_view import View
from zhiyin.store.memory_state import DirectState, MemoryState
from zhiyin.store.records import Event, validated_event
from zhiyin.store.store import Store

from .conftest import click, listed
from .learning_shop import ALWAYS, DAY, HOUR, ITEMS, NAMES, NOW, Shop, a_shop, as_known, frame, learned, served

RULES: list[dict[str, float] | None] = [
    None, {"stars < 0": -1, "purchase": 5, "view": 1}, {"view >= 3": 2, "stars >= 4": 3, "purchase": 1},
]  # fmt: skip


# -- log ↔ live -------------------------------------------------------------------------------------------------------

_users = st.sampled_from(["u0", "u1", "u2", "new", "newer"])
_kinds = st.sampled_from(["view", "purchase", "dislike", "share", "Hide", "play"])
_values = st.none() | st.sampled_from([-1.0, 0.0, 0.1, 3.0, 4.0, 9e15]) | st.floats(-1e6, 1e6, width=64)
# Few moments, so that many are equal; some are ahead of the clock.
_times = st.integers(-12, 3).map(lambda step: NOW + step * 6 * HOUR)
_events = st.tuples(_users, st.sampled_from(ITEMS), _times, _kinds, _values)
_ways = st.lists(st.tuples(st.sampled_from(["send", "send", "send twice", "send of the file"]), _events), max_size=12)


def send(client: Any, shop: Shop, ways: list[tuple[str, tuple[Any, ...]]]) -> None:
    for number, (way, (user, item, time, kind, value)) in enumerate(ways):
        if way == "send of the file":
            user, item, time, kind, value = shop.rows[number % len(shop.rows)]  # type: ignore[attr-defined]
        event = {"user": user, "item": item, "time": time, "kind": kind, "value": value}
        if way == "send twice":
            event["id"] = f"{shop.store.highest_seq}-{number}"
            assert click(client, event).json()["events"][0]["status"] == "accepted"
        said = click(client, event).json()
        assert said["rejected"] == 0
        assert said["events"][0]["status"] == ("known" if way == "send twice" else "accepted")


@pytest.mark.slow
@settings(max_examples=examples(30), deadline=None)
@given(
    files=st.lists(_events, max_size=8),
    early=_ways,
    late=_ways,
    weights=st.sampled_from(RULES),
    held=st.booleans(),
    asked=st.booleans(),
)
def test_the_same_events_by_training_and_over_http_are_the_same_history(
    files: list[Any], early: Any, late: Any, weights: dict[str, float] | None, held: bool, asked: bool
) -> None:
    whole = [*ALWAYS, *files]
    with a_shop(frame(whole), weights) as shop:
        shop.rows = whole  # type: ignore[attr-defined]
        shop.train()
        with shop.serving() as client:
            send(client, shop, early)
        first = shop.train()
        everyone = ["u0", "u1", "u2", "new", "newer"]
        with shop.serving(MemoryState() if held else DirectState()) as client:
            for user in everyone if asked else []:  # what is at hand must not hide what comes
                assert served(client, user) == learned(first, user)
            send(client, shop, late)
            here = client.live.view()  # the service takes up the next version by itself
            second = shop.train()
            there = View.of(client.live.load(shop.bundles.get(3)), {}, 0)
            for user in everyone:
                assert served(client, user, here) == as_known(learned(second, user), first.schema.kinds), user
                assert served(client, user, there) == learned(second, user), user


@pytest.mark.slow
@pytest.mark.parametrize("state", ["memory", "direct", "redis"])
def test_an_event_counts_whatever_its_time(state: str, request: pytest.FixtureRequest) -> None:
    """A late upload, a clock that is slow, a session that began before: acknowledged is counted, in every state."""
    with a_shop(frame([*ALWAYS, ("u1", "i2", NOW - 2 * DAY, "view", None)])) as shop:
        first = shop.train()
        for client in _serving(shop, state, request):
            before = served(client, "u1")
            assert before == learned(first, "u1")
            late = [("i3", NOW - 3 * DAY, "view"), ("i4", NOW - 2 * DAY, "purchase"), ("i5", NOW - 400 * DAY, "share")]
            for item, time, kind in late:
                click(client, {"user": "u1", "item": item, "time": time, "kind": kind})
                assert item in [row[0] for row in served(client, "u1")]
            assert [row[0] for row in served(client, "u1")] == ["i5", "i3", "i2", "i4"]
            second = shop.train()
            there = View.of(client.live.load(shop.bundles.get(2)), {}, 0)
            assert served(client, "u1", there) == learned(second, "u1")
            assert not {"i2", "i3", "i4", "i5"} & set(listed(client, user="u1", k=6, exclude_seen=True))


def _serving(shop: Shop, state: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    if state == "redis":
        from zhiyin.store.redis_state import RedisState

        with shop.serving(RedisState(request.getfixturevalue("redis_url"))) as client:
            yield client
    else:
        with shop.serving(MemoryState() if state == "memory" else DirectState()) as client:
            yield client


def test_sessions_count_whole_beside_the_user() -> None:
    with a_shop(frame([*ALWAYS, ("visit", "i5", NOW - 5 * DAY, "view", None)])) as shop:
        with_store = {"user": "visit", "item": "i4", "time": NOW - 30 * DAY}
        shop.train()
        with shop.serving() as client:
            click(client, with_store, {"user": "visit", "item": "i3", "time": NOW - 29 * DAY})
        shop.train()
        with shop.serving() as client:
            view = client.live.view()
            items = view.ids.raw(client.live.user_history(view, "u0", "visit").history.items)
            assert items == ["i4", "i3", "i0", "i1"]
            assert view.ids.raw(client.live.user_history(view, "u0", "u0").history.items) == ["i0", "i1"]


def test_a_version_saved_without_a_schema_is_served(tmp_path: Path) -> None:
    """Its kinds are those of its catalogue, its weights those of the settings, and what it learned is told by what
    stands in its histories."""
    shop = Shop(tmp_path, frame(ALWAYS))
    shop.store.append([Event("u0", "i2", NOW - 3 * DAY, "view"), Event("u0", "i3", NOW - 2 * DAY, "purchase", -1.0)])
    data = shop.train()
    manifest = tmp_path / "bundles/0001/model/model.json"
    said = json.loads(manifest.read_text())
    assert said.pop("schema") is not None
    assert said.pop("position") == {"store": shop.store.identity, "seq": 2}
    manifest.write_text(json.dumps(said))
    (tmp_path / "bundles/0001/model/history.stored.npy").unlink()
    bundle = tmp_path / "bundles/0001/bundle.json"
    whole = json.loads(bundle.read_text())
    del whole["files"]["model/history.stored.npy"]
    whole["files"]["model/model.json"] = checksum(manifest)
    bundle.write_text(json.dumps(whole))
    with shop.serving() as client:
        assert served(client, "u0") == learned(data, "u0")
        click(client, {"user": "u0", "item": "i4", "time": NOW - 5 * DAY, "kind": "dislike"})
        assert [row[0] for row in served(client, "u0")] == ["i0", "i1", "i4", "i2", "i3"]
    shop.weights = {"stars >= 4": 2, "share": 3, "view": 1}
    with shop.serving() as client:
        click(client, *({"user": "x", "item": "i0", "kind": kind, "value": value}
                        for kind, value in (("view", 5), ("share", 1), ("view", None), ("buy", 3))))  # fmt: skip
        weights = client.live.user_history(client.live.view(), "x").history.weights
        assert sorted(weights.tolist()) == [0, 1, 2, 3]
    shop.store.close()


def test_another_store_is_not_taken_for_the_one_that_was_learned(tmp_path: Path) -> None:
    """Sequence numbers of another store say nothing: an event is learned where it stands in the history."""
    shop = Shop(tmp_path, frame(ALWAYS))
    shop.store.append([Event("u0", f"i{n % 6}", NOW - 50 * DAY + n, "view") for n in range(20)])
    data = shop.train()
    shop.store.export(tmp_path / "export")
    shop.store.close()
    shop.store = Store(tmp_path / "other.db", clock=lambda: NOW)
    shop.store.append([Event("u0", "i5", NOW - DAY, "view")])  # its number is one that the version has learned
    shop.store.load(tmp_path / "export")
    with shop.serving() as client:
        assert len(served(client, "u0")) == data.n_events + 1
        assert served(client, "u0")[:-1] == learned(data, "u0")
    shop.store.close()


def test_a_kind_nobody_has_seen_is_no_kind_of_the_rules() -> None:
    from zhiyin.pipeline.rules import Rules

    with a_shop(frame(ALWAYS)) as shop:
        data = shop.train()
        assert data.kinds[0] == "purchase"
        with shop.serving(options={"rules": Rules.from_dict({"bought": {"purchase": "never"}})}) as client:
            click(client, {"user": "x", "item": "i1", "kind": "share"}, {"user": "x", "item": "i2", "kind": "purchase"})
            found = listed(client, user="x", k=6, exclude_seen=False)
            assert "i1" in found
            assert "i2" not in found


def test_what_is_trending_is_what_users_want() -> None:
    with a_shop(frame(ALWAYS)) as shop:
        shop.train()
        with shop.serving() as client:
            events = [{"user": f"a{n}", "item": "i2", "kind": "hide"} for n in range(9)]
            events += [{"user": f"b{n}", "item": "i3", "kind": "view", "value": -1} for n in range(9)]
            events += [{"user": f"c{n}", "item": "i4", "kind": "view"} for n in range(3)]
            events += [{"user": "d", "item": "i5", "kind": "purchase"}]
            click(client, *events)
            view = client.live.view()
            client.live.event_scores.trending.update(view)
            worth = dict(zip(ITEMS, client.live.event_scores.trending.scores(view).tolist()))
            assert [item for item in ITEMS if worth[item] > -math.inf] == ["i4", "i5"]
            assert worth["i5"] == pytest.approx(5 / 3 * worth["i4"])


# -- bad events -------------------------------------------------------------------------------------------------------

GOOD = {"user": "u0", "item": "i2", "kind": "view", "time": NOW - DAY}
# What is wrong, a part of the reason, and what of it a file can say: a row of texts.
BAD: dict[str, tuple[dict[str, Any], str, tuple[str, ...] | None]] = {
    "the year 2100": ({"time": 4_102_444_800_000_000}, "more than a day ahead", ("u0", "i2", "2100-01-01T00:00:00")),
    "two days ahead": ({"time": NOW + 2 * DAY}, "more than a day ahead", ("u0", "i2", "2023-11-16T22:13:21")),
    "seconds": ({"time": NOW // 1_000_000}, "looks like seconds", None),
    "milliseconds": ({"time": NOW // 1_000}, "looks like milliseconds", None),
    "nanoseconds": ({"time": NOW * 1_000}, "looks like nanoseconds", None),
    "no time at all": ({"time": 0}, "before 1971", ("u0", "i2", "1970-01-01T00:00:00")),
    "before all time": ({"time": -NOW}, "before 1971", ("u0", "i2", "1916-02-17T01:46:40")),
    "a fraction": ({"time": 1.5}, "no moment", None),
    "a word for a time": ({"time": "yesterday"}, "no moment", ("u0", "i2", "yesterday")),
    "truth for a time": ({"time": True}, "no moment", None),
    "no user": ({"user": ""}, "user", ("", "i2", "2023-11-13T22:13:20")),
    "a number for a user": ({"user": 7}, "user", None),
    "no item": ({"item": None}, "item", ("u0", "", "2023-11-13T22:13:20")),
    "a long item": ({"item": "i" * 300}, "item", None),
    "half a character": ({"user": "\ud800"}, "half a character", None),
    "a control character": ({"item": "i\x002"}, "item", None),
    "an empty kind": ({"kind": ""}, "kind", None),
    "a long kind": ({"kind": "k" * 65}, "kind", None),
    "a list for a kind": ({"kind": ["view"]}, "kind", None),
    "a word for a value": ({"value": "much"}, "value", ("u0", "i2", "2023-11-13T22:13:20", "view", "much")),
    "no number": ({"value": math.nan}, "value", None),
    "no end of it": ({"value": math.inf}, "value", ("u0", "i2", "2023-11-13T22:13:20", "view", "inf")),
    "more than can be learned": ({"value": 1e39}, "value", ("u0", "i2", "2023-11-13T22:13:20", "view", "1e39")),
    "the first value beyond": (
        {"value": 2**53},
        "value",
        ("u0", "i2", "2023-11-13T22:13:20", "view", "9007199254740992"),
    ),
    "the first below": (
        {"value": -(2.0**53)},
        "value",
        ("u0", "i2", "2023-11-13T22:13:20", "view", "-9007199254740992.0"),
    ),
    "between both bounds of old": ({"value": 1e30}, "value", ("u0", "i2", "2023-11-13T22:13:20", "view", "1e30")),
    "truth for a value": ({"value": True}, "value", None),
    "an empty id": ({"id": ""}, "id", None),
    "a long list": ({"list_id": "l" * 300}, "list_id", None),
    "a field nobody knows": ({"weight": 3}, "weight", None),
}
TEXTS = [(u, i, str(np.datetime64(t, "us")), k, "" if v is None else str(v)) for u, i, t, k, v in ALWAYS]


def csv(path: Path, *more: tuple[str, ...]) -> Path:
    lines = ["user,item,time,kind,stars", *(",".join((*row, *[""] * (5 - len(row)))) for row in (*TEXTS, *more))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("what", BAD)
def test_a_bad_event_is_refused_or_set_aside_and_nothing_else_changes(what: str, tmp_path: Path) -> None:
    wrong, reason, row = BAD[what]
    with a_shop(csv(tmp_path / "log.csv")) as shop:
        good = shop.train()
        if row is not None:  # read and check
            spoiled = read(csv(tmp_path / "bad.csv", row), items=pl.DataFrame({"id": ITEMS}), columns=NAMES, now=NOW)
            assert spoiled.fingerprint == good.fingerprint
            assert len(spoiled.quarantine) == 1
            assert spoiled.quarantine["line"].item() == 4
            names = [finding.name for finding in examine(spoiled)]
            assert "bad-rows" in names
            assert ("future-times" in names) == ("ahead" in reason)
            with pytest.raises(DataError, match="bad rows in all"):
                read(csv(tmp_path / "bad.csv", row), columns=NAMES, now=NOW, strict=True)
        with shop.serving() as client:  # serve
            before, answer = listed(client, user="u0", k=6), served(client, "u0")
            for post in (_as_json, _as_lines, _in_between):
                said = post(client, GOOD | wrong)
                assert said["status"] == "rejected", said
                assert reason in said["reason"]
                assert ";" in said["reason"], "says what to do"
            assert shop.store.count() == 0
            assert served(client, "u0") == answer
            assert listed(client, user="u0", k=6) == before
        if set(wrong) <= {"time", "value", "user", "item", "kind", "id", "list_id"}:  # whoever writes to the store
            for keep in (shop.store.append, lambda events: _writer(shop.store, events)):
                with pytest.raises(DataError) as caught:
                    keep([Event(**(GOOD | wrong))] if "id" not in wrong else [Event(**(GOOD | {"id": "x" * 300}))])
                assert caught.value.remedy
        assert shop.read().fingerprint == good.fingerprint  # retrain


BOUNDS = [sign * value for sign in (1, -1) for value in (
    2**53 - 1, 2.0**53 - 1, 2**53 - 0.5, 2**53, 2.0**53, 2**53 + 1, 2**63, 1e30, 3.4e38, 1e39, 5e-324, 16777217, 0.1
)]  # fmt: skip


@pytest.mark.parametrize("value", BOUNDS)
@pytest.mark.parametrize("form", ["csv", "csv among words", "jsonl", "frame"])
def test_a_value_is_read_where_it_is_accepted(value: float, form: str, tmp_path: Path) -> None:
    row: dict[str, Any] = {"user": "u0", "item": "i1", "stars": value}
    try:
        kept = validated_event("u0", "i1", NOW, "view", value, None, None, now=NOW).value
    except DataError:
        kept = None
    source: Any = tmp_path / ("log.jsonl" if form == "jsonl" else "log.csv")
    if form == "frame":
        source = pl.DataFrame([row, {"user": "u1", "item": "i1", "stars": 1.0}], strict=False)
    elif form == "jsonl":
        source.write_text("\n".join(json.dumps(one) for one in (row, {"user": "u1", "item": "i1", "stars": 1})))
    else:
        words = "\nu1,i2,4 stars" * 3 if "words" in form else ""
        source.write_text(f"user,item,stars\nu0,i1,{value!r}\nu1,i1,1{words}\n")
    data = read(source, columns={"rating": "stars"})
    found = data.events.filter(pl.col("user") == 0)["value"].to_list() if "u0" in data.users["id"] else []
    assert found == ([] if kept is None else [float(np.float32(kept))])
    assert len(data.quarantine) == (kept is None)
    assert kept is not None or "largest value" in data.quarantine["reason"].item()


def _writer(store: Store, events: list[Event]) -> None:
    from zhiyin.store.group_commit import GroupCommitWriter

    writer = GroupCommitWriter(store)
    try:
        writer.submit(events)
    finally:
        writer.close()


def _as_json(client: Any, event: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"events": [event]})
    return dict(client.post("/v1/events", content=body, headers=JSON).json()["events"][0])


def _as_lines(client: Any, event: dict[str, Any]) -> dict[str, Any]:
    headers = JSON | {"Content-Type": "application/x-ndjson"}
    return dict(client.post("/v1/events", content=json.dumps(event), headers=headers).json()["events"][0])


def _in_between(client: Any, event: dict[str, Any]) -> dict[str, Any]:
    """Beside one that is right but known already, which is not kept again."""
    right = GOOD | {"id": "right", "user": "other"}
    client.post("/v1/events", json={"events": [right]})
    body = json.dumps({"events": [right, event]})
    found = client.post("/v1/events", content=body, headers=JSON).json()
    assert [one["status"] for one in found["events"]] == ["known", "rejected"]
    with client.store.writing() as link:
        link.exec_driver_sql("DELETE FROM events")
    return dict(found["events"][1])


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("moment", [4_102_444_800_000_000, 0, NOW // 1_000])
def test_a_store_that_took_any_time_is_learned_without_it(moment: int) -> None:
    """Stores of older formats may hold such events: they are set aside, and no list is made of them."""
    with a_shop(frame(ALWAYS)) as shop:
        good = shop.train()
        with shop.store.writing() as link:
            link.exec_driver_sql('INSERT INTO events ("user", item, time, kind, value, id, list_id, received) '
                         "VALUES ('u0', 'i2', ?, 'view', NULL, 'old', NULL, 1)", (moment,))  # fmt: skip
        with shop.serving() as client:
            assert served(client, "u0") == learned(good, "u0")
        data = shop.read()
        assert data.fingerprint == good.fingerprint
        assert data.quarantine["line"].to_list() == [1]
        assert ("ahead of the clock" if moment > NOW else "before 1971") in data.quarantine["reason"].item()
        assert data.position is not None
        assert data.position.seq == 1  # it was read, and need not be read again


def test_a_time_a_little_ahead_is_now() -> None:
    with a_shop(frame([*ALWAYS, ("u1", "i2", NOW + HOUR, "view", None)])) as shop:
        data = shop.train()
        assert data.window[1] == NOW
        assert any("ahead of the clock: taken as now" in note for note in data.notes)
        with shop.serving() as client:
            click(client, GOOD | {"user": "x", "time": NOW + DAY - 1})
        assert [event.time for event in shop.store.history("x")] == [NOW]


def test_an_export_is_loaded_without_what_is_not_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with a_shop(None) as shop:
        shop.store.append([Event(**GOOD), Event(**(GOOD | {"item": "i3"}))])
        shop.store.export(tmp_path / "out")
    part = next((tmp_path / "out/events").iterdir())
    frame = pl.read_parquet(part)
    frame.with_columns(time=pl.Series([NOW - DAY, 4_102_444_800_000_000])).write_parquet(part)
    with a_shop(None) as shop:
        assert shop.store.load(tmp_path / "out") == 1
        assert [event.item for event in shop.store.history("u0")] == ["i2"]
    assert "1 events were left out" in caplog.text
    assert "more than a day ahead" in caplog.text


def test_one_event_of_the_year_2100_wrecks_nothing() -> None:
    import zhiyin as zy
    from zhiyin.core.run import Run
    from zhiyin.pipeline.time_windows import plan_windows

    rng, n = np.random.default_rng(0), 4_000
    log = pl.DataFrame({
        "user": [f"u{u}" for u in rng.integers(0, 100, n)], "item": [f"i{i}" for i in rng.integers(0, 50, n)],
        "time": NOW - rng.integers(0, 100, n) * DAY - rng.integers(0, DAY, n),
    })  # fmt: skip
    far = pl.DataFrame({"user": ["x"], "item": ["i1"], "time": [4_102_444_800_000_000]})
    right = Dataset.build(log)
    plan = plan_windows(right, 6, 0.1, True, Run(threads=1)).to_rows()
    assert len(plan) == 7
    for data in (
        Dataset.build(pl.concat([log, far])),
        read(pl.concat([log, far]).with_columns(pl.from_epoch("time", "us"))),
    ):
        assert data.window == right.window
        assert plan_windows(data, 6, 0.1, True, Run(threads=1)).to_rows() == plan
        assert zy.split(data, "time", test="7d").test.n_events > 100
        assert len(zy.folds(data, 3, "7d")) == 3
        assert (zy.Popular(half_life="7d").fit(data).scores_ > 0).all()
        assert len(data.quarantine) == 1
