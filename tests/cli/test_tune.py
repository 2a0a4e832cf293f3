"""`zhiyin tune`: tries, goes on, stops in time, and writes what it found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def test_what_was_found_is_written_and_used(zhiyin: Command, log: Path) -> None:
    zhiyin("init")
    found = json.loads(zhiyin("tune", "ease", "--trials", "3", "--write", "--json").stdout)
    assert tomllib.loads(Path("zhiyin.toml").read_text())["models"]["EASE"]["reg"] == pytest.approx(
        found["best"]["reg"]
    )
    zhiyin("train", "ease")
    manifest = json.loads(Path("models/ease/model.json").read_text())
    assert manifest["settings"]["reg"] == pytest.approx(found["best"]["reg"])


def test_a_search_goes_on_where_it_stopped(zhiyin: Command, log: Path) -> None:
    zhiyin("init")
    first = json.loads(zhiyin("tune", "ease", "--trials", "2", "--resume", "--json").stdout)
    more = json.loads(zhiyin("tune", "ease", "--trials", "4", "--resume", "--json").stdout)
    assert len(first["trials"]) == 2
    assert len(more["trials"]) == 4
    assert more["trials"][:2] == first["trials"]


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_model(zhiyin: Command, log: Path, tmp_path: Path) -> None:
    """A real signal to a real process in the middle of a long fit."""
    zhiyin("init")
    code = "from zhiyin.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", "als:epochs=10000000"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Dataset("):  # the data stands, the fit is next
            break
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert list((tmp_path / "models").glob("*")) == [] if (tmp_path / "models").exists() else True
