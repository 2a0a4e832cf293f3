"""A small project on disk, and a way to run the command line in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zhiyin.cli.main import app

Command = Callable[..., Any]


@pytest.fixture
def zhiyin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`zhiyin("train", "ease")` runs a command in an empty folder; `code` is the exit code it must have."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, list(args))
        assert "Traceback" not in result.output
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two tastes: even users like even items. 40 users, 20 items and their titles."""
    rows = ["user_id,item_id,timestamp"]
    rows += [
        f"u{u},i{item},{1_600_000_000 + 86_400 * step + u}"
        for u in range(40)
        for step in range(6)
        for item in [(2 * ((u // 2 + step * 3) % 10)) + u % 2]
    ]
    (tmp_path / "events.csv").write_text("\n".join(rows) + "\n")
    titles = [f"i{n},Film {n}" for n in range(20)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *titles]) + "\n")
    return tmp_path / "events.csv"
