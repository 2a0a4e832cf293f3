"""The last scene of the demo: visitors of both shops, a table and a picture."""

from __future__ import annotations

import logging
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zhiyin.cli import learning_scene


@pytest.mark.slow
def test_a_table_and_a_picture_of_both_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learning_scene, "VISITS", 80)
    monkeypatch.setattr(learning_scene, "BEFORE", 20)
    monkeypatch.setattr(learning_scene, "AFTER", 5)
    (tmp_path / "learning" / "static").mkdir(parents=True)
    (tmp_path / "learning" / "static" / "store.db").write_text("of an earlier demo")
    notes: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger("zhiyin"), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger("zhiyin"), "level", logging.INFO)  # as the command line sets it
    learning_scene.play_learning_scene(tmp_path)
    assert "request" not in notes  # no line for each of the requests
    header, static, learning = [line.split("\t") for line in capsys.readouterr().out.splitlines()][-3:]
    assert (header[0], static[0], learning[0]) == ("list", "static", "learning")
    assert float(static[header.index("explored")]) == 0 < float(learning[header.index("explored")])
    picture = ElementTree.fromstring((tmp_path / learning_scene.PICTURE).read_text())
    lines = picture.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
