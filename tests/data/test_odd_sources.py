"""Files of real people: what is unusual in them is read as a person means it, or said, or refused with its reason."""

from __future__ import annotations

import json
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.reading import read

ROWS = [
    (u, i, 1 + (u * i) % 5, 1_700_000_000 + 3_600 * (u * 31 + i)) for u in range(1, 41) for i in range(u % 9, 30, 4)
]
HEAD = "user,item,rating,time"


def put(path: Path, rows: list[tuple], head: str = HEAD, separator: str = ",") -> Path:
    path.write_text(head + "\n" + "".join(separator.join(map(str, row)) + "\n" for row in rows))
    return path


def said(data: zy.Dataset, text: str) -> bool:
    return any(text in note for note in data.notes)


# The whole file, not its head


def late(n: int = 24_000) -> list[dict[str, Any]]:
    rows = [{"user": k % 300, "item": k % 77, "time": 1_700_000_000 + k} for k in range(n)]
    return [row | ({"event": "purchase", "stars": 4.5} if k > n - 50 else {}) for k, row in enumerate(rows)]


def late_json(path: Path) -> Any:
    path.write_text("\n".join(map(json.dumps, late())))
    return path


def late_csv(path: Path) -> Any:
    """Longer than what is looked at first, and the columns filled in a few rows far behind."""
    rows = late(400_000)
    lines = [f"{r['user']},{r['item']},{r['time']},{r.get('event', '')},{r.get('stars', '')}" for r in rows]
    path.write_text("user,item,time,event,stars\n" + "\n".join(lines) + "\n")
    return path


def late_parquet(path: Path) -> Any:
    pl.DataFrame(late(), infer_schema_length=None).write_parquet(path)
    return path


def late_pandas(path: Path) -> Any:
    return pd.DataFrame(late())


@pytest.mark.parametrize("write", [late_json, late_csv, late_parquet, late_pandas], ids=lambda write: write.__name__)
def test_a_column_that_begins_late_is_used(tmp_path: Path, write: Any) -> None:
    data = read(write(tmp_path / "log"))
    assert data.kinds == ["event", "purchase"]
    assert data.roles is not None
    assert (data.roles.kind, data.roles.rating) == ("event", "stars")
    assert int((data.events["weight"] == 5).sum()) == 49
    assert data.events["value"].drop_nulls().to_list() == [4.5] * 49


@pytest.mark.slow
@pytest.mark.parametrize("id_", ["007", "7.5", "18446744073709551615", "x", "+7"])
def test_one_odd_id_far_behind_the_head(tmp_path: Path, id_: str) -> None:
    rows = [(k % 300, k % 77) for k in range(600_000)]
    data = read(put(tmp_path / "log.csv", [*rows, (id_, 3), (7, 3)], "user,item"))
    assert data.n_users == 301
    assert {"7", id_} <= set(data.users["id"].to_list())
    assert read(put(tmp_path / "log.csv", rows, "user,item")).users["id"].dtype == pl.Int64


# Ids


def test_ids_join_whatever_spelling_a_file_has(tmp_path: Path) -> None:
    log = put(tmp_path / "e.csv", ROWS)
    for spelling in ("{}.0", "{}", " {} "):
        items = put(tmp_path / "i.csv", [(spelling.format(i), f"T{i}") for i in range(30)], "item_id,title")
        data = read(log, items=items)
        assert data.items.rows()[:3] == [(0, "T0"), (1, "T1"), (2, "T2")]
    frame = pl.DataFrame({"item_id": [float(i) for i in range(30)], "title": [f"T{i}" for i in range(30)]})
    for source in (frame, frame.to_pandas(), frame.cast({"item_id": pl.String})):
        assert read(log, items=source).items["title"].null_count() == 0


def test_parts_of_a_log_join_whatever_spelling_each_has(tmp_path: Path) -> None:
    one = put(tmp_path / "1.csv", [("1.0", "a"), ("2.0", "b")], "user,item")
    two = put(tmp_path / "2.csv", [("1", "a"), ("3", "b")], "user,item")
    three = put(tmp_path / "3.csv", [("1.0", "a"), ("7.5", "b")], "user,item")
    assert read([one, two]).users["id"].to_list() == [1, 2, 3]
    assert read([one, two, three]).users["id"].to_list() == ["1", "2", "3", "7.5"]


def test_a_catalogue_says_what_it_leaves_out(tmp_path: Path) -> None:
    items = put(tmp_path / "i.csv", [(1, "One"), ("", "None"), (1, "Uno"), (2, "Two")], "item,title")
    data = read(put(tmp_path / "e.csv", [(1, 1), (2, 2)], "user,item"), items=items)
    assert data.items.rows() == [(1, "One"), (2, "Two")]
    assert said(data, "1 rows without item left out")
    assert said(data, "1 rows repeat a item")


# Numbers and columns


def test_returns_with_decimal_commas_count_against(tmp_path: Path) -> None:
    rows = [(u, i, f"{-1 if r == 1 else r},0", t) for u, i, r, t in ROWS]
    data = read(put(tmp_path / "e.csv", rows, "customer;product;quantity;time", ";"))
    assert sorted(data.events["weight"].unique().to_list()) == [-1.0, 1.0]
    assert said(data, "the comma is the decimal mark")


@pytest.mark.parametrize("form", ["{} stars", "{}/5", "{}/8", "five {}"])
def test_ratings_with_words(tmp_path: Path, form: str) -> None:
    data = read(put(tmp_path / "e.csv", [(u, i, form.format(r), t) for u, i, r, t in ROWS]))
    if form in ("{} stars", "{}/5"):
        assert sorted(data.events["value"].unique().to_list()) == [1, 2, 3, 4, 5]
        assert said(data, "read without 'star'" if "stars" in form else "read without '/5'")
    else:
        assert data.events["value"].null_count() == data.n_events
        assert said(data, "rating is named like a rating, but what stands in it does not read as numbers")


def test_columns_that_play_no_part_are_said() -> None:
    frame = pl.DataFrame(ROWS, schema=["user", "item", "rating", "time"], orient="row")
    more = frame.with_columns(session=pl.int_range(pl.len()), note=pl.Series([f"n{k % 7}" for k in range(len(frame))]))
    assert said(read(more), "not used: session, note")


@pytest.mark.parametrize("odd", ["—", "-", "n/a", "NULL", "$7.00", "7,00"])
def test_one_odd_price_leaves_the_others_numbers(tmp_path: Path, odd: str) -> None:
    rows = [(i, odd if i == 7 else f"{i}.50", i % 3 == 0) for i in range(30)]
    items = put(tmp_path / "i.csv", rows, "item_id;price;adult", ";")
    data = read(put(tmp_path / "e.csv", ROWS), items=items)
    assert data.items.schema["price"] == pl.Float64
    assert data.items.schema["adult"] == pl.Boolean
    assert data.items["price"][7] == (7.0 if "7" in odd else None)
    assert any(note.startswith("price: ") for note in data.notes)


def test_prices_of_typed_sources_that_came_as_text() -> None:
    log = pl.DataFrame({"user": [1, 2], "item": [1, 2]})
    items = pl.DataFrame({"item": [1, 2], "price": ["3.99", "—"], "zip": ["01234", "2"], "adult": ["true", "False"]})
    for source in (items, items.to_pandas()):
        data = read(log, items=source)
        assert data.items.rows() == [(1, 3.99, "01234", True), (2, None, "2", False)]


# Times


def test_a_part_that_tells_the_order_of_days_decides_for_all(tmp_path: Path) -> None:
    open_, sure = [(1, k, f"{k:02}/03/2023") for k in range(1, 9)], [(2, k, f"{k + 12}/03/2023") for k in range(1, 9)]
    first = put(tmp_path / "1.csv", open_, "user,item,date")
    alone = read(first)
    assert alone.assumed == {"day_first": False}
    assert said(alone, "may be day 1, month 3 or day 3, month 1, read as day 3, month 1")
    both = read([first, put(tmp_path / "2.csv", sure, "user,item,date")])
    assert both.assumed == {}
    assert both.window == read(first, assume={"day_first": True}).window[:1] + both.window[1:]
    assert not said(both, "may be")


@pytest.mark.parametrize("name", ["at", "bought_at", "zeitpunkt", "created", "when"])
def test_moments_under_any_name(name: str) -> None:
    frame = pl.DataFrame(ROWS, schema=["user", "item", "rating", "t"], orient="row")
    typed = frame.select("user", "item", pl.from_epoch("t").alias(name))
    for source in (typed, typed.to_pandas(), typed.with_columns(pl.col(name).dt.to_string())):
        data = read(source)
        assert data.has_times, data.notes
        assert data.window[0] == 1_000_000 * min(row[3] for row in ROWS)


def test_a_birthday_is_not_the_time_of_an_event() -> None:
    frame = pl.DataFrame(ROWS, schema=["user", "item", "rating", "t"], orient="row").drop("t")
    data = read(frame.with_columns(born=pl.date(1980, 1, 1) + pl.duration(days=pl.col("user"))))
    assert not data.has_times


@pytest.mark.parametrize("kind", ["json", "sqlite", "pandas", "csv"])
def test_epoch_as_text(tmp_path: Path, kind: str) -> None:
    rows = [(u, i, str(t)) for u, i, _, t in ROWS]
    source: Any = put(tmp_path / "e.csv", rows, "user,item,time")
    query = None
    if kind == "json":
        source = tmp_path / "e.jsonl"
        source.write_text("\n".join(json.dumps(dict(zip(["user", "item", "time"], row))) for row in rows))
    elif kind == "pandas":
        source = pd.DataFrame(rows, columns=["user", "item", "time"])
    elif kind == "sqlite":
        with sqlite3.connect(tmp_path / "e.db") as connection:
            connection.execute("CREATE TABLE e (user INT, item INT, time TEXT)")
            connection.executemany("INSERT INTO e VALUES (?, ?, ?)", rows)
        source, query = f"sqlite:///{tmp_path}/e.db", "SELECT * FROM e"
    data = read(source, query=query)
    assert data.has_times
    assert data.window[0] == 1_000_000 * min(row[3] for row in ROWS)


# Headers


@pytest.mark.parametrize(
    "head",
    [
        "Sales report,,,\n,,,\n" + HEAD,
        "Sales report\n\n" + HEAD,
        "Sales,2024-01-01,to,2024-02-01\n" + HEAD,
        "# made by shop 1.2\n" + HEAD,
        "#" + HEAD,
        HEAD + ",",
        '"sep=,"\n' + HEAD,
    ],
)
def test_headers_that_do_not_stand_alone(tmp_path: Path, head: str) -> None:
    data = read(put(tmp_path / "e.csv", ROWS, head))
    assert (data.n_events, data.n_users, data.n_items, data.has_times) == (len(ROWS), 40, 30, True)
    assert not len(data.quarantine)


def test_a_header_can_be_named(tmp_path: Path) -> None:
    path = put(tmp_path / "e.csv", ROWS, "a,b,c,d\nwho,what,much,at")
    assert read(path, assume={"header": 2}, columns={"user": "who", "item": "what"}).n_events == len(ROWS)
    with pytest.raises(zy.DataError, match="line 99 is no header"):
        read(put(tmp_path / "few.csv", ROWS[:9]), assume={"header": 99})
    bare = put(tmp_path / "b.csv", ROWS, "5,5,5,1700000000")
    assert read(bare, assume={"header": 0}).n_events == len(ROWS) + 1


def test_a_header_of_numbers(tmp_path: Path) -> None:
    assert read(put(tmp_path / "e.csv", ROWS, "0,1,2,3")).n_events == len(ROWS)
    small = [row[:3] for row in ROWS]
    data = read(put(tmp_path / "s.csv", small, "0,1,2"))
    assert data.n_events == len(ROWS) + 1
    assert data.assumed == {"header": 0}
    assert read(tmp_path / "s.csv", assume={"header": 1}).n_events == len(ROWS)


@pytest.mark.parametrize("kind", ["csv", "parquet", "polars", "pandas", "arrow"])
def test_sources_without_a_row_say_so(tmp_path: Path, kind: str) -> None:
    empty = pl.DataFrame(schema={"user": pl.String, "item": pl.String})
    sources: dict[str, Any] = {"csv": tmp_path / "e", "parquet": tmp_path / "e", "arrow": tmp_path / "e"}
    write = {"csv": empty.write_csv, "parquet": empty.write_parquet, "arrow": empty.write_ipc}
    if kind in write:
        write[kind](tmp_path / "e")
    with pytest.raises(zy.DataError, match="no row") as caught:
        read(sources.get(kind, empty if kind == "polars" else empty.to_pandas()))
    assert caught.value.remedy


def test_rows_that_do_not_fit_the_header_are_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(zy.DataError, match="no row has the 5 fields of the header; this one has 4") as caught:
        read(put(tmp_path / "e.csv", ROWS, HEAD + ",kind"))
    assert caught.value.row == 2


def test_a_log_of_bad_rows_alone_names_the_first(tmp_path: Path) -> None:
    path = put(tmp_path / "e.csv", [(1, 2, 3, "soon"), (1, 3, 3, "later")])
    with pytest.raises(zy.DataError, match=r"every row was set aside(.|\n)*'soon' is not a time") as caught:
        read(path, columns={"time": "time"})
    assert caught.value.row == 2


# Frames and databases


def test_frames_with_odd_columns() -> None:
    frame = pd.DataFrame(ROWS, columns=["user", "item", "rating", "time"])
    twice = pd.concat([frame, frame[["rating"]]], axis=1)
    data = read(twice)
    assert data.n_events == len(ROWS)
    assert said(data, "there are two columns 'rating'")
    odd = frame.assign(
        sparse=pd.arrays.SparseArray([0] * len(frame)), month=pd.PeriodIndex(["2024-01"] * len(frame), freq="M"),
        took=pd.to_timedelta(frame["rating"], unit="s"), z=[1 + 2j] * len(frame),
    )  # fmt: skip
    assert read(odd).n_events == len(ROWS)
    assert read(frame.set_index("user")).n_users == 40
    wide = pl.DataFrame(ROWS, schema=["user", "item", "rating", "t"], orient="row").select(
        "user", "item", watch_time=pl.duration(seconds="rating"), clock=pl.time(3, 8)
    )
    assert not read(wide).has_times
    assert read(wide, columns={"rating": "watch_time"}).events["value"].max() == 5
    with pytest.raises(zy.DataError, match="every row was set aside"):
        read(wide, columns={"time": "watch_time"})


@pytest.mark.parametrize("name", ["week#1.db", "what?.db", "a%20b.db", "two words.db", "ü&=.db"])
def test_sqlite_files_of_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect(tmp_path / name) as connection:
        connection.execute("CREATE TABLE e (user, item)")
        connection.executemany("INSERT INTO e VALUES (?, ?)", [row[:2] for row in ROWS])
    connection.close()
    for address in (f"sqlite:///{name}", f"sqlite:///{tmp_path / name}"):
        assert read(address, query="SELECT * FROM e").n_users == 40
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_json_that_is_too_deep_or_wrapped(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    for text in ("[" * 100_000, '{"user":' * 500 + "1" + "}" * 500, '{"user":' + "[" * 50_000 + "\n"):
        path.write_text(text)
        with pytest.raises(zy.DataError, match=r"levels deep|before its array") as caught:
            read(path)
        assert caught.value.remedy
    path.write_text(json.dumps({"count": 2, "events": [{"user": 1, "item": 2}, {"user": 2, "item": 3}]}))
    with pytest.raises(zy.DataError, match="its rows stand under 'events'"):
        read(path)
    path.write_text('[\n {"user": 1, "item": 2},\n {"user": null,\n  "item": 3},\n {"user": 2, "item": 3}\n]')
    data = read(path)
    assert data.n_events == 2
    assert data.quarantine["line"].to_list() == [3]


def test_json_of_programs_that_do_not_know_json(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text(",\n".join(json.dumps({"user": u, "item": i}) for u, i, *_ in ROWS))
    assert read(path).n_events == len(ROWS)
    path.write_text('{"user": NaN, "item": 1}\n{"user": 2, "item": 3.0}\n{"user": 2, "item": {"x": 1}}\n')
    data = read(path)
    assert data.users["id"].to_list() == [2]
    assert data.quarantine["reason"].to_list() == ["user is missing"]


def test_ids_of_pandas_that_are_objects() -> None:
    keys = [uuid.UUID(int=u) for u, *_ in ROWS]
    data = read(pd.DataFrame({"user": keys, "item": [i for _, i, *_ in ROWS]}))
    assert data.users["id"][0] == str(min(keys))
    assert read(pd.DataFrame({"user": [1, "1", 2.0, "x"], "item": [1, 2, 3, 4]})).users["id"].to_list() == [
        "1",
        "2",
        "x",
    ]


# Layout of text


def text_of(rows: list[tuple], separator: str = ",", head: str = HEAD) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in [head.split(","), *rows])


def padded(rows: list[tuple], form: str) -> str:
    return "".join("".join(form.format(cell) for cell in row) + "\n" for row in [HEAD.split(","), *rows])


@pytest.mark.parametrize(
    "content",
    [
        text_of(ROWS).replace("\n", "\r", 90),
        text_of(ROWS).replace("\n", "\r\n", 90).replace("\r\n", "\r", 30),
        text_of(ROWS, "\x01"),
        text_of(ROWS, "~"),
        text_of(ROWS, "^"),
        text_of(ROWS, "，"),
        padded(ROWS, "{:<12}"),
        padded(ROWS, "{:>12}"),
        text_of(ROWS).replace("rating", "rating    "),
    ],
    ids=["returns", "three line ends", "hive", "tildes", "carets", "wide commas", "left", "right", "padded header"],
)
def test_layouts_of_text(tmp_path: Path, content: str) -> None:
    (tmp_path / "e.csv").write_bytes(content.encode())
    data = read(tmp_path / "e.csv")
    assert (data.n_events, data.n_users, data.n_items, data.has_times) == (len(ROWS), 40, 30, True)
    assert not len(data.quarantine)
    assert data.events["value"].null_count() == 0
    assert data.users["id"].dtype == pl.Int64


def test_returns_inside_of_quotes_are_text(tmp_path: Path) -> None:
    rows = "".join(f'{u},{i},"two\rlines"\r' for u, i, *_ in ROWS)
    (tmp_path / "e.csv").write_text("user,item,title\n" + rows + '1,2,"a\rb"\n', newline="")
    data = read(tmp_path / "e.csv", columns={"item_columns": ["title"]})
    assert data.n_events == len(ROWS) + 1
    assert set(data.items["title"].drop_nulls()) <= {"two\rlines", "a\rb"}


@pytest.mark.parametrize("again", [HEAD, '"user","item","rating","time"'])
@pytest.mark.parametrize("copies", [1, 300])
def test_a_header_once_more_is_no_event(tmp_path: Path, again: str, copies: int) -> None:
    """As files that were joined have it; `copies`: of the log, so that the second header stands far behind the head."""
    body = text_of(ROWS).partition("\n")[2] * copies
    (tmp_path / "e.csv").write_text(f"{HEAD}\n{body}{again}\n{body}")
    data = read(tmp_path / "e.csv")
    assert data.n_events == 2 * copies * len(ROWS)
    assert data.users["id"].dtype == pl.Int64
    assert data.quarantine.select("line", "reason", "raw").rows() == [
        (copies * len(ROWS) + 2, "the header once more", again)
    ]


def test_rows_with_nul_bytes_are_set_aside(tmp_path: Path) -> None:
    """As a crash leaves them; an id that ends in one would be another user."""
    (tmp_path / "e.csv").write_text(text_of(ROWS) + "1\0,2,3,1700000000\n\0\0\0\n" + "1,2,3,1700000000\n")
    data = read(tmp_path / "e.csv")
    assert data.n_events == len(ROWS) + 1
    assert data.users["id"].to_list() == list(range(1, 41))
    assert data.quarantine.select("line", "reason").rows() == [
        (len(ROWS) + 2, "a NUL byte stands in it"),
        (len(ROWS) + 3, "a NUL byte stands in it"),
    ]


def test_a_separator_inside_of_the_rows_is_not_taken_as_row_names(tmp_path: Path) -> None:
    with pytest.raises(zy.DataError, match="no row has the 2 fields of the header; this one has 3"):
        read(put(tmp_path / "e.csv", [(u, f"'i,{i}'") for u, i, *_ in ROWS], "user,item"))


def test_quotes_out_of_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(zy.DataError, match="a quote is never closed, or closed inside its field") as caught:
        read(put(tmp_path / "e.csv", [(f'"u\\"{u}"', i) for u, i, *_ in ROWS], "user,item"))
    assert caught.value.row == 2


@pytest.mark.parametrize(
    "head",
    ["Kunde,Artikel,Bewertung,Datum", "utilisateur,produit,quantité,heure", "usuario,producto,valoración,fecha"],
)
def test_headers_in_other_languages(tmp_path: Path, head: str) -> None:
    data = read(put(tmp_path / "e.csv", ROWS, head))
    assert data.roles is not None
    assert [data.roles.user, data.roles.item, data.roles.rating, data.roles.time] == head.split(",")


def test_why_a_column_that_is_named_so_is_not_the_user(tmp_path: Path) -> None:
    with pytest.raises(zy.DataError, match="user is empty"):
        read(put(tmp_path / "e.csv", [("", i) for _, i, *_ in ROWS], "user,item"))
    with pytest.raises(zy.DataError, match="user holds lists or objects"):
        read(pl.DataFrame({"user": [[1], [2]], "item": [1, 2]}))
    with pytest.raises(zy.DataError, match="name what stands between"):
        read(put(tmp_path / "e.csv", ROWS, HEAD.replace(",", "$"), "$"))
    empty = read(put(tmp_path / "e.csv", [(u, i, "") for u, i, *_ in ROWS], "user,item,note"))
    assert said(empty, "not used, because empty: note")


# Frames, JSON and files whose names mislead


def test_columns_of_bytes_are_text_where_they_are_utf8(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [f"ü{u}".encode() for u, *_ in ROWS], "item": [i for _, i, *_ in ROWS]})
    frame.write_parquet(tmp_path / "e.parquet")
    for source in (frame, frame.to_pandas(), tmp_path / "e.parquet"):
        data = read(source)
        assert data.users["id"][0] == "ü1"
        assert said(data, "user: bytes are read as text")
    with pytest.raises(zy.DataError, match="bytes that are no text"):
        read(pl.DataFrame({"user": [b"\xff\xfe\x00", b"\x80"], "item": [1, 2]}))


def test_frames_of_other_makes() -> None:
    frame = pl.DataFrame(ROWS, schema=HEAD.split(","), orient="row")
    assert read(frame.to_arrow()).n_events == len(ROWS)
    days = pd.PeriodIndex(pd.to_datetime(frame["time"].to_list(), unit="s"), freq="D")
    data = read(frame.to_pandas().assign(time=days))
    assert data.window[0] == 1_000_000 * (min(row[3] for row in ROWS) // 86_400 * 86_400)
    for cut in (pd.cut(frame["user"].to_list(), 5), pd.arrays.IntervalArray(pd.cut(frame["user"].to_list(), 5))):
        assert read(frame.to_pandas().assign(user=cut)).n_users == 5


def test_numbers_beyond_floats_in_json(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text("\n".join(f'{{"user": {u}, "item": {i}, "rating": 1e400}}' for u, i, *_ in ROWS))
    data = read(path)
    assert data.n_events == len(ROWS)
    assert said(data, "rating is named like a rating")


def test_text_that_is_called_json(tmp_path: Path) -> None:
    assert read(put(tmp_path / "e.json", ROWS)).n_events == len(ROWS)


def test_ratings_of_true_and_false(tmp_path: Path) -> None:
    data = read(put(tmp_path / "e.csv", [(u, i, r > 3, t) for u, i, r, t in ROWS]))
    assert data.events["value"].sum() == sum(r > 3 for *_, r, _ in ROWS)
    assert said(data, "rating: 'True' and 'False' are read as 1 and 0")


# What was assumed holds for the next reading


def test_an_encoding_that_was_assumed_of_one_file_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    log = put(tmp_path / "e.csv", [(f"用户{u}", f"商品{i}") for u, i, *_ in ROWS], "user,item")
    titles = "item,title\n" + "".join(f"商品{i},标题的名字{i}\n" for i in range(30))
    (tmp_path / "i.csv").write_bytes(titles.encode("gb18030"))
    data = read(log, items=tmp_path / "i.csv")
    assert data.assumed == {"encoding": "gb18030"}
    again = read(log, items=tmp_path / "i.csv", assume=data.assumed)
    assert again.items.equals(data.items)
    assert again.users["id"][0] == "用户1"


def test_a_header_that_was_assumed_of_one_file_is_not_said_of_the_others(tmp_path: Path) -> None:
    log = put(tmp_path / "1.csv", [row[:3] for row in ROWS], "0,1,2")
    items = put(tmp_path / "i.csv", [(i, f"T{i}") for i in range(30)], "item,title")
    data = read(log, items=items)
    assert data.assumed == {"header": 0}
    assert read(log, items=items, assume=data.assumed).items.equals(data.items)
    other = put(tmp_path / "2.csv", [row[:3] for row in ROWS], "column_1,column_2,column_3")
    both = read([log, other])
    assert both.assumed == {}
    assert both.n_events == 2 * len(ROWS) + 1


def test_columns_that_disagree_are_judged_each_by_itself_the_next_time_too(tmp_path: Path) -> None:
    log = put(tmp_path / "e.csv", ROWS)
    items = put(tmp_path / "i.csv", [(i, f"1.{100 + i}") for i in range(30)], "item,price")
    users = put(tmp_path / "u.csv", [(u, f"1,{100 + u}") for u in range(1, 41)], "user;height", ";")
    data = read(log, items=items, users=users)
    assert said(data, "price: '1.100' may be 1.100 or 1100, read as 1.100")
    assert said(data, "height: '1,101' may be 1.101 or 1101, read as 1.101")
    assert data.assumed == {}
    again = read(log, items=items, users=users, assume=data.assumed)
    assert again.items.equals(data.items)
    assert again.users.equals(data.users)


def test_declared_texts_stay_as_they_are_written(tmp_path: Path) -> None:
    items = put(tmp_path / "i.csv", [(i, "yes" if i % 2 else "no", "1.50", "x") for i in range(30)], "item,a,b,c")
    types = CatalogueSchema(items={"a": "text", "b": "text", "c": "number"})
    data = read(put(tmp_path / "e.csv", ROWS), items=items, types=types)
    assert data.items.row(1)[1:] == ("yes", "1.50", None)
    assert said(data, "c: 30 cells are not of the type number, read as missing")


@pytest.mark.parametrize("above", ["Sales report\n\n", "Sales report,,,\n,,,\n", "# shop 1.2\n# all of it\n"])
def test_lines_above_a_header_whose_names_say_nothing(tmp_path: Path, above: str) -> None:
    data = read(put(tmp_path / "e.csv", ROWS, f"{above}who,what,much,at"), columns={"user": "who", "item": "what"})
    assert (data.n_events, data.n_users, data.has_times) == (len(ROWS), 40, True)
    assert said(data, "above the header left out")
