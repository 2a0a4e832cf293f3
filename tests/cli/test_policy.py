"""`zhiyin policy` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.cli.conftest import Command
from zhiyin.service.policy_controls import PolicyControls
from zhiyin.store.store import Store

SETTINGS = {"k": 5, "policy": {"kind": "lin_ts", "mode": "shadow"}}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "zhiyin.toml").write_text('[service]\nstore = "store.db"\n')
    store = Store(tmp_path / "store.db")
    store.put("placements", {"home": {"settings": json.dumps(SETTINGS), "by": "http"},
                             "plain": {"settings": json.dumps({"k": 5}), "by": "http"}})  # fmt: skip
    store.close()
    return tmp_path


def test_policies_are_listed_shown_and_controlled(zhiyin: Command, project: Path) -> None:
    lines = [line.split("\t") for line in zhiyin("policy", "list").stdout.splitlines()]
    assert lines[0][:4] == ["name", "kind", "mode", "snapshot"]
    assert [line[:5] for line in lines[1:]] == [["home", "LinTS", "shadow", "0", "no_snapshot"]]
    assert "mode apprentice" in zhiyin("policy", "promote", "home").stderr
    assert "is not promoted from apprentice to guarded" in zhiyin("policy", "promote", "home", code=1).stderr
    forced = zhiyin("policy", "promote", "home", "--mode", "online", "--force").stderr
    assert "mode online" in forced
    assert "promoted by force" in forced
    assert "mode apprentice" in zhiyin("policy", "rollback", "home").stderr
    assert "killed" in zhiyin("policy", "kill", "home").stderr
    store = Store(project / "store.db")
    assert PolicyControls(store).get("home").killed
    store.close()
    zhiyin("policy", "revive", "home")
    assert "frozen" in zhiyin("policy", "freeze", "home").stderr
    assert "frozen" not in zhiyin("policy", "unfreeze", "home").stderr
    assert "snapshot 0" in zhiyin("policy", "rollback", "home", "--snapshot", "0").stderr
    details = json.loads(zhiyin("policy", "show", "home", "--json").stdout)
    assert [row["by"] for row in details["history"]] == [
        "rollback", "unfreeze", "freeze", "revive", "kill", "rollback", "promote", "promote"
    ]  # fmt: skip
    assert "rollback" in zhiyin("policy", "show", "home").stdout
    demoted = zhiyin("policy", "promote", "home", "--mode", "shadow").stderr
    assert "home is demoted from apprentice to mode shadow" in demoted


def test_mistakes_say_what_to_do(zhiyin: Command, project: Path) -> None:
    assert "has no policy" in zhiyin("policy", "show", "plain", code=1).stderr
    assert "did you mean 'online'" in zhiyin("policy", "promote", "home", "--mode", "onlin", code=1).stderr
    assert "nothing was decided" in zhiyin("policy", "rollback", "home", code=1).stderr
    assert "stored are none" in zhiyin("policy", "rollback", "home", "--snapshot", "7", code=1).stderr
    for command in ("list", "show", "promote", "rollback", "freeze", "unfreeze", "kill", "revive"):
        assert "Examples:" in zhiyin("policy", command, "--help").stdout
