"""`zhiyin key` as it is typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.cli.conftest import Command
from zhiyin.core.page_tokens import key_hash
from zhiyin.service.key_cache import Keys, digest_of
from zhiyin.store.store import Store


def opens(folder: Path, key: str) -> bool:
    store = Store(folder / "store.db")
    found = Keys.open(store, first=False)[0].find(digest_of(key)) is not None
    store.close()
    return found


def test_made_listed_and_revoked(zhiyin: Command, tmp_path: Path) -> None:
    made = zhiyin("key", "add", "ops", "--scope", "admin")
    assert re.fullmatch(r"zy_admin_[\w-]{43}\n", made.stdout)
    assert "this once" in made.stderr
    key = made.stdout.strip()
    assert opens(tmp_path, key)
    shop = zhiyin("key", "add", "shop", "--scope", "read", "--scope", "events", "--expires", "90d", "--json")
    said = json.loads(shop.stdout)
    assert said["scopes"] == ["events", "read"]
    assert said["expires"] - said["created"] == 90 * 86_400_000_000
    listed = zhiyin("key", "list").stdout
    lines = [line.split("\t") for line in listed.splitlines()]
    assert lines[0] == ["name", "scopes", "id", "created", "expires", "last used"]
    assert [line[:2] for line in lines[1:]] == [["ops", "admin"], ["shop", "events, read"]]
    assert lines[1][4:] == ["never", "never"]
    assert lines[2][2] == said["id"]
    for secret in (key, said["key"]):
        assert secret not in listed
        assert key_hash(secret) not in listed
    assert [row["name"] for row in json.loads(zhiyin("key", "list", "--json").stdout)] == ["ops", "shop"]
    assert said["id"] in zhiyin("key", "revoke", "shop").stderr
    assert not opens(tmp_path, said["key"])


def test_mistakes_say_what_to_do(zhiyin: Command) -> None:
    assert "no key yet" in zhiyin("key", "revoke", "shop", code=1).stderr
    zhiyin("key", "add", "ops", "--scope", "admin")
    assert "zhiyin key revoke ops" in zhiyin("key", "add", "ops", "--scope", "read", code=1).stderr
    assert "did you mean 'ops'?" in zhiyin("key", "revoke", "opps", code=1).stderr
    assert "did you mean 'read'?" in zhiyin("key", "add", "a", "--scope", "raed", code=1).stderr
    assert "7d" in zhiyin("key", "add", "a", "--scope", "read", "--expires", "soon", code=1).stderr
    assert "add another first" in zhiyin("key", "revoke", "ops", code=1).stderr
    zhiyin("key", "revoke", "ops", "--force")
    zhiyin("key", "add", "a", code=2)
    assert "no page token" in _revoked_page_key(zhiyin)
    for command in ("add", "list", "revoke"):
        assert "Examples:" in zhiyin("key", command, "--help").stdout


def _revoked_page_key(zhiyin: Command) -> str:
    zhiyin("key", "add", "web", "--scope", "page")
    return zhiyin("key", "revoke", "web").stderr


def test_keys_of_the_old_file(zhiyin: Command, tmp_path: Path) -> None:
    old = {scope: key_hash(f"zy_{scope}_old") for scope in ("read", "events", "admin")}
    (tmp_path / "keys.json").write_text(json.dumps(old))
    assert len(json.loads(zhiyin("key", "list", "--json").stdout)) == 3
    zhiyin("key", "revoke", "read")
    assert not opens(tmp_path, "zy_read_old")
    assert len(json.loads(zhiyin("key", "list", "--json").stdout)) == 2
    (tmp_path / "keys.json").write_text("{")
    listed = zhiyin("key", "list", "--json")
    assert "keys.json: the keys of this file cannot be read" in listed.stderr
    assert "delete it" in listed.stderr
    assert len(json.loads(listed.stdout)) == 2


def test_settings_that_are_not_there(zhiyin: Command) -> None:
    assert "no such configuration" in zhiyin("key", "list", "-c", "other/zhiyin.toml", code=1).stderr
