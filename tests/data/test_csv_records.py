"""Records of delimited text against Python's csv module."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.data.csv_records import Records, count, has_leading_zeros

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


@pytest.mark.parametrize("field", [b"007", b"+5", b"-0", b'"01"', b" 05"])
def test_fields_that_no_whole_number_is_written_as(field: bytes) -> None:
    plain = b"10,-5\n0,20.05\n"
    assert not has_leading_zeros(plain * 100_000, ",")
    assert has_leading_zeros(plain * 100_000 + b"1," + field + b"\n" + plain, ",")
    assert has_leading_zeros(field + b",1\n", ",")
