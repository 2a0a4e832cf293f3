"""`zhiyin campaign` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.cli.conftest import Command
from zhiyin.api.ad_requests import CampaignSettings
from zhiyin.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    Store(tmp_path / "store.db").close()
    return tmp_path / "store.db"


def settings_of(path: Path, name: str) -> CampaignSettings:
    store = Store(path)
    columns, _ = store.get("campaigns", name) or ({}, 0)
    store.close()
    return CampaignSettings.model_validate_json(columns["settings"])


def test_a_campaign_from_begin_to_end(zhiyin: Command, store: Path) -> None:
    zhiyin("campaign", "add", "autumn", "f1", "f2", "--bid", "0.35", "--daily-budget", "20", "--at-most", "3",
           "--start", "2026-12-01", "--pacing", "traffic")  # fmt: skip
    settings = settings_of(store, "autumn")
    assert (settings.items, settings.bid_micros, settings.daily_budget_micros) == (["f1", "f2"], 350_000, 20_000_000)
    assert settings.start == 1_796_083_200_000_000
    assert settings.frequency_cap is not None
    assert settings.frequency_cap.at_most == 3
    assert "0.35" in zhiyin("campaign", "list").output
    (listed,) = json.loads(zhiyin("campaign", "list", "--json").stdout)
    assert listed["total"]["spend_micros"] == 0
    zhiyin("campaign", "pause", "autumn")
    assert "paused" in zhiyin("campaign", "show", "autumn").output
    zhiyin("campaign", "pause", "autumn", "--resume")
    assert settings_of(store, "autumn").paused is False
    assert json.loads(zhiyin("campaign", "show", "autumn", "--json").stdout)["version"] == 3
    zhiyin("campaign", "remove", "autumn")
    assert "there is no campaign 'autumn'" in zhiyin("campaign", "show", "autumn", code=1).output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--bid", "much"), "--bid: 'much' is no amount"),
        (("--bid", "0.3333333"), "six decimals"),
        (("--bid", "-1"), "--bid"),
        (("--bid", "nan"), "is no amount"),
        (("--bid", "1", "--end", "soon"), "--end: 'soon' is no day"),
        (("--bid", "1", "--pay", "views"), "pay: 'views'"),
        (("--bid", "9e15"), "bid_micros"),
    ],
)
def test_mistakes_name_the_option(zhiyin: Command, store: Path, options: tuple[str, ...], said: str) -> None:
    assert said in zhiyin("campaign", "add", "c", "f1", *options, code=1).output
    assert zhiyin("campaign", "list", "--json").stdout.strip() == "[]"
