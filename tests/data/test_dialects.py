"""A log written in any of the ways people write one reads back equal, row for row, or is refused with the line."""

from __future__ import annotations

import bz2
import contextlib
import csv
import dataclasses
import datetime as dt
import gzip
import io
import json
import lzma
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.examples import examples

import zhiyin as zy
from zhiyin.data.reading import read

Row = tuple[str, str, float, int, str]
NAMES = ["user", "item", "rating", "time", "kind"]
COLUMNS = {name: name for name in NAMES}


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One way to write a log. `assume`: what a reader must be told, because the content leaves it open."""

    name: str
    separator: str = ","
    quoting: int = csv.QUOTE_MINIMAL
    decimal: str = "."
    time: Callable[[dt.datetime], str] = lambda t: str(int(t.timestamp()))
    encoding: str = "utf-8"
    pack: Callable[[bytes], bytes] = bytes
    end: str = "\n"
    frame: Callable[[str, str], str] = lambda header, body: header + body
    header: bool = True
    words: str = "plain"
    assume: tuple[tuple[str, Any], ...] = ()


def strf(form: str) -> Callable[[dt.datetime], str]:
    return lambda t: t.strftime(form)


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("export/log.csv", content)
    return out.getvalue()


def numbered(header: str, body: str) -> str:
    """An index in front of each row, as pandas writes one: its own name is empty."""
    return "," + header + "".join(f"{n},{line}\n" for n, line in enumerate(body.splitlines()))


def row_names(header: str, body: str) -> str:
    """As R writes it: the header has no name for the row names."""
    return header + "".join(f'"{n}",{line}\n' for n, line in enumerate(body.splitlines(), 1))


def trailing(header: str, body: str) -> str:
    return header + "".join(f"{line},\n" for line in body.splitlines())


DIALECTS = [
    Dialect("comma"),
    Dialect("semicolon", ";"),
    Dialect("tab", "\t"),
    Dialect("bar", "|"),
    Dialect("two colons", "::", csv.QUOTE_NONE),
    Dialect("all quoted", quoting=csv.QUOTE_ALL),
    Dialect("semicolon, all quoted", ";", csv.QUOTE_ALL),
    Dialect("tab, all quoted", "\t", csv.QUOTE_ALL),
    Dialect("decimal comma", ";", decimal=","),
    Dialect("decimal comma in quotes", ",", decimal=","),
    Dialect("decimal comma after tabs", "\t", decimal=","),
    Dialect("windows lines", end="\r\n"),
    Dialect("old mac lines", quoting=csv.QUOTE_ALL, end="\r"),
    Dialect("blank lines", end="\n\n"),
    Dialect("milliseconds", time=lambda t: str(int(t.timestamp() * 1000))),
    Dialect("microseconds", time=lambda t: str(int(t.timestamp() * 1_000_000))),
    Dialect("seconds with a fraction", time=lambda t: f"{t.timestamp():.1f}"),
    Dialect("iso", time=strf("%Y-%m-%d %H:%M:%S")),
    Dialect("iso with a zone", time=strf("%Y-%m-%dT%H:%M:%SZ")),
    Dialect("iso with an offset", time=lambda t: (t + dt.timedelta(hours=5.5)).strftime("%Y-%m-%dT%H:%M:%S+05:30")),
    Dialect("slashes, year first", time=strf("%Y/%m/%d %H:%M")),
    Dialect("day first", time=strf("%d/%m/%Y %H:%M:%S"), assume=(("day_first", True),)),
    Dialect("month first", time=strf("%m/%d/%Y %H:%M"), assume=(("day_first", False),)),
    Dialect("dots", ";", time=strf("%d.%m.%Y %H:%M:%S"), assume=(("day_first", True),)),
    Dialect("dashes, day first", time=strf("%d-%m-%Y %H:%M"), assume=(("day_first", True),)),
    Dialect("two-digit years", time=strf("%m/%d/%y %H:%M"), assume=(("day_first", False),)),
    Dialect("twelve hours", time=strf("%m/%d/%Y %I:%M %p"), assume=(("day_first", False),)),
    Dialect("digits", time=strf("%Y%m%d%H%M%S")),
    Dialect("digits to the minute", time=strf("%Y%m%d%H%M")),
    Dialect("names of months", time=strf("%d %b %Y %H:%M:%S")),
    Dialect("mail", quoting=csv.QUOTE_ALL, time=strf("%a, %d %b %Y %H:%M:%S +0000")),
    Dialect("utf-8 with a mark", encoding="utf-8-sig"),
    Dialect("utf-16", encoding="utf-16"),
    Dialect("gbk", encoding="gb18030", words="chinese"),
    Dialect("shift-jis", encoding="cp932", words="japanese"),
    Dialect("latin-1", encoding="cp1252", words="western"),
    Dialect("cyrillic", encoding="cp1251", words="cyrillic"),
    Dialect("gzip", pack=gzip.compress),
    Dialect("bzip2", pack=bz2.compress),
    Dialect("xz", pack=lzma.compress),
    Dialect("zip", pack=zipped),
    Dialect("gzip of gbk", encoding="gb18030", pack=gzip.compress, words="chinese"),
    Dialect("no header", header=False),
    Dialect("no header, tabs", "\t", header=False),
    Dialect("a title above", frame=lambda h, b: "Sales report,,,,\n,,,,\n" + h + b),
    Dialect("a bare title above", frame=lambda h, b: "Sales report\n\n" + h + b),
    Dialect("comments above", frame=lambda h, b: "# exported by shop 1.2\n# 2024, all of it\n" + h + b),
    Dialect("sep line", ";", frame=lambda h, b: "sep=;\n" + h + b),
    Dialect("index column", frame=numbered),
    Dialect("row names", frame=row_names),
    Dialect("comma at the end of rows", frame=trailing),
    Dialect("comma at the end of all", frame=lambda h, b: trailing(h.rstrip("\n") + ",\n", b)),
]

WORDS = {
    "plain": ["ann", "bob smith", "NA", "null", "None", "x-1", "y.2", "Ω", "true", "1e5", "#7"],
    "chinese": ["用户一", "小明的猫", "王小姐", "商品推荐"],
    "japanese": ["ユーザーの", "さくらさん", "これはペン"],
    "western": ["Müller", "José niño", "Zoë"],
    "cyrillic": ["Иванов", "Мария Петрова", "пользователь"],
}
FAR = [f"{2**64 - 1 - n}" for n in range(5)]


def ids(words: str) -> st.SearchStrategy[list[str]]:
    """Ids of a column: whole numbers, hashes beyond 64 bits, codes with zeros, numbers and a word, words."""
    kinds = [
        [str(n) for n in (-3, 0, 1, 7, 10, 100, 12_345, 10**15)],
        [*FAR, "1", "12"],
        ["007", "7", "0", "00", "12"],
        ["1", "2", "10", "7.5"],
        ["1", "2", "3", "abc"],
    ]
    return st.sampled_from(kinds if words == "plain" else [WORDS[words]]) | st.just(WORDS[words])


@st.composite
def logs(draw: st.DrawFn, words: str) -> list[Row]:
    users, items = draw(ids(words)), draw(ids(words))
    n = draw(st.integers(12, 40))
    rows = [
        (
            draw(st.sampled_from(users)),
            draw(st.sampled_from(items)),
            draw(st.sampled_from([-1.0, 0.5, 1.0, 2.5, 3.0, 4.0, 5.0, 12.5])),
            draw(st.integers(978_307_200 // 60, 1_700_000_000 // 60)) * 60,
            draw(st.sampled_from(["view", "purchase"])),
        )
        for _ in range(n)
    ]
    for column in (0, 1):  # whether a column is one of numbers is told by the cells that are in it
        assume(any(row[column].lower() not in ("na", "null", "none") and not _is_whole(row[column]) for row in rows)
               or all(_is_whole(row[column]) for row in rows))  # fmt: skip
    return rows


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdecimal() and text.isascii()


def written(rows: list[Row], dialect: Dialect) -> bytes:
    def lines(of: list[list[str]]) -> str:
        if len(dialect.separator) > 1:
            return "".join(dialect.separator.join(cells) + "\n" for cells in of)
        out = io.StringIO()
        csv.writer(out, delimiter=dialect.separator, quoting=dialect.quoting, lineterminator="\n").writerows(of)  # type: ignore[arg-type]
        return out.getvalue()

    cells = [
        [u, i, str(r).replace(".", dialect.decimal), dialect.time(dt.datetime.fromtimestamp(t, dt.UTC)), k]
        for u, i, r, t, k in rows
    ]
    text = dialect.frame(lines([NAMES]) if dialect.header else "", lines(cells))
    return dialect.pack(text.replace("\n", dialect.end).encode(dialect.encoding))


def events_of(data: zy.Dataset) -> list[Row]:
    decoded = zip(
        data.user_ids.decode(data.events["user"].to_numpy()).cast(pl.String).to_list(),
        data.item_ids.decode(data.events["item"].to_numpy()).cast(pl.String).to_list(),
        data.events["value"].to_list(),
        (data.events["time"] // 1_000_000).to_list(),
        data.events["kind"].cast(pl.String).to_list(),
    )
    return sorted(decoded)


EACH = settings(
    max_examples=examples(8),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@EACH
@given(seeds=st.data())
def test_text_in_any_dialect(tmp_path: Path, dialect: Dialect, seeds: st.DataObject) -> None:
    rows = seeds.draw(logs(dialect.words))
    path = tmp_path / "log.csv"
    path.write_bytes(written(rows, dialect))
    names = NAMES if dialect.header else [f"column_{at}" for at in range(1, 6)]
    data = read(path, columns=dict(zip(NAMES, names)), assume=dict(dialect.assume))
    assert not len(data.quarantine)
    assert events_of(data) == sorted(rows)


def typed(rows: list[Row]) -> dict[str, list[Any]]:
    """Columns of rows, ids as numbers where all are 64-bit ones."""
    columns: dict[str, list[Any]] = {name: list(cells) for name, cells in zip(NAMES, zip(*rows))}
    for name in ("user", "item"):
        if all(_is_whole(cell) and str(int(cell)) == cell and abs(int(cell)) < 2**63 for cell in columns[name]):
            columns[name] = list(map(int, columns[name]))
    return columns


def json_rows(rows: list[Row]) -> list[dict[str, Any]]:
    columns = typed(rows)
    return [dict(zip(columns, cells)) for cells in zip(*columns.values())]


def as_lines(path: Path, rows: list[Row]) -> Any:
    path.write_text("\n".join(map(json.dumps, json_rows(rows))))
    return path


def as_array(path: Path, rows: list[Row]) -> Any:
    path.write_text("[\n" + ",\n".join(map(json.dumps, json_rows(rows))) + "\n]\n")
    return path


def as_pretty_array(path: Path, rows: list[Row]) -> Any:
    path.write_text(json.dumps(json_rows(rows), indent=2, ensure_ascii=False))
    return path


def as_text_in_json(path: Path, rows: list[Row]) -> Any:
    """Every value a text, as sloppy programs write them."""
    path.write_text("\n".join(json.dumps(dict(zip(NAMES, map(str, row)))) for row in rows))
    return path


def as_pretty_objects(path: Path, rows: list[Row]) -> Any:
    path.write_bytes(gzip.compress("\n".join(json.dumps(row, indent=1) for row in json_rows(rows)).encode()))
    return path


def as_parquet(path: Path, rows: list[Row]) -> Any:
    pl.DataFrame(typed(rows), strict=False).write_parquet(path)
    return path


def as_arrow(path: Path, rows: list[Row]) -> Any:
    pl.DataFrame(typed(rows), strict=False).write_ipc(path)
    return path


def as_pandas(path: Path, rows: list[Row]) -> Any:
    return pl.DataFrame(typed(rows), strict=False).to_pandas()


def as_texts_of_pandas(path: Path, rows: list[Row]) -> Any:
    return pl.DataFrame([list(map(str, row)) for row in rows], schema=NAMES, orient="row").to_pandas()


def as_sqlite(path: Path, rows: list[Row]) -> Any:
    path = path.with_name("week #1?.db")
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE events (user, item, rating REAL, time TEXT, kind)")
        columns = typed(rows)
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", list(zip(*columns.values())))
    connection.close()
    return f"sqlite:///{path}"


KINDS = [
    as_lines, as_array, as_pretty_array, as_text_in_json, as_pretty_objects, as_parquet, as_arrow, as_pandas,
    as_texts_of_pandas, as_sqlite,
]  # fmt: skip


@pytest.mark.parametrize("write", KINDS, ids=lambda write: write.__name__)
@EACH
@given(rows=logs("plain"))
def test_other_kinds_of_sources(tmp_path: Path, write: Callable[[Path, list[Row]], Any], rows: list[Row]) -> None:
    query = "SELECT * FROM events" if write is as_sqlite else None
    data = read(write(tmp_path / "log", rows), columns=COLUMNS, query=query)
    assert not len(data.quarantine)
    assert events_of(data) == sorted(rows)


@EACH
@given(rows=logs("plain"), at=st.integers(0, 11), broken=st.sampled_from(["a,b", "a,b,c,d,e,f", 'a,"b,1,1,view']))
def test_a_row_that_cannot_be_cut_is_named_by_its_line(tmp_path: Path, rows: list[Row], at: int, broken: str) -> None:
    lines = written(rows, Dialect("comma")).decode().splitlines()
    lines.insert(at + 1, broken)
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    data = read(path, columns=COLUMNS)
    assert data.quarantine["line"].to_list() == [at + 2]
    assert data.quarantine["raw"].to_list() == [broken]
    assert events_of(data) == sorted(rows)
    with pytest.raises(zy.DataError) as caught:
        read(path, columns=COLUMNS, strict=True)
    assert caught.value.row == at + 2


@EACH
@given(
    content=st.binary(max_size=400), name=st.sampled_from(["log.csv", "log.json", "log.csv.gz", "log.parquet", "log"])
)
def test_any_bytes_end_in_events_or_one_error(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with contextlib.suppress(zy.DataError, zy.ConfigError):  # anything else is a traceback on the command line
        assert read(tmp_path / name).n_events > 0
