"""Tables for people and for programs."""

from __future__ import annotations

import sys

import pytest

from zhiyin.cli.output import print_table

HEADERS, ROW = ("rank", "item", "events", "score"), (1, 100_033, 1_234_567, 0.123456)


def test_numbers_in_a_pipe_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(HEADERS, [ROW])
    assert capsys.readouterr().out == "rank\titem\tevents\tscore\n1\t100033\t1234567\t0.1235\n"


def test_on_a_terminal_amounts_have_commas_and_ids_have_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table(HEADERS, [ROW])
    shown = capsys.readouterr().out
    assert "100033" in shown
    assert "1,234,567" in shown
