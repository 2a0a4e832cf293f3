"""Keys: many, named, with an end; revoked everywhere without a restart; the old file still opens."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from zhiyin.core.errors import ConfigError
from zhiyin.core.page_tokens import key_hash
from zhiyin.service import key_cache as module
from zhiyin.service.key_cache import SCOPES, Keys, digest_of
from zhiyin.store.access_keys import MAX_KEYS, AccessKey, KeyConflictError, KeyTable, UnknownKeyError
from zhiyin.store.errors import StoreAwayError
from zhiyin.store.restore import restore
from zhiyin.store.store import Store

from ..conftest import own_schema
from .conftest import client_of, eventually

DAY = 86_400_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store.db")
    yield made
    made.close()


def old_file(folder: Path) -> tuple[Path, dict[str, str]]:
    """keys.json as it was before keys were in the store, and its keys."""
    keys = {scope: f"zy_{scope}_{folder.name}" for scope in ("read", "events", "admin")}
    file = folder / "keys.json"
    file.write_text(json.dumps({scope: key_hash(key) for scope, key in keys.items()}))
    return file, keys


def opens(keys: Keys, key: str) -> set[str]:
    found = keys.find(digest_of(key))
    return set() if found is None or keys.expired(found) else set(found.scopes)


# -- at rest -----------------------------------------------------------------------------------------------------------


def test_first_keys_are_shown_once_and_kept_as_hashes(store: Store) -> None:
    keys, shown = Keys.open(store)
    assert set(shown) == set(SCOPES)
    assert all(opens(keys, key) == {scope} for scope, key in shown.items())
    assert opens(keys, "") == opens(keys, "zy_read_wrong") == set()
    again, nothing = Keys.open(store)
    assert not nothing
    assert opens(again, shown["read"]) == {"read"}
    assert store.path is not None
    for file in store.path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
        assert not any(key.encode() in file.read_bytes() for key in shown.values())
    assert not any(key in repr(keys.all()) or key_hash(key) in repr(keys.all()) for key in shown.values())
    # Whoever revoked all of them is not given new ones by a restart.
    for name in SCOPES:
        keys.revoke(name, last_admin=True)
    assert Keys.open(store)[1] == {}


def test_two_that_start_at_once_make_one_set(store: Store) -> None:
    one, two = KeyTable(store), KeyTable(store)
    first = [AccessKey("admin", frozenset({"admin"}), key_hash("a"), 1)]
    assert one.add_first(first)
    assert not two.add_first([AccessKey("admin", frozenset({"admin"}), key_hash("b"), 1)])
    assert [key.hash for key in two.all()] == [key_hash("a")]


def test_a_key_of_several_scopes_and_its_end(store: Store) -> None:
    now = [1_700_000_000.0]
    Keys.open(store)
    keys = Keys(KeyTable(store), lambda: now[0])
    key, secret = keys.add("shop", ["read", "events"], "90d")
    assert secret.startswith("zy_events_")
    assert opens(keys, secret) == {"read", "events"}
    assert key.expires == key.created + 90 * DAY
    now[0] += 90 * 86_400 - 1
    assert opens(keys, secret) == {"read", "events"}
    now[0] += 1
    assert opens(keys, secret) == set()
    assert keys.find(digest_of(secret)) is not None  # so that it can be said that it expired
    assert keys.page_key() is not None
    keys.revoke("page")
    keys.add("short", ["page"], "1s")
    now[0] += 1
    assert keys.page_key() is None


@pytest.mark.parametrize(("name", "scopes", "expires", "remedy"), [
    ("", ["read"], None, "letters"), ("a b", ["read"], None, "letters"), ("-a", ["read"], None, "letters"),
    ("a" * 65, ["read"], None, "letters"), ("知", ["read"], None, "letters"), ("a\n", ["read"], None, "letters"),
    ("a", ["raed"], None, "read"), ("a", [], None, "read"), ("a", ["page", "read"], None, "another"),
    ("a", ["read"], "soon", "7d"), ("a", ["read"], "0d", "7d"), ("a", ["read"], "101y", "90d"),
])  # fmt: skip
def test_what_no_key_can_be(store: Store, name: str, scopes: list[str], expires: str | None, remedy: str) -> None:
    keys, _ = Keys.open(store)
    before = keys.all()
    with pytest.raises(ConfigError) as error:
        keys.add(name, scopes, expires)
    assert remedy in str(error.value.remedy)
    assert keys.all() == before


def test_names_are_taken_once_and_there_is_an_end_to_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, _ = Keys.open(store)
    keys.add("shop", ["read"])
    with pytest.raises(KeyConflictError, match="already"):
        keys.add("shop", ["events"])
    with pytest.raises(UnknownKeyError) as error:
        keys.revoke("shpo")
    assert error.value.remedy == "did you mean 'shop'?"
    keys.table.import_once([AccessKey(f"k{n}", frozenset({"read"}), key_hash(f"k{n}"), 1) for n in range(MAX_KEYS)])
    assert len(keys.all()) == MAX_KEYS
    with pytest.raises(KeyConflictError, match="as many"):
        keys.add("one-more", ["read"])
    keys.revoke("k1")
    keys.add("one-more", ["read"])


def test_the_last_admin_key_stays(store: Store) -> None:
    now = [time.time()]
    _, shown = Keys.open(store)
    keys = Keys(KeyTable(store), lambda: now[0])
    with pytest.raises(KeyConflictError, match="last admin"):
        keys.revoke("admin")
    keys.add("ops", ["admin"], "1d")
    keys.revoke("admin")
    assert opens(keys, shown["admin"]) == set()
    now[0] += 2 * 86_400
    keys.add("next", ["admin"])
    keys.revoke("ops")  # it had its time, and the next is there
    with pytest.raises(KeyConflictError, match="last admin"):
        keys.revoke("next")


def test_rotation(store: Store) -> None:
    keys, _ = Keys.open(store)
    _, old = keys.add("shop-1", ["read"])
    _, new = keys.add("shop-2", ["read"])
    assert opens(keys, old) == opens(keys, new) == {"read"}
    keys.revoke("shop-1")
    assert (opens(keys, old), opens(keys, new)) == (set(), {"read"})


def test_the_day_of_last_use(store: Store) -> None:
    now = [1_700_000_000.0]
    _, shown = Keys.open(store)
    keys = Keys(KeyTable(store), lambda: now[0])

    def used() -> int | None:
        return {key.name: key.used for key in keys.table.all()}["read"]

    def use() -> None:
        found = keys.find(digest_of(shown["read"]))
        assert found is not None
        keys.use(found)

    assert used() is None
    use()
    assert used() is None  # nothing is written while somebody waits
    keys.follow()
    today = used()
    assert today == 1_700_000_000_000_000 // DAY * DAY
    seq = store.path and store.path.with_name("store.db-wal").stat().st_mtime_ns
    for _ in range(100):
        use()
    keys.follow()
    assert store.path is None or store.path.with_name("store.db-wal").stat().st_mtime_ns == seq  # once a day
    now[0] += 86_400
    use()
    keys.close()
    assert used() == today + DAY


# -- followed ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_revoked_in_one_process_and_refused_in_another(store: Store) -> None:
    keys, shown = Keys.open(store)
    assert store.path is not None
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_revoke, args=(str(store.path),))
    keys.watch(0.01)
    try:
        process.start()
        process.join(60)
        assert process.exitcode == 0
        eventually(lambda: opens(keys, shown["read"]) == set())
        assert opens(keys, shown["events"]) == {"events"}
        assert "made-there" in [key.name for key in keys.all()]
    finally:
        keys.close()


def _revoke(path: str) -> None:
    store = Store(path)
    keys, _ = Keys.open(store, first=False)
    keys.revoke("read")
    keys.add("made-there", ["read"])
    store.close()


def test_a_store_that_is_away_revokes_nothing_and_opens_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys, shown = Keys.open(store)
    plain, asked = keys.table.read, []

    def away() -> tuple[list[AccessKey], list[str]]:
        asked.append(1)
        raise StoreAwayError("the database is away")

    monkeypatch.setattr(keys.table, "read", away)
    keys.watch(0.001)
    eventually(lambda: len(asked) > 3)
    assert opens(keys, shown["read"]) == {"read"}
    assert len([line for line in caplog.messages if "keys:" in line]) == 1
    _, other = Keys.open(store)[0].add("new", ["read"])
    monkeypatch.setattr(keys.table, "read", plain)
    eventually(lambda: opens(keys, other) == {"read"})
    keys.close()


def test_what_was_read_before_a_change_does_not_come_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the store that began before a key was revoked ends after it."""
    import threading

    keys, shown = Keys.open(store)
    plain, reading, go_on = keys.table.read, threading.Event(), threading.Event()

    def slow() -> tuple[list[AccessKey], list[str]]:
        found = plain()
        if threading.current_thread().name == "slow":
            reading.set()
            go_on.wait(10)
        return found

    monkeypatch.setattr(keys.table, "read", slow)
    thread = threading.Thread(target=keys.follow, name="slow")
    thread.start()
    reading.wait(10)
    threading.Timer(0.05, go_on.set).start()
    keys.revoke("read")
    thread.join()
    assert opens(keys, shown["read"]) == set()


def test_on_postgresql_two_machines_share_keys(postgres: str) -> None:
    address = own_schema(postgres)
    one, two = Store(address), Store(address)
    keys, shown = Keys.open(one)
    other, nothing = Keys.open(two)
    assert not nothing
    assert opens(other, shown["admin"]) == {"admin"}
    _, secret = other.add("shop", ["read"], "90d")
    keys.follow()
    assert opens(keys, secret) == {"read"}
    keys.use(keys.find(digest_of(secret)))  # type: ignore[arg-type]
    keys.follow()
    assert {key.name for key in other.all() if key.used is not None} == {"shop"}
    keys.revoke("shop")
    other.follow()
    assert opens(other, secret) == set()
    one.close()
    two.close()


# -- the file of before ------------------------------------------------------------------------------------------------


def test_the_old_file_still_opens(store: Store, tmp_path: Path) -> None:
    file, old = old_file(tmp_path)
    before = file.read_bytes()
    keys, shown = Keys.open(store, file)
    assert not shown
    assert all(opens(keys, key) == {scope} for scope, key in old.items())
    assert [key.name for key in keys.all()] == ["admin", "events", "read"]
    assert file.read_bytes() == before
    keys.add("ops", ["admin"])
    keys.revoke("admin")
    again, shown = Keys.open(store, file)  # what was revoked does not come back with the file
    assert not shown
    assert opens(again, old["admin"]) == set()
    file.write_text(file.read_text() + "\n")
    assert opens(Keys.open(store, file)[0], old["admin"]) == set()
    file.unlink()
    assert opens(Keys.open(store, file)[0], old["read"]) == {"read"}


def test_files_of_two_machines_come_together(store: Store, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, first = old_file(tmp_path / "one")
    two, second = old_file(tmp_path / "two")
    Keys.open(store, one)
    keys, _ = Keys.open(store, two)
    assert all(opens(keys, old[scope]) == {scope} for old in (first, second) for scope in old)
    assert {key.name for key in keys.all()} == {n for s in ("read", "events", "admin") for n in (s, f"{s}-2")}


def test_a_file_cut_anywhere_is_set_aside(store: Store, tmp_path: Path) -> None:
    file, old = old_file(tmp_path)
    whole = file.read_bytes()
    running, _ = Keys.open(store, file)
    running.watch(0.005)
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        keys, shown = Keys.open(store, file)
        assert not shown
        assert [(entry.what, "delete" in entry.remedy) for entry in keys.health_issues()] == [("keys.json", True)]
        assert opens(keys, old["read"]) == {"read"}
        assert opens(running, old["read"]) == {"read"}  # who answers already goes on
    for wrong in (b"[]", b"{}", b"null", b'{"read": 1, "events": 2, "admin": 3}', b"\xff", b"[" * 100_000):
        file.write_bytes(wrong)
        assert Keys.open(store, file)[0].health_issues()
    file.unlink()
    keys, _ = Keys.open(store, file)
    assert opens(keys, old["read"]) == {"read"}
    assert not keys.health_issues()
    running.close()


def test_rows_that_are_no_keys_open_nothing_and_keep_no_other_out(store: Store, tmp_path: Path) -> None:
    keys, shown = Keys.open(store)
    damage: dict[str, list[Any]] = {
        "scopes": ["", " "], "hash": ["", "zz", "A" * 64], "created": ["soon"], "expires": ["never", 1.5],
    }  # fmt: skip
    bad = []
    with sqlite3.connect(store.path) as link:
        for column, values in damage.items():
            for value in values:
                row = {"name": f"bad{len(bad)}", "scopes": "admin", "hash": f"{len(bad):064x}", "created": 1}
                row |= {"expires": None, column: value}
                link.execute(f"INSERT INTO access_keys ({', '.join(row)}) VALUES (?, ?, ?, ?, ?)", list(row.values()))
                bad.append(str(row["name"]))
    keys, again = Keys.open(store)
    assert not again
    assert opens(keys, shown["read"]) == {"read"}
    assert {key.name for key in keys.all()} == set(shown)
    assert sorted(keys.damaged) == sorted(bad)
    assert [entry.reason for entry in keys.health_issues()] == ["8 rows in the store are damaged: they open nothing"]
    with pytest.raises(KeyConflictError):
        keys.add(bad[0], ["read"])
    for name in bad:
        assert keys.revoke(name).scopes == frozenset()
    assert not keys.health_issues()
    assert {key.name for key in keys.all()} == set(shown)


# -- copies of the store -----------------------------------------------------------------------------------------------


def test_a_backup_does_not_bring_back_what_was_revoked(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    keys, shown = Keys.open(store)
    store.backup(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_mode & 0o077 == 0
    keys.revoke("read")
    _, later = keys.add("later", ["read"])
    store.close()
    restore(tmp_path / "store.db", tmp_path / "copy.db")
    assert (tmp_path / "store.db").stat().st_mode & 0o077 == 0
    again = Store(tmp_path / "store.db")
    back, nothing = Keys.open(again)
    assert not nothing
    assert opens(back, shown["read"]) == set()
    assert opens(back, later) == {"read"}
    again.close()
    restore(tmp_path / "elsewhere.db", tmp_path / "copy.db")  # on a new machine: as they were
    other = Store(tmp_path / "elsewhere.db")
    assert opens(Keys.open(other)[0], shown["read"]) == {"read"}
    other.close()


def test_an_export_holds_no_keys(store: Store, tmp_path: Path) -> None:
    _, shown = Keys.open(store)
    folder = store.export(tmp_path / "out")
    for file in folder.rglob("*"):
        assert "key" not in file.name
        assert file.is_dir() or not any(key_hash(key).encode() in file.read_bytes() for key in shown.values())


def test_a_store_from_before_there_were_keys_in_it(tmp_path: Path) -> None:
    import sqlite3

    Store(tmp_path / "store.db").close()
    with sqlite3.connect(tmp_path / "store.db") as link:
        link.execute("DROP TABLE access_keys")
    store = Store(tmp_path / "store.db")
    assert set(Keys.open(store)[1]) == set(SCOPES)
    store.close()


# -- over HTTP ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(opened: Callable[..., Any]) -> Any:
    return client_of(opened())


def by(client: Any, key: str, method: str = "GET", path: str = "/v1/popular", **more: Any) -> Any:
    return client.request(method, path, headers={"Authorization": f"Bearer {key}"}, **more)


def test_keys_over_http(service: Any) -> None:
    made = service.post("/v1/keys", json={"name": "shop", "scopes": ["read"], "expires": "90d"}).json()
    assert by(service, made["key"]).status_code == 200
    assert made["expires"] == made["created"] + 90 * DAY
    told = service.get("/v1/keys")
    assert [key["name"] for key in told.json()["keys"]] == ["admin", "events", "page", "read", "shop"]
    assert made["key"] not in told.text
    assert key_hash(made["key"]) not in told.text
    assert service.post("/v1/keys", json={"name": "shop", "scopes": ["read"]}).status_code == 409
    answer = service.delete("/v1/keys/shpo")
    assert (answer.status_code, answer.json()["remedy"]) == (404, "did you mean 'shop'?")
    assert service.delete("/v1/keys/shop").json() == {"name": "shop", "id": made["id"]}
    refused = by(service, made["key"])
    assert refused.status_code == 401
    assert "revoked" in refused.json()["remedy"]
    assert service.delete("/v1/keys/admin").status_code == 409
    for body in ({"name": "a b", "scopes": ["read"]}, {"name": "a", "scopes": []}, {"name": "a", "scopes": ["all"]},
                 {"name": "a", "scopes": ["read"], "expires": "soon"}, {"scopes": ["read"]}):  # fmt: skip
        assert service.post("/v1/keys", json=body).status_code == 422, body
    answer = service.post("/v1/keys", json={"name": "a", "scopes": ["read", "page"]})
    assert (answer.status_code, answer.json()["field"]) == (422, "scopes")
    for scope in ("read", "events", "page"):
        for method, path in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/read")):
            assert by(service, service.keys[scope], method, path, json={}).status_code == 403


def test_an_expired_key_says_so(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = service.post("/v1/keys", json={"name": "shop", "scopes": ["read"], "expires": "1d"}).json()
    assert by(service, made["key"]).status_code == 200
    monkeypatch.setattr(service.shop.keys, "_clock", lambda: time.time() + 86_401)
    answer = by(service, made["key"])
    assert answer.status_code == 401
    assert "expired" in answer.json()["error"]
    assert [key["expired"] for key in service.get("/v1/keys").json()["keys"] if key["name"] == "shop"] == [True]


def test_a_key_revoked_by_another_program(service: Any) -> None:
    """`zhiyin key revoke` beside a running service."""
    other, _ = Keys.open(service.store, first=False)
    _, secret = other.add("shop", ["read"])
    eventually(lambda: by(service, secret).status_code == 200)
    other.revoke("shop")
    eventually(lambda: by(service, secret).status_code == 401)


def test_each_key_has_its_own_rate(opened: Callable[..., Any]) -> None:
    client = client_of(opened(rate=1))
    one = client.post("/v1/keys", json={"name": "one", "scopes": ["read"]}).json()["key"]
    two = client.shop.keys.add("two", ["read"])[1]
    assert {by(client, one).status_code for _ in range(5)} == {200, 429}
    assert by(client, two).status_code == 200


def test_no_key_in_a_log(service: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    made = service.post("/v1/keys", json={"name": "shop", "scopes": ["page"]}).json()["key"]
    token = by(service, made, "POST", "/v1/tokens", json={"user": "alice"}).json()["token"]
    by(service, token)
    by(service, token[:-1])
    by(service, made)
    assert made not in caplog.text
    assert token[:40] not in caplog.text
    assert module.log.name == "zhiyin"
