"""What files leave open is written down by init, and told by --assume."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Command
from zhiyin.data.config import load_config


def test_init_writes_down_what_it_assumed(zhiyin: Command, tmp_path: Path) -> None:
    rows = "".join(f"用户{u},商品{i},{1 + (u + i) % 12:02}/11/2023\n" for u in range(40) for i in range(5))
    (tmp_path / "log.csv").write_bytes(f"user,item,date\n{rows}".encode("gb18030"))
    shown = zhiyin("init", "log.csv").output
    assert "assumed, and written under [read]: encoding, day_first" in shown
    settings = load_config(tmp_path / "zhiyin.toml").read
    assert (settings.encoding, settings.day_first) == ("gb18030", False)
    again = zhiyin("check").output
    assert "may be day" not in again
    zhiyin("init", "log.csv", "--force", "--assume", "day_first=true", "--assume", "encoding=gbk")
    settings = load_config(tmp_path / "zhiyin.toml").read
    assert (settings.encoding, settings.day_first) == ("gbk", True)
    assert "cannot be assumed" in zhiyin("check", "log.csv", "--assume", "day_first=perhaps", code=1).output
    assert "no assumption" in zhiyin("check", "log.csv", "--assume", "day_first", code=1).output
