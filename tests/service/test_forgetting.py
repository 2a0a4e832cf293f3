"""Of a user who was forgotten nothing is told any more: not by any route, filter, spelling of the id, trace, export,
figure or log, whether the store knew it, the catalogue of the version, or what the version learned."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("starlette")

from zhiyin.client import PageKey
from zhiyin.data.catalogue import Catalogue
from zhiyin.data.dataset import Dataset
from zhiyin.data.project_config import ServiceSection
from zhiyin.models.neighbors import ItemKNN
from zhiyin.pipeline.model_versions import Bundles
from zhiyin.pipeline.rules import Rules
from zhiyin.service.key_cache import Keys
from zhiyin.service.serving_state import ServingState
from zhiyin.service.tenant import Tenant
from zhiyin.store.frequency_counts_file import FileShowings
from zhiyin.store.memory_state import DirectState
from zhiyin.store.records import hash_of
from zhiyin.store.store import Store
from zhiyin.store.trace_writer import TraceWriter

from .conftest import click, client_of, eventually, listed

DAY, NOW = 86_400_000_000, 1_700_000_000_000_000
CAPS = Rules.from_dict({"frequency": {"at_most": 100, "window": "1d"}})
# The user who asks to be forgotten, in a log whose ids are numbers.
USER, BIG = 9, 4_800_000_000_000_000_009
MARKERS = ("catmail7731@example.org", "Catburg7731", "livemail8842@example.org", "livetown8842", "kind9953", 773_100.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version whose catalogue has columns of users, and of whom users are alike."""
    folder = tmp_path_factory.mktemp("forgetting")
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(1, 31), 8)
    users[users == 30] = BIG
    items = 100 + 2 * rng.integers(0, 12, len(users)) + users % 2
    events = pl.DataFrame({"user": users, "item": items, "time": NOW - rng.permutation(len(users)) * DAY // 10,
                           "kind": ["view"] * len(users)})  # fmt: skip
    known = np.unique(users)
    people = pl.DataFrame({
        "id": known, "age": (known % 50 + 20).astype(np.int64), "city": [f"Town{user}" for user in known],
        "email": [MARKERS[0] if user == USER else f"person{user}@example.org" for user in known],
    }).with_columns(city=pl.when(pl.col("id") == USER).then(pl.lit(MARKERS[1])).otherwise("city"))  # fmt: skip
    catalogue = pl.DataFrame({"id": np.unique(items), "title": [f"item {item}" for item in np.unique(items)]})
    data, bundles = Dataset.build(events, items=catalogue, users=people), Bundles(folder / "bundles")
    bundles.write(ItemKNN().fit(data), figures={}, catalogue=Catalogue.of(data))
    bundles.promote(1)
    return folder


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    made: list[Tenant] = []
    known: dict[str, str] = {}

    def open_one(several: bool = False) -> Any:
        """A process that answers; of several, as of all that one `zhiyin serve` starts, with the file they share."""
        state = DirectState(FileShowings(tmp_path / "shared.showings")) if several else None
        store = Store(tmp_path / "store.db")
        live = ServingState(Bundles(folder / "bundles"), store, {"rules": CAPS}, several=several, state=state)
        keys, shown = Keys.open(live.store)
        known.update(shown)
        made.append(Tenant("shop", live, keys, ServiceSection(budget=60_000)))
        made[-1].shown = known  # type: ignore[attr-defined]
        return client_of(made[-1])

    yield open_one
    for tenant in made:
        tenant.close()


def spellings(user: int) -> list[str]:
    """Texts that somebody may take for the id."""
    digits = str(user)
    wide = "".join(chr(0xFF10 + int(digit)) for digit in digits)
    arabic = "".join(chr(0x0660 + int(digit)) for digit in digits)
    return [digits, f"0{digits}", f"00{digits}", wide, arabic, f" {digits}", f"{digits} ", f"+{digits}", f"{digits}.0"]


def live_through(client: Any, user: int | str) -> str:
    """Columns, events, lists and impressions of a user. Returns a list's id."""
    columns = {"email": MARKERS[2], "town": MARKERS[3], "age": 41}
    assert client.patch(f"/v1/users/{user}", json=columns).status_code == 200
    assert click(
        client, {"user": str(user), "item": "101", "kind": MARKERS[4]},
        {"user": str(user), "item": "102", "value": MARKERS[5]},
    ).json()["rejected"] == 0  # fmt: skip
    asked = {"user": str(user), "k": 5, "explain": True, "filter": "user.age = 41"}
    answer = client.post("/v1/recommendations", json=asked).json()
    assert answer["items"][0]["reason"]["because"]
    shown = client.post(f"/v1/impressions/{answer['list_id']}", json={"items": ["101"]})
    assert shown.status_code == 200
    return answer["list_id"]


def everything(client: Any, user: int, list_id: str) -> Iterator[tuple[str, Any]]:
    """What every GET route and every list gives, for every spelling of the id."""
    paths = [path for path, known in client.get("/openapi.json").json()["paths"].items() if "get" in known]
    for path in paths:
        for key in spellings(user) if "{" in path else [""]:
            filled = path.replace("{key}", key).replace("{name}", "default").replace("{list_id}", list_id)
            yield f"GET {filled}", client.get(filled)
            yield f"GET {filled}", client.get(filled, params={"k": 30} if "similar" in filled else None)
    for key in spellings(user):
        body = {"user": key, "k": 5, "explain": True}
        yield f"list of {key!r}", client.post("/v1/recommendations", json=body)
        yield f"rank of {key!r}", client.post("/v1/rank", json={"user": key, "items": ["101", "102", "103"]})
        yield f"page of {key!r}", client.post("/v1/pages", json={"user": key, "widgets": [{"name": "a"}]})
        yield f"list of {key!r}", client.get("/v1/recommendations", params={"user": key, "explain": True})
    yield "replay", client.post(f"/v1/lists/{list_id}/replay")
    for other in ("1", "8", "11", "19", "29"):
        yield f"similar to {other}", client.get(f"/v1/users/{other}/similar", params={"k": 30})


def told(name: str, answer: Any) -> list[str]:
    """Markers that an answer holds."""
    return [f"{name}: {marker}" for marker in MARKERS if str(marker) in answer.text]


@pytest.mark.parametrize("user", [USER, pytest.param(BIG, marks=pytest.mark.slow)])
def test_nothing_of_a_forgotten_user_is_told(
    opened: Callable[..., Any], user: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="zhiyin.access")
    client = opened()
    list_id = live_through(client, user)
    assert client.get(f"/v1/users/{user}").json()["columns"]["city"]
    assert sum(len(told(name, answer)) for name, answer in everything(client, user, list_id)) > 5
    assert any(row["user"] == str(user) for row in client.get("/v1/users/11/similar?k=30").json()["users"])
    stranger = listed(client, user="nobody at all", k=5)
    assert listed(client, user=str(user), k=5) != stranger

    proof = client.delete(f"/v1/users/{user}").json()["proof"]
    assert not any(count for what, count in proof.items() if what.endswith("found"))
    found = [leak for name, answer in everything(client, user, list_id) for leak in told(name, answer)]
    assert not found
    for key in spellings(user):
        assert listed(client, user=key, k=5) == stranger, key
        answer = client.post("/v1/recommendations", json={"user": key, "k": 5, "explain": True}).json()
        assert not any(row["reason"]["because"] for row in answer["items"]), key
        for filter in ("user.email != ''", "user.email LIKE '%@%'", "user.age > 0", "user.town > ''"):
            assert listed(client, user=key, k=5, filter=filter) == [], (key, filter)
        assert client.get(f"/v1/users/{key}").status_code == 404
        assert client.get(f"/v1/users/{key}/history").json()["events"] == []
        assert client.get(f"/v1/users/{key}/similar").status_code == 404
    assert client.get(f"/v1/lists/{list_id}").status_code == 404
    for other in ("1", "8", "11", "19", "29"):
        answer = client.get(f"/v1/users/{other}/similar?k=30").json()
        assert str(user) not in [row["user"] for row in answer["users"]]
        assert len(answer["users"]) >= 10

    # What is written of them later is all that there is.
    assert client.patch(f"/v1/users/{user}", json={"vip": True}).status_code == 200
    assert client.get(f"/v1/users/{user}").json()["columns"] == {"vip": True}
    assert listed(client, user=str(user), k=5, filter="user.vip AND user.email IS NULL") == stranger
    client.delete(f"/v1/users/{user}")

    export = client.store.export(tmp_path / "export")
    for file in [*export.rglob("*"), *tmp_path.glob("store.db*")]:
        held = file.read_bytes() if file.is_file() else b""
        assert not [marker for marker in MARKERS if str(marker).encode() in held], file
    logged = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records
                       if record.name.startswith("zhiyin"))  # fmt: skip
    assert logged
    assert not [marker for marker in (*MARKERS, BIG) if str(marker) in logged]


def test_a_page_token_of_a_forgotten_user_is_a_strangers(opened: Callable[..., Any]) -> None:
    """It opens lists as before, for its user does come back to the page; of what they did before it tells nothing."""
    client = opened()
    live_through(client, USER)
    client.headers["Authorization"] = f"Bearer {PageKey(client.keys['page']).token(user=str(USER))}"
    stranger = {"Authorization": f"Bearer {PageKey(client.keys['page']).token(user='nobody at all')}"}

    def items(headers: dict[str, str] | None = None, **body: Any) -> list[tuple[str, Any]]:
        answer = client.post("/v1/recommendations", json=body, headers=headers).json()
        assert "rejected" not in answer, answer
        return [(row["item"], row["reason"]["because"]) for row in answer["items"]]

    asked = {"k": 5, "explain": True}
    own, unknown = items(**asked), items(stranger, **asked)
    assert own != unknown
    next_page = client.post("/v1/recommendations", json=asked).json()["next"]
    history = f"/v1/users/{USER}/history"
    assert client.get(history).json()["events"]
    admin = {"Authorization": f"Bearer {client.keys['admin']}"}
    assert client.delete(f"/v1/users/{USER}", headers=admin).status_code == 200
    assert items(**asked) == unknown
    assert client.get(history).json()["events"] == []
    assert not any(because for _, because in items(page=next_page, **asked))
    for body in ({"items": ["101", "102"]}, {"widgets": [{"name": "a"}]}):
        answer = client.post("/v1/pages" if "widgets" in body else "/v1/rank", json=body)
        assert not told("page token", answer)
    assert click(client, {"user": str(USER), "item": "104"}).json()["rejected"] == 0
    assert [row["item"] for row in client.get(history).json()["events"]] == ["104"]


PERSON = "person-7741@example.org"


def test_no_file_holds_the_id_and_no_figure_ever_did(opened: Callable[..., Any], tmp_path: Path) -> None:
    """Files of the store and of showings, journals and free pages too, searched for the id; metrics, also of requests
    that failed."""
    one, other = opened(several=True), opened(several=True)
    list_id = live_through(one, PERSON)
    other.post("/v1/recommendations", json={"session": PERSON, "k": 3})
    listed(other, user="somebody", k=3)
    for path in (f"/v1/users/{PERSON}/similar", f"/v1/user/{PERSON}", f"/{PERSON}", f"/v1/lists/{PERSON}"):
        for method in ("GET", "DELETE", "POST"):
            if (method, path) != ("DELETE", f"/v1/users/{PERSON}"):
                other.request(method, path)
    other.post("/v1/pages", json={"user": PERSON, "widgets": [{"name": "a", "placement": PERSON}]})
    for client in (one, other):
        eventually(lambda client=client: client.shop.traces.waiting == 0)  # type: ignore[misc]
    held = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert any(PERSON.encode() in part for part in held.values())
    assert any(hash_of(PERSON).encode() in part for name, part in held.items() if "showings" in name)
    assert one.get(f"/v1/lists/{list_id}").status_code == 200

    proof = one.delete(f"/v1/users/{PERSON}").json()["proof"]
    assert not any(count for what, count in proof.items() if what.endswith("found"))
    for file in tmp_path.iterdir():
        assert PERSON.encode() not in file.read_bytes(), file
        if "showings" in file.name:
            assert hash_of(PERSON).encode() not in file.read_bytes(), file
    for client in (one, other):
        assert PERSON not in client.get("/metrics").text
        assert client.live.state.showing_counts(PERSON) == {}


def test_a_trace_that_waits_in_another_process_is_not_told(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, write, goes_on = opened(several=True), opened(several=True), TraceWriter._write, threading.Event()

    def wait_and_write(traces: TraceWriter, group: list[Any]) -> None:
        goes_on.wait(10)
        write(traces, group)

    monkeypatch.setattr(TraceWriter, "_write", wait_and_write)
    monkeypatch.setattr("zhiyin.service.authentication.TRACE_WAIT_SECONDS", 0.3)  # of a list that is gone
    made = other.post("/v1/recommendations", json={"user": str(USER), "k": 3}).json()["list_id"]
    assert other.get(f"/v1/lists/{made}").status_code == 200
    assert one.delete(f"/v1/users/{USER}").status_code == 200
    assert other.get(f"/v1/lists/{made}").status_code == 404
    assert other.post(f"/v1/lists/{made}/replay").status_code == 404
    goes_on.set()
    eventually(lambda: other.shop.traces.waiting == 0)
    assert other.get(f"/v1/lists/{made}").status_code == 404


def test_another_process_forgets_at_once(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.service.authentication.TRACE_WAIT_SECONDS", 0.3)  # of a list that is gone
    one, other = opened(several=True), opened(several=True)
    list_id = live_through(one, USER)
    stranger = listed(other, user="nobody at all", k=5)
    asked = {"user": str(USER), "k": 5, "filter": "user.age = 41"}
    assert len(listed(other, **asked)) == 5
    assert one.delete(f"/v1/users/{USER}").status_code == 200
    assert listed(other, **asked) == []
    assert listed(other, user=str(USER), k=5) == stranger
    assert other.get(f"/v1/users/{USER}").status_code == 404
    assert other.get(f"/v1/lists/{list_id}").status_code == 404
    other.store.forget(str(USER + 1))  # as `zhiyin forget` does it
    assert one.get(f"/v1/users/{USER + 1}").status_code == 404
    assert listed(one, user=str(USER + 1), k=5) == listed(one, user="nobody at all", k=5)


def test_ids_of_19_digits_are_known(opened: Callable[..., Any]) -> None:
    client = opened()
    assert listed(client, user=str(BIG), k=5) != listed(client, user="nobody at all", k=5)
    assert client.get(f"/v1/users/{BIG}").json()["columns"]["city"] == f"Town{BIG}"
    assert listed(client, user=str(BIG + 1), k=5) == listed(client, user="nobody at all", k=5)


def test_items_are_never_aliased(opened: Callable[..., Any]) -> None:
    client = opened()
    assert client.put("/v1/items/0101", json={"title": "another one"}).status_code == 200
    eventually(lambda: "0101" in listed(client, k=50))
    assert client.put("/v1/items/0102", json={"hidden": True}).status_code == 200
    assert {"101", "0101", "102"} <= set(listed(client, k=50))
    assert client.get("/v1/items/101").json()["columns"]["title"] == "item 101"
    ranked = client.post("/v1/rank", json={"items": ["101", "0101", "\uff11\uff10\uff11", "101.0"]}).json()["items"]
    assert {row["item"] for row in ranked if row["score"] is not None} == {"101", "0101"}
    assert client.get("/v1/items/+101/similar").status_code == 404


def test_a_deleted_item_is_gone_at_once(opened: Callable[..., Any]) -> None:
    client = opened()
    assert client.put("/v1/items/n1", json={"title": "x"}).status_code == 200
    eventually(lambda: "n1" in listed(client, k=50))
    for item in ("n1", "101"):
        assert client.delete(f"/v1/items/{item}").status_code == 200
        assert client.get(f"/v1/items/{item}").status_code == 404
        assert item not in listed(client, k=50)
        assert item not in json.dumps(client.get("/v1/items", params={"k": 50}).json())


@pytest.mark.slow
def test_what_one_process_wrote_counts_in_another_at_once(opened: Callable[..., Any]) -> None:
    one, other = opened(several=True), opened(several=True)
    for number in range(20):
        assert one.put(f"/v1/placements/p{number}", json={"k": 3}).status_code == 200
        assert len(listed(other, placement=f"p{number}")) == 3
        assert one.put("/v1/users/5", json={"age": 20 + number, "city": "Rome"}).status_code == 200
        assert len(listed(other, user="5", k=1, filter=f"user.age = {20 + number}")) == 1
        made = one.post("/v1/recommendations", json={"user": "5", "k": 3}).json()
        shown = other.post(f"/v1/impressions/{made['list_id']}", json={"items": ["101"]})
        assert shown.status_code == 200, shown.text
        assert other.get(f"/v1/lists/{made['list_id']}").status_code == 200
    assert one.delete("/v1/placements/p1").status_code == 200
    assert other.post("/v1/recommendations", json={"placement": "p1"}).status_code == 404
    assert other.get("/v1/placements/p2").status_code == 200
    unknown = other.post("/v1/impressions/" + "0" * 32, json={"items": ["101"]})
    assert unknown.status_code == 404
