"""Reading is planned from samples, and executed by the plan."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from zhiyin.core.errors import DataError
from zhiyin.data import source_discovery, source_opening
from zhiyin.data.read_plan import plan_read
from zhiyin.data.reading import read

EVENTS = "who;what;when;stars\n" + "\n".join(f"{n};{n % 7};2024-01-{n % 28 + 1:02};{n % 5 + 1}" for n in range(60))
NAMES = {"user": "who", "item": "what", "time": "when", "rating": "stars"}


def test_a_plan_says_how_a_file_is_written_and_its_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(b"sold in May\n" + EVENTS.encode()))
    plan = plan_read(path, columns=NAMES)
    format = plan.events[0].table.format
    assert (format.name, format.compression, format.encoding) == ("delimited text", "gzip", None)
    assert (format.separator, format.quoted, format.header_line) == (";", True, 2)
    columns = {column.name: (column.use, column.dtype) for column in plan.events[0].columns}
    assert columns == {
        "who": ("id", pl.Int32),
        "what": ("id", pl.Int32),
        "when": ("time", pl.String),
        "stars": ("number", pl.Float32),
    }
    text = "\n".join(plan.describe())
    for part in ("gzip", "separator ';'", "header in line 2", "who: id, read as Int32 first", "user = who"):
        assert part in text


def test_an_encoding_and_unused_columns_are_in_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes("user,item,remark\n1,7,grün\n2,8,schön\n".encode("cp1252"))
    plan = plan_read(path, assume={"encoding": "cp1252"})
    assert plan.events[0].table.format.encoding == "cp1252"
    assert plan.unused == ("not used: remark; they describe neither the item nor the user nor the event",)


@pytest.mark.parametrize("columns", [{"time": "nowhen"}, {"item_id": "nokey"}])
def test_a_column_that_is_not_there_is_an_error_of_the_plan(tmp_path: Path, columns: dict[str, str]) -> None:
    (tmp_path / "log.csv").write_text(EVENTS)
    (tmp_path / "items.csv").write_text("id,title\n1,a\n2,b\n")
    with pytest.raises(DataError, match="there is no column"):
        plan_read(tmp_path / "log.csv", items=tmp_path / "items.csv", columns=NAMES | columns)


def test_a_cell_that_does_not_fit_the_type_of_the_sample_is_read_as_it_is_written(tmp_path: Path) -> None:
    rows = [f"{n},{n % 9}" for n in range(400_000)]
    rows[399_990] = "x7,1"
    (tmp_path / "log.csv").write_text("user,item\n" + "\n".join(rows))
    plan = plan_read(tmp_path / "log.csv")
    assert [column.dtype for column in plan.events[0].columns] == [pl.Int32, pl.Int32]
    data = read(tmp_path / "log.csv")
    assert data.n_events == 400_000
    assert data.user_ids.encode(["x7", "12"]).min() >= 0


def test_each_file_of_the_log_in_a_folder_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ratings-1.csv").write_text(EVENTS.replace("who", "user").replace("what", "item"))
    (tmp_path / "ratings-2.csv").write_text(EVENTS.replace("who", "user").replace("what", "item"))
    opened: list[str] = []
    original = source_opening.open_table

    def counting(source: Any, *arguments: Any) -> Any:
        opened.append(Path(source).name)
        return original(source, *arguments)

    monkeypatch.setattr(source_discovery, "open_table", counting)
    monkeypatch.setattr("zhiyin.data.read_plan.open_table", counting)
    assert read(tmp_path).n_events == 120
    assert sorted(opened) == ["ratings-1.csv", "ratings-2.csv"]


def test_details_of_items_follow_their_ids_into_one_spelling() -> None:
    first = pl.DataFrame({"user": ["a", "b"], "item": ["7", "8"], "title": ["seven", "eight"]})
    second = pl.DataFrame({"user": ["a", "c"], "item": ["8.0", "9.0"], "title": ["eight", "nine"]})
    data = read([first, second], columns={"item_columns": ["title"]})
    titles = dict(zip(data.items["id"], data.items["title"], strict=True))
    assert titles == {"7": "seven", "8": "eight", "9.0": "nine"}


def test_an_empty_list_of_columns_means_none_and_no_list_a_guess() -> None:
    log = pl.DataFrame({"user_id": ["a", "b"] * 5, "item_id": ["x", "y"] * 5, "category": ["p", "q"] * 5})
    assert plan_read(log).roles.item_columns == ("category",)
    plan = plan_read(log, columns={"item_columns": []})
    assert plan.roles.item_columns == ()
    assert any("category" in sentence for sentence in plan.unused)
    assert read(log, columns={"item_columns": []}).items.columns == ["id"]
