"""`read`: whatever the log is kept in, the same events come out, and rows in = events + rows set aside."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

import zhiyin as zy
from zhiyin.data.reading import read

ROWS = [
    ("ann", "a", 4.0, 1_400_000_000),
    ("bob", "b", 2.5, 1_400_000_060),
    ("ann", "b", 5.0, 1_400_000_030),
    ("ann", "a", 4.0, 1_400_000_000),
    ("bob", "a", 1.0, 1_400_000_010),
]
HEADER = ["user", "item", "rating", "timestamp"]
# Sorted by user, then time; equal times in the order of the log.
EXPECTED = [
    ("ann", "a", 4.0, 1_400_000_000),
    ("ann", "a", 4.0, 1_400_000_000),
    ("ann", "b", 5.0, 1_400_000_030),
    ("bob", "a", 1.0, 1_400_000_010),
    ("bob", "b", 2.5, 1_400_000_060),
]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def delimited(separator: str, header: bool = True, rows: list[tuple] = ROWS, end: str = "\n") -> str:
    lines = [HEADER, *rows] if header else rows
    return "".join(separator.join(map(str, row)) + end for row in lines)


def json_lines(rows: list[tuple] = ROWS) -> str:
    return "".join(json.dumps(dict(zip(HEADER, row))) + "\n" for row in rows)


def events_of(data: zy.Dataset) -> list[tuple]:
    users = data.user_ids.decode(data.events["user"].to_numpy()).to_list()
    items = data.item_ids.decode(data.events["item"].to_numpy()).to_list()
    times = (data.events["time"] // 1_000_000).to_list()
    return list(zip(users, items, data.events["value"].to_list(), times))


def aside(data: zy.Dataset) -> list[tuple[int, str]]:
    return list(zip(data.quarantine["line"].to_list(), data.quarantine["reason"].to_list()))


@pytest.mark.parametrize("separator", [",", "\t", "::", ";", "|", " "])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimited_text(tmp_path: Path, separator: str, header: bool, end: str) -> None:
    path = write(tmp_path / "log.txt", delimited(separator, header, end=end))
    data = read(path)
    assert events_of(data) == EXPECTED
    assert not len(data.quarantine)
    assert data.has_times


@pytest.mark.parametrize(
    "bytes_of",
    [
        pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), id="utf-8 mark"),
        pytest.param(lambda text: text.encode("utf-16"), id="utf-16"),
        pytest.param(lambda text: text.replace("\n", "\r").encode(), id="old mac"),
        pytest.param(lambda text: b"\n\n" + text.encode(), id="leading blanks"),
        pytest.param(lambda text: text.replace("\n", "\n\n").encode(), id="blank lines"),
        pytest.param(lambda text: text.replace("\n", "\n   \r\n").encode(), id="lines of spaces"),
        pytest.param(lambda text: text.rstrip("\n").encode(), id="no last newline"),
        pytest.param(lambda text: text.encode() + b"\n\n\n", id="trailing blanks"),
    ],
)
@pytest.mark.parametrize("header", [True, False])
def test_odd_but_whole_texts(tmp_path: Path, bytes_of, header: bool) -> None:
    data = read(write(tmp_path / "log.csv", bytes_of(delimited(",", header))))
    assert events_of(data) == EXPECTED
    assert not len(data.quarantine)


@pytest.mark.parametrize("text", [delimited(","), delimited("::", False)])
@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_text(tmp_path: Path, text: str, ending: str) -> None:
    assert events_of(read(compress(write(tmp_path / "log.csv", text), ending))) == EXPECTED


def compress(path: Path, ending: str) -> Path:
    packed = path.with_name(f"{path.name}.{ending}")
    if ending == "gz":
        packed.write_bytes(gzip.compress(path.read_bytes()))
    else:
        try:
            subprocess.run(["zstd", "-q", str(path), "-o", str(packed)], check=True)
        except FileNotFoundError:
            pytest.skip("the zstd command is not installed")
    return packed


@pytest.mark.parametrize("ending", ["", "gz", "zst"])
def test_json_lines(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / "log.jsonl", json_lines())
    assert events_of(read(compress(path, ending) if ending else path)) == EXPECTED


@pytest.mark.parametrize("ending", ["", "gz", "zst"])
def test_json_lines_that_are_broken(tmp_path: Path, ending: str) -> None:
    lines = json_lines().splitlines()
    text = "\n".join([lines[0], "", "{broken", *lines[1:4], "[1, 2]", "7", lines[4], '{"user": "ann"}'])
    path = write(tmp_path / "log.jsonl", text)
    data = read(compress(path, ending) if ending else path)
    assert events_of(data) == EXPECTED
    assert aside(data) == [
        (3, "not a JSON object"),
        (7, "not a JSON object"),
        (8, "not a JSON object"),
        (10, "item is missing"),
    ]
    assert data.quarantine["raw"].to_list()[0] == "{broken"


def test_json_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        json_lines().replace("\n", "\n\n") + '{"user": null, "timestamp": 1400000000}\n',
    )
    assert aside(read(path)) == [(11, "user is missing")]


def test_json_ids_of_several_types(tmp_path: Path) -> None:
    text = '{"user": 1, "item": "a"}\n{"user": "A12", "item": "b"}\n{"user": {"x": 1}, "item": "a"}\n'
    data = read(write(tmp_path / "log.jsonl", text))
    assert data.users["id"].to_list() == ["1", "A12", '{"x": 1}']


def test_json_ids_that_are_objects_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", '{"user": {"id": 1}, "item": "a"}\n{"user": {"id": 2}, "item": "b"}\n')
    with pytest.raises(zy.DataError, match="no column looks like the user"):
        read(path)
    with pytest.raises(zy.DataError, match="lists or objects"):
        read(path, columns={"user": "user", "item": "item"})


def test_parquet_frames_and_parts(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS, schema=HEADER, orient="row")
    frame.write_parquet(tmp_path / "log.parquet")
    assert events_of(read(tmp_path / "log.parquet")) == EXPECTED
    for source in (
        frame,
        frame.lazy(),
        frame.to_pandas(),
        frame.with_columns(pl.col("user").cast(pl.Categorical)),
    ):
        assert events_of(read(source)) == EXPECTED
    assert events_of(read([frame[:2], frame[2:]])) == EXPECTED


def test_folder(tmp_path: Path) -> None:
    write(tmp_path / "ratings_1.csv", delimited(",", rows=ROWS[:3]))
    write(tmp_path / "ratings_2.csv", delimited(",", rows=ROWS[3:]))
    write(tmp_path / "items.csv", "item,title\na,Alpha\nb,Beta\nc,Gamma\n")
    write(tmp_path / "users.csv", "user,age\nann,30\nbob,40\n")
    write(tmp_path / "README.txt", "Ratings, and what they are\n")
    data = read(tmp_path)
    assert events_of(data) == EXPECTED
    assert data.items.rows() == [("a", "Alpha"), ("b", "Beta"), ("c", "Gamma")]
    assert data.users.rows() == [("ann", 30), ("bob", 40)]
    assert events_of(read([tmp_path])) == EXPECTED
    assert events_of(read([tmp_path / "ratings_1.csv", tmp_path / "ratings_2.csv"])) == EXPECTED


def test_kinds_from_a_mapping(tmp_path: Path) -> None:
    views = write(tmp_path / "v.csv", "user,item,time\nann,a,1400000000\nbob,b,1400000001\n")
    buys = write(tmp_path / "b.csv", "user,item,time\nann,a,1400000005\n")
    data = read({"view": views, "purchase": buys})
    assert data.events["kind"].to_list() == ["view", "purchase", "view"]
    assert data.events["weight"].to_list() == [1.0, 5.0, 1.0]
    assert data.kinds == ["purchase", "view"]


@pytest.mark.parametrize(
    "time",
    [
        "1400000000",
        "1400000000000",
        "1400000000000000",
        "1400000000000000000",
        "1400000000.0",
        "2014-05-13 16:53:20",
        "2014-05-13T16:53:20",
        "2014-05-13T16:53:20Z",
        "2014-05-13 16:53:20 UTC",
        "2014-05-13 16:53:20+00",
        "2014-05-13T18:53:20+02:00",
        "2014-05-13T18:53:20.000+0200",
        "2014-05-13T11:23:20-05:30",
        "2014/05/13 16:53:20",
        "05/13/2014 16:53:20",
        "13/05/2014 16:53:20",
        "13.05.2014 16:53:20",
    ],
)
def test_times_of_any_spelling(tmp_path: Path, time: str) -> None:
    data = read(write(tmp_path / "log.csv", f"user,item,time\nann,a,{time}\n"))
    assert data.events["time"].to_list() == [1_400_000_000_000_000]


def test_bad_rows_are_set_aside_with_line_and_reason(tmp_path: Path) -> None:
    text = (
        "user,item,rating,time\n"  # 1
        'ann,"a\nA",4,1400000000\n'  # 2, 3
        "\n"  # 4
        "bob,b,five,1400000001\n"  # 5
        ",b,3,1400000002\n"  # 6
        "ann,,3,1400000003\n"  # 7
        "ann,b,3,yesterday\n"  # 8
        "ann,b,3,\n"  # 9
        "ann,b,3,1400000004,what\n"  # 10
        "ann,b\n"  # 11
        "ann,b,3,5\n"  # 12
        'ann,"b" x,3,1400000005\n'  # 13
        'ann,"b,3,1400000005\n'  # 14
        ",,,\n"  # 15
        'bob,6" pipe,3.5,1400000006\n'  # 16
        'bob,"say ""b""",,1400000007\n'  # 17
    )
    data = read(write(tmp_path / "log.csv", text))
    assert aside(data) == [
        (5, "rating = 'five' is not a number"),
        (6, "user is missing"),
        (7, "item is missing"),
        (8, "time = 'yesterday' is not a time"),
        (9, "time is missing"),
        (10, "5 fields, but 4 columns"),
        (11, "2 fields, but 4 columns"),
        (12, "time = '5' is an impossible time (before 1971)"),
        (13, "a quote is never closed, or closed inside its field"),
        (14, "a quote is never closed, or closed inside its field"),
        (15, "user is missing"),
    ]
    assert data.quarantine["raw"][0] == "bob,b,five,1400000001"
    assert events_of(data) == [
        ("ann", "a\nA", 4.0, 1_400_000_000),
        ("bob", '6" pipe', 3.5, 1_400_000_006),
        ("bob", 'say "b"', None, 1_400_000_007),
    ]
    assert any("11 rows set aside" in note for note in data.notes)


@pytest.mark.parametrize("separator", [",", "::", "\t"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("ending", ["", "gz", "zst"])
def test_bad_rows_in_every_kind_of_text(tmp_path: Path, separator: str, header: bool, ending: str) -> None:
    rows: list[tuple] = [(str(u), str(100 + u), u % 5 + 1, 1_400_000_000 + u) for u in range(1, 30)]
    rows[9], rows[19], rows[25] = (*rows[9], "more"), ("20", "120", 2, "late"), ("26", "", 2, 1_400_000_000)
    path = write(tmp_path / "log.csv", delimited(separator, header, rows))
    data = read(compress(path, ending) if ending else path)
    time = "timestamp" if header else "column_4"
    assert aside(data) == [
        (10 + header, "5 fields, but 4 columns"),
        (20 + header, f"{time} = 'late' is not a time"),
        (26 + header, "item is missing"),
    ]
    assert data.n_events == 26
    assert data.quarantine["raw"][0] == separator.join(map(str, rows[9]))


def test_bad_rows_far_behind_the_sample(tmp_path: Path) -> None:
    rows: list[tuple] = [(u, 7 * u, u % 5, 1_400_000_000 + u) for u in range(1, 30_001)]
    rows[25_000] = (5, 35, "x", 1_400_000_000)
    rows[25_001] = (5, 35, 2.5, 1_400_000_000)
    rows[25_002] = (5, 35, 2, 1_400_000_000, 9)
    rows[25_003] = (5, 35, 2, "-")
    rows[25_004] = (9_999_999_999, "35 ", 2, 1_400_000_000)
    data = read(write(tmp_path / "log.csv", delimited(",", True, rows)))
    assert [line for line, _ in aside(data)] == [25_002, 25_004, 25_005]
    assert data.n_events + len(data.quarantine) == 30_000
    assert data.users["id"].dtype == pl.Int64
    assert data.users["id"][-1] == 9_999_999_999
    assert 2.5 in data.events["value"]


def test_strict_names_file_line_and_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item,time\n" + "ann,a,1400000000\n" * 8 + "ann,b,x\nann,c,y\n")
    with pytest.raises(zy.DataError) as caught:
        read(path, strict=True)
    assert caught.value.file == str(path)
    assert caught.value.row == 10
    assert "time = 'x' is not a time (2 bad rows in all)" in str(caught.value)


def test_lines_that_are_not_utf8_are_read_and_said(tmp_path: Path) -> None:
    text = b"user,item,rating\nann,caf\xe9,4\nbob,caf\xc3\xa9,3\n" + b"bob,x,4\n" * 4 + b"bob,x,4\xe9\n"
    data = read(write(tmp_path / "log.csv", text))
    assert data.items["id"].to_list() == ["café", "x"]
    assert aside(data) == [(8, "rating = '4é' is not a number")]
    assert any("2 lines of log.csv are not UTF-8" in note for note in data.notes)


def test_mixed_ids_become_text(tmp_path: Path) -> None:
    rows = "".join(f"{u},{u}\n" for u in range(1, 12_000))
    data = read(write(tmp_path / "log.csv", f"user,item\n{rows}A12,5\n"))
    assert data.users["id"].dtype == pl.String
    assert data.user_ids.encode([7, "7", "A12", 12_345]).tolist() == [
        *data.user_ids.encode(["7", "7"]).tolist(),
        data.n_users - 1,
        -1,
    ]
    assert data.n_events == 12_000


def test_ids_written_as_floats_and_with_zeros(tmp_path: Path) -> None:
    data = read(write(tmp_path / "log.csv", "user,item\n17850.0,007\n,7\n17851.0,12\n"))
    assert data.users["id"].to_list() == [17850, 17851]
    assert data.items["id"].to_list() == ["007", "12"]
    assert aside(data) == [(3, "user is missing")]


def test_pandas_of_every_kind() -> None:
    frame = pd.DataFrame({"user": [1.0, np.nan, 2.0], "item": ["a", 5, None], 3: [1, 2, 3]})
    data = read(frame)
    assert data.users["id"].to_list() == [1]
    assert aside(data) == [(2, "user is missing"), (3, "item is missing")]
    nullable = pd.DataFrame({"user": pd.array([1, None], dtype="Int64"), "item": pd.Categorical(["a", "b"])})
    assert aside(read(nullable)) == [(2, "user is missing")]


@pytest.mark.parametrize("source", [5, None, np.zeros(3), []])
def test_what_cannot_be_read_is_said(source) -> None:
    with pytest.raises(zy.DataError):
        read(source)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet", "log.csv.gz", "log.csv.zst", "log.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_files(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(zy.DataError, match=r"empty|damaged|Parquet") as caught:
        read(write(tmp_path / name, content))
    assert caught.value.file == tmp_path / name
    assert caught.value.remedy


def test_a_column_named_time_that_holds_none_is_said() -> None:
    data = read(pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": [1, 2]}))
    assert not data.has_times
    assert any("time is named like one" in note for note in data.notes)


def test_only_a_header(tmp_path: Path) -> None:
    with pytest.raises(zy.DataError):
        read(write(tmp_path / "log.csv", "user,item,time\n"))


def test_missing_file_and_missing_column_name_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "ratings.csv", delimited(","))
    with pytest.raises(zy.DataError, match=r"no such file(.|\n)*did you mean 'ratings.csv'"):
        read(tmp_path / "rating.csv")
    with pytest.raises(zy.DataError, match=r"no column 'tiem'(.|\n)*did you mean 'time"):
        read(pl.DataFrame({"user": [1], "item": [1], "time": [1_400_000_000]}), columns={"time": "tiem"})
    with pytest.raises(zy.DataError, match=r"no role 'itemm'(.|\n)*did you mean 'item'"):
        read(tmp_path / "ratings.csv", columns={"itemm": "item"})
    other = write(tmp_path / "other.csv", "user,item,ratings,timestamp\nann,a,1,1400000000\n")
    with pytest.raises(zy.DataError, match=r"other.csv.*no column 'rating'(.|\n)*did you mean 'ratings'"):
        read([tmp_path / "ratings.csv", other])


def test_weights() -> None:
    log = pl.DataFrame(
        {
            "user": ["u"] * 5,
            "item": list("abcde"),
            "kind": ["view", "play", "play", "dislike", "view"],
            "rating": [1.0, 31.0, 30.0, None, 4.0],
        }
    )

    def weights(**rules: float) -> list[float]:
        return (
            read(log, weights={name.replace("_", " "): weight for name, weight in rules.items()})
            .events["weight"]
            .to_list()
        )

    assert weights(view=1, dislike=-1) == [1, 0, 0, -1, 1]
    assert read(log, weights={"play > 30": 2, "play": 0.5}).events["weight"].to_list() == [0, 2, 0.5, 0, 0]
    assert read(log, weights={"rating >= 4": 1}).events["weight"].to_list() == [0, 1, 1, 0, 1]
    assert read(log).events["weight"].to_list() == [1, 1, 1, -1, 1]
    with pytest.raises(zy.ConfigError, match=r"names no kind(.|\n)*did you mean 'view'"):
        read(log, weights={"veiw": 1})
    with pytest.raises(zy.ConfigError, match="compares ratings, and the log has none"):
        read(log.drop("rating"), weights={"rating >= 4": 1})
    for wrong in ({"": 1}, {"view": "x"}, {"view": float("nan")}):
        with pytest.raises(zy.ConfigError):
            read(log, weights=wrong)


def test_negative_quantities_count_against() -> None:
    log = pl.DataFrame({"user": [1, 1], "item": [1, 2], "quantity": [3, -2]})
    assert read(log).events["weight"].to_list() == [1, -1]


def test_items_found_by_their_contents() -> None:
    """As in Goodbooks: the log's book_id is the catalogue's id, and its book_id is something else."""
    log = pl.DataFrame({"user_id": [1, 1, 2], "book_id": [1, 2, 3], "rating": [5, 4, 3]})
    books = pl.DataFrame({"id": [1, 2, 3, 4], "book_id": [27, 3, 41, 9], "title": list("abcd")})
    data = read(log, items=books)
    assert data.items["title"].to_list() == ["a", "b", "c", "d"]
    assert any("items by id, 100.0%" in note and "not book_id" in note for note in data.notes)
    assert read(log, items=books, columns={"item_id": "book_id"}).items["title"].to_list() == [
        None, None, "b", "d", "a", "c",
    ]  # fmt: skip
    with pytest.raises(zy.DataError, match="no column holds the items"):
        read(log, items=pl.DataFrame({"id": [77, 78], "title": ["x", "y"]}))


def test_bad_lines_of_the_catalogue_are_said(tmp_path: Path) -> None:
    items = write(tmp_path / "items.csv", "item,title\na,Alpha\nb,Beta,too many\nc,Gamma\n")
    data = read(pl.DataFrame({"user": [1, 1], "item": ["a", "b"]}), items=items)
    assert data.items.rows() == [("a", "Alpha"), ("b", None), ("c", "Gamma")]
    assert any("items.csv: 1 rows set aside, the first is line 3" in note for note in data.notes)


def test_columns_of_the_log_describe_items() -> None:
    log = pl.DataFrame(
        {"user": [1, 2, 1], "item": ["a", "a", "b"], "title": ["old", "new", None], "country": list("xyx")}
    )
    data = read(log)
    assert data.items.rows() == [("a", "new"), ("b", None)]
    assert data.users.rows() == [(1, "x"), (2, "y")]


def test_decimals() -> None:
    log = pl.DataFrame({"user": ["17850", "17851"], "item": ["1.00", "2.00"], "rating": ["4.5", "3.0"]})
    data = read(log.cast({"user": pl.Decimal(10, 0), "item": pl.Decimal(10, 2), "rating": pl.Decimal(3, 1)}))
    assert data.users["id"].to_list() == [17850, 17851]
    assert data.items["id"].to_list() == [1, 2]
    assert data.events["value"].to_list() == [4.5, 3.0]


@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_ever_lost(tmp_path: Path, seed: int) -> None:
    """Random dirt: the number of events and quarantined rows is the number of lines that are not blank."""
    rng = np.random.default_rng(seed)
    lines, rows = ["user,item,rating,time"], 0
    dirt = [
        "", " ", "1,2", "1,2,3,1400000000,5", '"1,2,3,1400000000', '1,"2" 3,3,1400000000', ",2,3,1400000000",
        ",,,", '1,a"b,3,1400000000', '1,"a""b",3,1400000000', "1,2,x,1400000000", "1,2,3,x",
        '1,2,3,"1400000000"',
    ]  # fmt: skip
    for row in range(5_000):
        line = f"{row % 97},{row % 31},{row % 5},{1_400_000_000 + row}"
        if rng.random() < 0.05:
            line = dirt[rng.integers(len(dirt))]
        lines.append(line)
        rows += line.strip() != ""
    data = read(write(tmp_path / "log.csv", "\n".join(lines)))
    assert data.n_events + len(data.quarantine) == rows
    for line, raw in zip(data.quarantine["line"], data.quarantine["raw"]):
        assert lines[line - 1] == raw


REAL = {
    "movielens-100k": (100_000, 943, 1_682, True),
    "movielens-small": (100_004, 671, 9_125, True),
    "goodbooks": (981_756, 53_424, 10_000, False),
    "lastfm": (92_834, 1_892, 17_632, False),
}


@pytest.mark.parametrize("name", REAL)
def test_real_folders(real_data, name: str) -> None:
    data = read(real_data(name))
    assert (data.n_events, data.n_users, data.n_items, data.has_times) == REAL[name]
    assert not len(data.quarantine)


@pytest.mark.slow
def test_online_retail(real_data) -> None:
    data = read(real_data("online-retail") / "online_retail.csv.gz")
    assert data.roles.user == "CustomerID"
    assert data.roles.item == "StockCode"
    assert data.roles.time == "InvoiceDate"
    assert data.roles.rating == "Quantity"
    assert data.n_events + len(data.quarantine) == 541_909
    assert set(data.quarantine["reason"]) == {"user is missing"}
    assert data.n_users == 4_372
    assert data.users["id"].dtype == pl.Int64
    assert (data.events.filter(pl.col("value") < 0)["weight"] == -1).all()


def test_retailrocket(real_data) -> None:
    folder = real_data("retailrocket")
    parts = {kind: folder / f"train_mat_{kind}.tsv" for kind in ("view", "cart", "buy")}
    data = read(parts)
    assert data.n_events == sum(path.read_bytes().count(b"\n") for path in parts.values())
    assert data.has_times
    assert data.kinds == ["buy", "cart", "view"]


def test_movies_in_latin_1(real_data) -> None:
    movies = real_data("movielens-1m") / "movies.dat"
    data = read(pl.DataFrame({"user": [1, 1], "item": [1, 2]}), items=movies)
    assert data.n_items == 3_883
    assert data.items.filter(pl.col("id") == 1)["column_2"].to_list() == ["Toy Story (1995)"]
    assert data.items["column_2"].str.contains("Misérables, Les").any()
