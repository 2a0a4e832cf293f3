"""A settings file that cannot be used, in part or at all: what can be used is, what cannot is named, and a service that
ran goes on with the settings it ran with."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from zhiyin.core.errors import ConfigError
from zhiyin.data.project_config import Config
from zhiyin.pipeline.answer_settings import hides_everything
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.service import log_format, server
from zhiyin.service.app import create_app
from zhiyin.service.server import Plan
from zhiyin.service.settings import last_good_path, read_settings, settings_of
from zhiyin.service.tenant import Tenant, distinct_names

from .conftest import client_of, eventually, listed
from .test_start import set_aside, works

FILE = Path("zhiyin.toml")


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Opens the shop of a settings file, again and again; gives a client with the admin key."""
    shutil.copytree(home / "bundles", tmp_path / "models" / "bundles")
    Bundles(tmp_path / "models" / "bundles").promote(1)
    running: list[Tenant] = []
    known: dict[str, str] = {}

    def start(text: str) -> Any:
        while running:
            running.pop().close()
        (tmp_path / "zhiyin.toml").write_text(text)
        shop, shown = Tenant.open(tmp_path / "zhiyin.toml")
        known.update(shown)
        shop.shown = known  # type: ignore[attr-defined]
        running.append(shop)
        return client_of(shop)

    yield start
    while running:
        running.pop().close()


def test_what_cannot_be_used_is_named_with_line_and_remedy_and_the_rest_works(start: Callable[[str], Any]) -> None:
    client = start(
        '[service]\nbudget = 60000\nrate = "fast"\nretrain = "soon"\nkeep_lists = "1 year"\n'
        '[rules]\ncaps = [{ per = "genre", at_mots = 2 }]\nbogus = 1\npins = { 0 = "secret-item" }\n'
        'filter = "price < 30"\n[weights]\nview = "much"\n"rating >> 4" = 1\n[answers]\nvariety = "much"\n'
        '[schema]\nitems = { price = "money", title = "text" }\n[plaecments]\nx = 1\n[evaluate]\nk = 3\n'
        '[placements]\nhome = 3\ngood = { k = 3 }\nbad = { filter = "colour = 1" }\n'
    )
    found = set_aside(client)
    assert set(found) == {
        "[service] rate", "[service] retrain", "[service] keep_lists", "[rules] caps", "[rules] bogus", "[rules] pins",
        "[weights] view", "[weights] rating >> 4", "[answers] variety", "[schema] items.price", "[plaecments]",
        "[evaluate] k", "[placements.home]", "[placements.bad]",
    }  # fmt: skip
    assert found["[service] rate"]["reason"] == "line 3: service.rate is not right"
    assert "zhiyin.toml: write a whole number" in found["[service] rate"]["mend"]
    assert "did you mean 'at_most'?" in found["[rules] caps"]["mend"]
    assert found["[rules] bogus"]["reason"].endswith("lists are made without it")
    assert "secret-item" not in json.dumps(found)
    answer = client.post("/v1/recommendations", json={"user": "u1", "k": 40, "fields": ["price"]}).json()
    assert answer["items"]
    assert max(row["columns"]["price"] for row in answer["items"]) < 30
    assert answer["degraded"] == ["rules"]
    assert len(listed(client, placement="good")) == 3
    works(client, "fresh")
    assert client.shop.settings.keep_lists == "100y"  # not what the default would delete
    clean = start("[service]\nbudget = 60000\n")
    assert not set_aside(clean)


@pytest.mark.parametrize(
    "text",
    ['[rules]\nfilter = 5', '[rules]\nfliter = "price < 5"', "[rules]\nexclude = 'i1'", "rules = 5",
     '[rule]\nfilter = "price < 5"', "[rules]\nstock = ['a']"],
)  # fmt: skip
def test_nothing_is_shown_where_it_is_not_known_what_may_be(start: Callable[[str], Any], text: str) -> None:
    client = start(text + "\n[service]\nbudget = 60000\n")
    found = set_aside(client)
    assert len(found) == 1
    assert next(iter(found.values()))["reason"].endswith("nothing is shown until then")
    answer = client.post("/v1/recommendations", json={"user": "u1", "k": 5}).json()
    assert (answer["items"], answer["degraded"]) == ([], ["rules"])
    assert client.get("/ready").json()["version"] == 1


@pytest.mark.parametrize("text", ['categories = "colour"', 'categories = "colour"\nvariety = "calibrate"'])
def test_variety_over_a_column_that_there_is_not(start: Callable[[str], Any], text: str) -> None:
    client = start(f"[answers]\n{text}\n[service]\nbudget = 60000\n")
    assert set(set_aside(client)) == {"[answers] categories"}
    works(client, "fresh")
    assert client.put("/v1/items/red", json={"colour": "red"}).status_code == 200  # mends it
    eventually(lambda: not set_aside(client))


@pytest.mark.parametrize(
    ("text", "line"),
    [("[service]\nstore = 5", 2), ('[service]\nstroe = "postgresql://db"', 2), ("service = 3", 1),
     ('[servce]\nstore = "x"', 1), ("[train]\noutput = 3", 2), ("[service]\nredis = []", 2), ("x = ", 1),
     ("a = 1\n[b\n", 2), ('a = "\ud800"', None)],
)  # fmt: skip
def test_a_first_start_without_knowing_where_the_data_are_is_refused(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "zhiyin.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        read_settings(file)
    assert caught.value.file == file
    assert caught.value.remedy
    assert caught.value.row == (line or 1)


def damage(file: Path, how: str) -> None:
    if how == "folder":
        file.unlink()
        file.mkdir()
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(
            {"torn": b"[service]\nsto", "binary": b"\xff\xfe\x00", "elsewhere": b"[service]\nstore = 5"}[how]
        )


@pytest.mark.parametrize("how", ["torn", "binary", "elsewhere", "folder", "gone"])
def test_a_later_start_goes_on_with_the_settings_that_were_whole_last(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    from zhiyin.service.settings import report

    file = tmp_path / "zhiyin.toml"
    file.write_text('[service]\nrate = 7\n[rules]\nfilter = "price < 5"\n')
    good = read_settings(file)
    good.save_last_good()
    assert last_good_path(file).stat().st_mode & 0o777 == 0o600
    damage(file, how)
    again = read_settings(file, needed=True)
    assert (again.config, again.answer_settings) == (good.config, good.answer_settings)
    assert [entry.what for entry in again.health_issues] == ["zhiyin.toml"]
    assert "the settings of 20" in again.health_issues[0].reason
    with caplog.at_level(logging.ERROR, logger="zhiyin"):
        report(again)
    assert "zhiyin.toml is not used" in caplog.text
    again.save_last_good()
    assert last_good_path(file).read_text() == good.text


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Opens the shops of settings files as `zhiyin serve` does; gives them and the lines it printed."""
    running: list[Any] = []
    monkeypatch.setattr(log_format, "configure", lambda *_, **__: None)  # the logs of the tests stay as they are

    def start(*files: Path) -> tuple[Any, list[str]]:
        while running:
            running.pop().close()
        lines: list[str] = []
        running.append(
            server._OpenShops(Plan.of([read_settings(file) for file in files]), several=False, say=lines.append)
        )
        return running[-1], lines

    yield start
    for shops in running:
        shops.close()


def test_a_restart_goes_on_with_the_text_of_the_last_start_whatever_was_set_aside_of_it(
    tmp_path: Path, opened: Callable[..., Any]
) -> None:
    file = tmp_path / "zhiyin.toml"
    file.write_text("[service]\nrate = 7\n")
    opened(file)
    file.write_text('[service]\ncolour = 5\nrate = 8\n[rules]\nnonsense = 3\nfilter = "price < 5"\n')
    opened(file)
    file.write_text("[[[[")
    (shop,) = opened(file)[0].shops
    assert shop.settings.rate == 8
    assert shop.live.options["rules"].filter == "price < 5"
    told = {entry.what: entry.reason for entry in shop.health_issues()}
    assert told.keys() >= {"zhiyin.toml", "[service] colour", "[rules] nonsense"}
    assert told["zhiyin.toml"].startswith("line 1: this is not TOML")
    assert not told["[service] colour"].startswith("line")  # zhiyin.toml has no such line any more
    (shop,) = opened(file)[0].shops
    assert shop.settings.rate == 8


def test_a_first_start_that_is_refused_keeps_no_text(tmp_path: Path, opened: Callable[..., Any]) -> None:
    file = tmp_path / "zhiyin.toml"
    for text in ("[[[[", "[service]\nstore = 5\n"):
        file.write_text(text)
        with pytest.raises(ConfigError):
            opened(file)
        assert not last_good_path(file).exists()


def test_a_kept_text_that_is_damaged_does_not_hide_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "zhiyin.toml"
    last_good_path(file).write_text("\n\n[")
    file.write_text("[[[[")
    with pytest.raises(ConfigError) as caught:
        read_settings(file)
    assert caught.value.row == 1


def test_shops_whose_folders_have_one_name_are_told_by_the_names_of_their_metrics(
    tmp_path: Path, opened: Callable[..., Any]
) -> None:
    files = [tmp_path / place / "shop" / "zhiyin.toml" for place in ("a", "b")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("")
    shops, lines = opened(*files)
    admin = [line.split(": ") for line in lines if "key to admin" in line]
    assert [name for name, _, _ in admin] == ["shop", "shop-2"]
    assert shops.versions == "shop: no version, shop-2: no version answers"
    client = TestClient(create_app(shops.shops))
    for name, _, key in admin:
        metrics = client.get("/metrics", headers={"Authorization": f"Bearer {key}"}).text
        assert set(re.findall(r'shop="([^"]*)"', metrics)) == {name}


@given(st.lists(st.sampled_from(["shop", "shop-2", "shop-3", "shop-2-2", "other"]), max_size=8))
def test_names_of_shops_are_distinct_and_do_not_depend_on_the_shops_behind_them(names: list[str]) -> None:
    distinct = distinct_names(names)
    assert len(set(distinct)) == len(names)
    assert distinct_names(names[:-1]) == distinct[:-1]
    if len(set(names)) == len(names):
        assert distinct == names


def test_a_worker_waits_while_the_database_server_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr(log_format, "configure", lambda *_, **__: None)
    with socket.create_server(("127.0.0.1", 0)) as door:
        nobody = door.getsockname()[1]
    monkeypatch.setenv("SHOP_STORE", f"postgresql://shop:secret@127.0.0.1:{nobody}/shop")
    file = tmp_path / "zhiyin.toml"
    file.write_text('[service]\nstore = "${SHOP_STORE}"\n')
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            monkeypatch.setenv("SHOP_STORE", str(tmp_path / "store.db"))

    monkeypatch.setattr(server, "time", SimpleNamespace(sleep=sleep))
    with caplog.at_level(logging.WARNING, logger="zhiyin"):
        shops = server._open_worker(Plan.of([read_settings(file)], workers=2))
    with contextlib.closing(shops):
        assert shops.shops[0].store.address.startswith("sqlite")
    assert pauses == [0.25, 0.5, 1, 2, 4, 5, 5, 5]
    assert caplog.text.count("the store cannot be opened") == 8
    assert "secret" not in caplog.text


def test_a_worker_runs_with_the_settings_that_its_parent_read(tmp_path: Path) -> None:
    file = tmp_path / "zhiyin.toml"
    file.write_text("[service]\nrate = 7\nkeep = 'x'\n")
    plan = Plan.of([read_settings(file)], workers=2)
    file.write_text("[")
    state = json.loads(json.dumps({**plan.__dict__}))
    assert Plan.from_state(state) == plan
    (settings,) = Plan.from_state(state).settings()
    assert settings.config.service.rate == 7
    assert [entry.what for entry in settings.health_issues] == ["[service] keep"]


def test_no_settings_file_is_all_defaults(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "zhiyin.toml").config == Config()
    with pytest.raises(ConfigError, match="no such"):
        read_settings(tmp_path / "zhiyin.toml", needed=True)


def test_the_file_may_change_to_anything_while_it_runs(start: Callable[[str], Any], tmp_path: Path) -> None:
    client = start("[service]\nbudget = 60000\n[placements.home]\nk = 3\n")
    for text in ("[", "\ud800", "[placements]\nhome = 5\n", '[placements.""]\nk = 1\n'):
        (tmp_path / "zhiyin.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
        eventually(lambda: set_aside(client))
        assert len(listed(client, placement="home")) == 3
    (tmp_path / "zhiyin.toml").write_text("[service]\nbudget = 60000\n[placements.home]\nk = 4\n")
    eventually(lambda: len(listed(client, placement="home")) == 4)
    assert not set_aside(client)


def test_any_values_under_any_keys_are_used_or_named() -> None:
    """Whatever stands under the keys of a service, each is used or named, and no restricting rule is passed over."""
    for seed in range(300):
        draw = random.Random(seed)
        lines: list[str] = []
        keys: dict[str, list[str]] = {}
        for section in draw.sample(["rules", "answers", "weights", "schema", "placements", "evaluate", "tune"], 3):
            field = Config.model_fields[section].annotation
            names = list(getattr(field, "model_fields", {})) or ["filter", "caps", "pins", "view", "nonsense", "bought"]
            keys[section] = draw.sample(names, min(2, len(names)))
            lines += [f"[{section}]", *(f"{name} = {draw.choice(VALUES)}" for name in keys[section])]
        settings = settings_of(FILE, "\n".join(lines))
        named = {entry.what for entry in settings.health_issues}
        assert all(entry.reason and "zhiyin.toml" in entry.remedy for entry in settings.health_issues)
        for key in keys.get("rules", ()):
            kept = getattr(settings.answer_settings["rules"], key, None)
            assert (f"[rules] {key}" in named) == (key in settings.answer_settings["unreadable"]), lines
            assert kept or f"[rules] {key}" in named or settings.config.rules.get(key) in ("", {}, []), lines
        assert hides_everything(settings.answer_settings["unreadable"]) == ("[rules] filter" in named), lines


VALUES = ["5", "-1.5", "true", '""', '"x"', '"price < 5"', "[]", '["a"]', "[1, [2]]", "{}", "{ a = 1 }", "1979-05-27",
          "[{ per = 'genre', at_most = 1 }]", "{ view = 'never' }", "inf", "{ 1 = 'i1' }"]  # fmt: skip
