"""What files leave open is written down by init, and told by --assume."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from zhiyin.data.project_config import load_config


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


@pytest.mark.parametrize("command", ["check", "train popular", "evaluate popular", "compare popular", "tune ease"])
def test_every_command_that_reads_files_is_told(zhiyin: Command, tmp_path: Path, command: str) -> None:
    """`--assume` overrules the settings for one reading, whichever command reads."""
    rows = "".join(f"{u},{i},{1 + (u * 7 + i) % 12:02}/11/2023\n" for u in range(60) for i in range(u % 5, 20, 3))
    (tmp_path / "log.csv").write_text(f"user,item,date\n{rows}")
    zhiyin("init", "log.csv", "--assume", "day_first=false")
    settings = (tmp_path / "zhiyin.toml").read_text()
    first, *rest = command.split()
    more = ["--trials", "1"] if first == "tune" else []
    shown = zhiyin(first, *rest, *more, "--assume", "day_first=true").output
    assert (tmp_path / "zhiyin.toml").read_text() == settings
    if first != "tune":
        assert "2023-11-01 to 2023-11-12" in shown
    assert "may be day" not in shown
    assert "cannot be assumed" in zhiyin(first, *rest, "--assume", "day_first=perhaps", code=1).output


def test_files_of_a_folder_are_read_as_is_assumed(zhiyin: Command, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = "".join(f"{u}${i}\n" for u in range(30) for i in range(5))
    (tmp_path / "data" / "log.csv").write_text(f"user$item\n{rows}")
    (tmp_path / "data" / "readable.csv").write_text("a$b\nx$y\n")
    assert "no file has both" in zhiyin("init", "data", code=1).output
    shown = zhiyin("init", "data", "--assume", "separator=$").output
    assert "150 events" in shown
    assert "readable.csv: not read" in shown
    assert load_config(tmp_path / "zhiyin.toml").read.separator == "$"
    assert "150 events" in zhiyin("check").output


def test_what_a_query_may_take_is_written_down(zhiyin: Command, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("CREATE TABLE e (user, item)")
        connection.executemany("INSERT INTO e VALUES (?, ?)", [(n % 9, n % 7) for n in range(90)])
    connection.close()
    zhiyin("init", "sqlite:///s.db", "--query", "SELECT * FROM e", "--query-timeout", "2h")
    assert load_config(tmp_path / "zhiyin.toml").data.query_timeout == "2h"
    zhiyin("init", "sqlite:///s.db", "--query", "SELECT * FROM e", "--query-timeout", "soon", "--force", code=1)
