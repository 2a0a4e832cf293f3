"""Records of delimited text against Python's csv module."""

from __future__ import annotations

import csv
import io
import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import DataError
from zhiyin.data.records import Records, count, raw_bytes, to_utf8

_CELL = st.text(alphabet='ab ,"\n;é', max_size=6)
_ROWS = st.lists(st.lists(_CELL, min_size=1, max_size=4), min_size=1, max_size=8)


@given(_ROWS, st.sampled_from([",", ";", "\t"]), st.booleans())
def test_scan_agrees_with_the_csv_module(rows: list[list[str]], separator: str, all_quoted: bool) -> None:
    out = io.StringIO()
    how = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(out, delimiter=separator, lineterminator="\n", quoting=how)
    begins = []
    for row in rows:
        begins.append(out.getvalue().count("\n") + 1)
        writer.writerow(row)
    text = out.getvalue()
    records = Records.scan(text.encode(), separator)
    assert len(records) == len(rows)
    assert records.lines.tolist() == begins
    assert not records.torn.any()
    for at, row in enumerate(rows):
        raw = records.raw(at).decode()
        assert next(csv.reader(io.StringIO(raw, newline=""), delimiter=separator), [""]) == row
        blank = not raw.strip(" \r\n") and separator not in raw
        assert records.fields[at] == (0 if blank else len(row))
    found = count(text.encode(), separator, True)
    assert (found.records, found.torn) == (len(rows), 0)
    assert found.separators == sum(len(row) - 1 for row in rows)


@given(st.binary(max_size=60))
def test_any_bytes_are_cut_without_loss(content: bytes) -> None:
    for quoted in (True, False):
        records = Records.scan(content, ",", quoted)
        assert b"".join(records.raw(at) for at in range(len(records))) == content
        assert records.rewrite(np.arange(len(records))) == b""
        assert records.rewrite(np.zeros(0, int)) == content
        assert records.rewrite(np.arange(len(records)), lambda at, r=records: r.raw(at)) == content
        assert len(records) == count(content, ",", quoted).records


def test_a_torn_record_ends_with_its_line() -> None:
    records = Records.scan(b'a,"b\nc,d\n"e" f,g\n"h\nh",i\n"j', ",")
    assert [records.text(at) for at in range(len(records))] == ['a,"b', "c,d", '"e" f,g', '"h\nh",i', '"j']
    assert records.torn.tolist() == [True, False, True, False, True]
    assert records.lines.tolist() == [1, 2, 3, 4, 6]


def test_odd_quotes() -> None:
    records = Records.scan(b'a"b,c\n"a ""b""",c\n6" and 7",c\n7",c\n', ",")
    assert records.odd_quotes().tolist() == [0, 3]
    assert count(records.content, ",", True).loose == 4


def test_lines_in_other_encodings() -> None:
    good = "é,1\n".encode() * 600_000  # more than one block
    text, mended = to_utf8(good + b"\xe9\n" + good)
    assert mended == 1
    assert text == good + "é\n".encode() + good
    assert to_utf8(good) == (good, 0)


def test_raw_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"x")
    assert isinstance(raw_bytes(path), mmap.mmap)
    for ending in (".gz", ".zst"):
        (tmp_path / f"b{ending}").write_bytes(b"\x28\xb5\x2f\xfd nonsense")
        with pytest.raises(DataError, match="damaged"):
            raw_bytes(tmp_path / f"b{ending}")
