"""The format of a file by its first bytes, not by its name, and its content, decompressed within limits.

gzip, zstd, bzip2, xz and zip are unpacked into memory. A file of no known format is text. The limits keep a
small hostile file from taking all memory: a text log packs to about a tenth, a bomb to a thousandth.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import mmap
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import polars as pl

from zhiyin.core.errors import DataError
from zhiyin.core.memory import available_bytes

PACKED = (".gz", ".zst", ".zstd", ".bz2", ".xz", ".zip")
RATIO = 200  # times its own size that a packed file may unpack to ...
FREE = 64 << 20  # ... beyond this many bytes, which any file may
_BLOCK = 1 << 20

_MAGIC = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip",
    b"PAR1": "parquet", b"ARROW1": "arrow", b"SQLite format 3\x00": "sqlite",
    b"%PDF": "pdf", b"\xd0\xcf\x11\xe0": "xls", b"\x89HDF": "hdf5", b"7z\xbc\xaf": "7z", b"Rar!": "rar",
    b"Obj\x01": "avro", b"ORC": "orc", b"\xff\xff\xff\xff": "arrow stream", b"FEA1": "feather 1", b"\x93NUMPY": "numpy",
    b"\x80\x02": "pickle", b"\x80\x03": "pickle", b"\x80\x04": "pickle", b"\x80\x05": "pickle", b"RDX": "r",
    b"X\n\x00\x00\x00": "r", b"\x89PNG": "picture", b"\xff\xd8\xff": "picture", b"GIF8": "picture",
    b"<stata_dta>": "stata", b"$FL2": "spss", b"version https://git-lfs": "lfs",
}  # fmt: skip
UNPACKED = {"text", "parquet", "arrow", "sqlite"}
_REFUSED = {
    "pdf": "a PDF", "xls": "an Excel workbook", "hdf5": "an HDF5 file", "7z": "a 7z archive", "rar": "a RAR archive",
    "avro": "an Avro file", "orc": "an ORC file", "arrow stream": "a stream of Arrow batches",
    "feather 1": "a Feather file of version 1", "numpy": "a NumPy array", "pickle": "a Python pickle",
    "r": "an R data file", "picture": "a picture", "stata": "a Stata file", "spss": "an SPSS file",
    "tar": "a tar archive", "duckdb": "a DuckDB database", "html": "a web page", "xml": "an XML file",
    "lfs": "a pointer to a file of Git LFS, not the file",
}  # fmt: skip
# What is done about those that saving again as a table does not mend.
_REMEDIES = {
    "tar": "unpack it, and name the file or the folder", "lfs": "fetch the file itself: git lfs pull",
    "html": "download the file itself, or save the table of the page as CSV",
    "duckdb": "COPY the table to a Parquet file, and name that",
}  # fmt: skip
_HEAD = 512  # bytes that tell a format
_MARKUP = {"html": ("<!doctype html", "<html", "<head", "<table"), "xml": ("<?xml",)}


def format_of(head: bytes) -> str:
    """The format that a file's first bytes tell: "text" where no other is known."""
    binary = any(byte < 9 for byte in head)  # "ORCID,item" is the header of a text
    for magic, kind in _MAGIC.items():
        if head.startswith(magic) and (binary or not magic.isascii() or len(magic) > 4 or kind == "pdf"):
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    if head[8:12] == b"DUCK":
        return "duckdb"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:16].decode("ascii", errors="replace").lower()
    return next((kind for kind, starts in _MARKUP.items() if start.startswith(starts)), "text")


def format_of_file(path: Path) -> str:
    """As `format_of`. Raises DataError for what is no regular file."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError("this is no regular file", file=path, remedy="write what it gives into a file, and name that")
    with path.open("rb") as file:
        return format_of(file.read(_HEAD))


def compression_of(path: Path) -> str | None:
    """The compression of a file, such as "gzip"; None for a plain one."""
    kind = format_of_file(path)
    return kind if kind in ("gzip", "zstd", "bzip2", "xz", "zip") else None


def plain_name(path: Path) -> str:
    """The file's name in lower case, without the ending of a packer."""
    name = path.name.lower()
    return next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)


def raw_bytes(path: Path) -> bytes | mmap.mmap:
    """The file's content, unpacked; a plain file is mapped, not read."""
    kind = format_of_file(path)
    if kind in _REFUSED:
        raise _refused(path, kind)
    if kind in UNPACKED:
        if path.suffix.lower() in PACKED and path.stat().st_size:
            named = path.suffix.lower().removeprefix(".")
            _refuse_binary(path, f"the {named} file is damaged: it does not begin as one")
        if not path.stat().st_size:
            if path.suffix.lower() in PACKED:
                raise DataError("the file is empty or damaged", file=path, remedy="fetch it again")
            return b""
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        content = b"".join(_limited(_unpacked(path, kind), path, kind))
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or of a method that Python does not know
        raise DataError(f"the {kind} file cannot be unpacked: {error}", file=path, remedy="unpack it first") from None
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        raise DataError(f"the {kind} file is damaged: {error}", file=path, remedy="fetch it again") from None
    except MemoryError:
        raise _too_large(path, kind, "more than the memory holds") from None
    inner = format_of(content[:_HEAD])
    if inner in _REFUSED:
        raise _refused(path, inner)
    if inner not in UNPACKED:
        raise DataError(
            f"a {inner} file lies in this {kind} file", file=path, remedy="unpack it once, and name what comes out"
        )
    return content


def _refused(path: Path, kind: str) -> DataError:
    return DataError(
        f"this is {_REFUSED[kind]}", file=path, remedy=_REMEDIES.get(kind, "save it as CSV or Parquet, and name that")
    )


def _refuse_binary(path: Path, message: str) -> None:
    """Raise DataError where a file that is named as packed and is not holds no text either."""
    with path.open("rb") as file:
        head = file.read(4096)
    if sum(byte < 9 or 13 < byte < 32 for byte in head) > 0.02 * len(head):
        raise DataError(message, file=path, remedy="fetch it again")


def _limited(blocks: Iterator[bytes], path: Path, kind: str) -> Iterator[bytes]:
    """The blocks, until they are more than the limits allow."""
    size, n_bytes = path.stat().st_size, 0
    max_bytes = max(FREE, RATIO * size)
    free_memory = int(0.6 * available_bytes())
    for block in blocks:
        n_bytes += len(block)
        if n_bytes > max_bytes:
            raise _too_large(path, kind, f"more than {RATIO} times its size")
        if n_bytes > free_memory:
            raise _too_large(path, kind, f"more than {free_memory >> 20:,} MiB, and memory has no room for it")
        yield block


def _too_large(path: Path, kind: str, what: str) -> DataError:
    return DataError(
        f"this {kind} file of {path.stat().st_size:,} bytes unpacks to {what}",
        file=path,
        remedy="if that is right, unpack it first and name the plain file, which is not read into memory as a whole",
    )


def _unpacked(path: Path, kind: str) -> Iterator[bytes]:
    if kind == "zstd":
        yield from _zstd(path)
        return
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            yield from _blocks_of(archive.open(_member(archive, path)))
        return
    opened: Any = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[kind]
    with opened(path, "rb") as file:
        yield from _blocks_of(file)


def _blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _member(archive: zipfile.ZipFile, path: Path) -> str:
    """The one table of an archive. Raises DataError where there are several, or it is a workbook."""
    names = archive.namelist()
    if any(name.startswith(("xl/", "word/", "ppt/")) or name == "mimetype" for name in names):
        raise DataError("this is an Office file", file=path, remedy="save the sheet as CSV, and name that")
    tables = [
        info.filename
        for info in archive.infolist()
        if not info.is_dir() and info.file_size and not info.filename.startswith(("__MACOSX/", "."))
    ]
    if len(tables) != 1:
        listed = ", ".join(tables[:5])
        raise DataError(
            f"the archive holds {len(tables)} files{': ' + listed if listed else ''}",
            file=path, remedy="unpack it, and name the file or the folder",
        )  # fmt: skip
    return tables[0]


def _zstd(path: Path) -> Iterator[bytes]:
    size = _zstd_size(path)
    if size > max(FREE, RATIO * path.stat().st_size):
        raise _too_large(path, "zstd", f"more than {RATIO} times its size")
    if size > 0.3 * available_bytes():
        raise _too_large(path, "zstd", f"{size >> 20:,} MiB, and memory has no room for it")
    try:
        import pyarrow
    except ImportError:
        yield _zstd_lines(path)
        return
    with pyarrow.input_stream(str(path), compression="zstd") as file:
        yield from _blocks_of(file)


def _zstd_lines(path: Path) -> bytes:
    """A zstd file of UTF-8 text, by the one decompressor that is surely installed: the CSV reader of Polars."""
    try:
        frame = pl.read_csv(
            path, separator="\x01", quote_char=None, has_header=False, infer_schema=False, truncate_ragged_lines=True
        )
    except pl.exceptions.NoDataError:
        return b""
    return frame.to_series(0).fill_null("").str.join("\n").item().encode()


def _zstd_size(path: Path) -> int:
    """The size of the content that the header of a zstd file states; 0 where it states none (RFC 8878, 3.1.1.1)."""
    with path.open("rb") as file:
        head = file.read(18)
    if len(head) < 6:
        return 0
    flags = head[4]
    single, size_flag = bool(flags & 0x20), flags >> 6
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    width = {0: 1 if single else 0, 1: 2, 2: 4, 3: 8}[size_flag]
    size = int.from_bytes(head[at : at + width], "little")
    return size + 256 if width == 2 else size


def as_file(content: bytes | mmap.mmap) -> IO[bytes]:
    """Content as a file object, for readers that want one."""
    return io.BytesIO(content[:])
