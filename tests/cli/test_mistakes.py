"""What people mistype: the exit code, what to do about it, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("train eese", "did you mean 'EASE'?"),
        ("train als:factor=3", "did you mean 'factors'?"),
        ("train als:factors=-3", "default 64"),
        ("train als -p factors", "name=value"),
        ("recommend", "--history"),
        ("recommend u1", "zhiyin train"),
        ("recommend u1 --model nowhere", "train"),
        ("init", "--force"),
        ("data get movielens-10k", "did you mean"),
    ],
)
def test_a_mistake_says_what_to_do(zhiyin: Command, log: Path, command: str, remedy: str) -> None:
    zhiyin("init")
    assert remedy in zhiyin(*command.split(), code=1).stderr


def test_without_settings(zhiyin: Command) -> None:
    assert "zhiyin init" in zhiyin("train", code=1).stderr


def test_a_missing_file(zhiyin: Command) -> None:
    assert "nowhere.csv" in zhiyin("init", "nowhere.csv", code=1).stderr
    assert "What to do" in zhiyin("check", "nowhere.csv", code=1).stderr


def test_an_unknown_column_and_key(zhiyin: Command, log: Path) -> None:
    zhiyin("init")
    text = Path("zhiyin.toml").read_text()
    Path("zhiyin.toml").write_text(text.replace('item = "item_id"', 'item = "itemid"'))
    assert "did you mean 'item_id'?" in zhiyin("train", code=1).stderr
    Path("zhiyin.toml").write_text(text.replace("user =", "usr ="))
    assert "did you mean 'user'?" in zhiyin("train", code=1).stderr


def test_usage_errors_are_2(zhiyin: Command) -> None:
    zhiyin("trian", code=2)
    zhiyin("train", "--nonsense", code=2)


def test_init_force_overwrites(zhiyin: Command, log: Path) -> None:
    zhiyin("init")
    zhiyin("init", "--force")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(28, "No space left on device", "out.parquet"), "Error: out.parquet: No space left on device\n"),
        (OSError("No space left on device (os error 28)"), "Error: No space left on device (os error 28)\n"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    zhiyin: Command, monkeypatch: pytest.MonkeyPatch, error: OSError, shown: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("zhiyin.cli.project.open_project", refuse)
    assert zhiyin("check", code=1).stderr == shown


def test_an_error_without_a_reason_of_the_system_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from zhiyin.cli.main import app

    def refuse(*_: object, **__: object) -> None:
        raise OSError("a fault of the program")

    monkeypatch.setattr("zhiyin.cli.project.open_project", refuse)
    assert isinstance(CliRunner().invoke(app, ["check"]).exception, OSError)
