"""Files are what their content says, and unpack within limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import mmap
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.file_formats import raw_bytes
from zhiyin.data.reading import read

RANDOM = np.random.default_rng(7).bytes(5000)
LOG = b"user,item\n" + b"".join(b"%d,%d\n" % (n % 40, n * 7 % 31) for n in range(300))


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content).to_pybytes()


def zipped(content: bytes, *names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ("log.csv",):
            archive.writestr(name, content)
    return out.getvalue()


def tarred(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("log.csv")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": zipped, "zst": zstd}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["log.csv", "LOG.CSV.{}", "log.CSV.{upper}", "log", "log.txt"])
def test_packed_files_under_any_name(tmp_path: Path, packer: str, name: str) -> None:
    path = tmp_path / name.format(packer, upper=packer.upper())
    path.write_bytes(PACKERS[packer](LOG))
    data = read(path)
    assert (data.n_events, data.n_users, data.n_items) == (300, 40, 31)


@pytest.mark.parametrize("name", ["log.csv", "log.dat", "log.json"])
def test_parquet_and_arrow_under_any_name(tmp_path: Path, name: str) -> None:
    frame = pl.read_csv(LOG)
    frame.write_parquet(tmp_path / name)
    assert read(tmp_path / name).n_events == 300
    frame.write_ipc(tmp_path / name)
    assert read(tmp_path / name).n_events == 300
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert read(tmp_path / name).n_events == 300


def test_a_plain_file_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x")
    assert isinstance(raw_bytes(tmp_path / "a.csv"), mmap.mmap)


@pytest.mark.parametrize("ending", ["gz", "zst", "bz2", "xz", "zip"])
def test_damaged_files_are_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"log.csv.{ending}"
    packed = PACKERS[ending](LOG)
    for content in (packed[: len(packed) // 2], RANDOM[:500], packed[:6]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"damaged|no text") as caught:
            read(path)
        assert caught.value.file == path


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"%PDF-1.7 ...", "a PDF"),
        (b"\xd0\xcf\x11\xe0" * 200, "Excel"),
        (zipped(LOG, "xl/workbook.xml"), "Office"),
        (zipped(LOG, "a.csv", "b.csv"), "2 files: a.csv, b.csv"),
        (zipped(gzip.compress(LOG), "a.csv.gz"), "a gzip file lies in this zip file"),
        (b"SQLite format 3\x00" + bytes(100), "SQLite"),
        (RANDOM, "no text"),
        (b"user,item\n\x00\x00,\x00\n" * 50, "no text"),
    ],
)
def test_what_is_no_table_is_refused_by_its_name(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        read(tmp_path / "log.csv")
    assert caught.value.remedy


@pytest.mark.parametrize("packer", ["gz", "bz2", "xz", "zip", "zst"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, packer: str) -> None:
    path = tmp_path / f"log.csv.{packer}"
    head, rows = b"user,item\n", b"u,i\n" * 250_000
    if packer in ("bz2", "xz"):  # slow to pack: a file of several streams unpacks to one text, too
        path.write_bytes(PACKERS[packer](head) + PACKERS[packer](rows) * 100)
    else:
        path.write_bytes(PACKERS[packer](head + rows * 100))
    with pytest.raises(DataError, match="200 times its size"):
        read(path)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.csv")
    with pytest.raises(DataError, match="no regular file"):
        read(tmp_path / "log.csv")


def test_too_many_columns_are_refused(tmp_path: Path) -> None:
    cells = [f"c{n}" for n in range(50_000)]
    (tmp_path / "wide.csv").write_text(",".join(cells) + "\n" + ",".join(["1"] * 50_000) + "\n")
    with pytest.raises(DataError, match="50,000 columns"):
        read(tmp_path / "wide.csv")


@pytest.mark.parametrize(
    ("content", "match", "remedy"),
    [
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n", "a web page", "download"),
        (b"\xef\xbb\xbf\n <table><tr><td>user</td></tr></table>", "a web page", "download"),
        (b"<?xml version='1.0'?><events/>", "an XML file", "CSV"),
        (tarred(LOG), "a tar archive", "unpack"),
        (gzip.compress(tarred(LOG)), "a tar archive", "unpack"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS", "git lfs pull"),
        (pickle.dumps([1, 2]), "a Python pickle", "Parquet"),
        (b"\x93NUMPY\x01\x00" + bytes(100), "a NumPy array", "Parquet"),
        (bytes(8) + b"DUCK" + bytes(100), "DuckDB", "COPY"),
        (b"\x89PNG\r\n\x1a\n" + RANDOM, "a picture", "CSV"),
        (b"ORC\x00\x01" + RANDOM, "an ORC file", "Parquet"),
    ],
)
def test_formats_that_are_not_read_are_told_by_their_content(
    tmp_path: Path, content: bytes, match: str, remedy: str
) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        read(tmp_path / "log.csv")
    assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize("name", ["ORCID", "PAR1", "Rar!", "GIF8", "RDX", "BZhang", "A"])
def test_a_header_that_begins_as_a_format_does_is_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "log.csv").write_text(f"{name},item\n" + "".join(f"{k % 9},{k % 7}\n" for k in range(60)))
    assert read(tmp_path / "log.csv", columns={"user": name}).n_users == 9


def test_an_encrypted_archive_is_named(tmp_path: Path) -> None:
    content = bytearray(zipped(LOG, "log.csv"))
    content[6] |= 1  # the flags of the file, and of its entry in the directory
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "log.zip").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        read(tmp_path / "log.zip")


def test_what_is_no_path_is_said(tmp_path: Path) -> None:
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nothing")
    for source, match in [
        ("user,item\n1,2\n" * 500, "no such file"),
        ("x" * 5_000, "no such file"),
        ("a\0b.csv", "no such file"),
        (str(tmp_path / "gone.csv"), "leads to no file"),
        (str(tmp_path / "*.csv"), "patterns are not expanded"),
    ]:
        with pytest.raises(DataError) as caught:
            read(source)
        assert match in str(caught.value)
        assert len(str(caught.value)) < 1_000
    for address in ("https://example.com/log.csv", "s3://shop/log.parquet"):
        with pytest.raises(ConfigError, match="no address that is read"):
            read(address)
    (tmp_path / "a log.csv").write_bytes(LOG)
    assert read((tmp_path / "a log.csv").as_uri()).n_events == read(tmp_path / "a log.csv").n_events
