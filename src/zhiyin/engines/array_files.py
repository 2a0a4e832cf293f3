"""Arrays in files of a folder that driver and workers share.

A file is written under another name and renamed, so that a task that runs twice, or is ended half way, leaves no part
of a file. Reading maps the file copy-on-write: processes of a machine share the memory, and a kernel gets the writable
array type that it is compiled for in a single process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

_CSR = ("data", "indices", "indptr")


def write_array(path: Path, array: np.ndarray) -> None:
    draft = _draft(path)
    with open(draft, "wb") as opened:
        np.save(opened, array, allow_pickle=False)
    os.replace(draft, path)


def read_array(path: Path) -> np.ndarray:
    """The array of a file, mapped copy-on-write."""
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray)
    except ValueError:  # an empty array cannot be mapped
        return np.load(path, allow_pickle=False)


def write_matrix(folder: Path, name: str, matrix: sparse.csr_matrix) -> None:
    for part in _CSR:
        write_array(folder / f"{name}.{part}.npy", getattr(matrix, part))


def read_matrix_parts(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """indptr, indices and data of a CSR matrix."""
    data, indices, indptr = (read_array(folder / f"{name}.{part}.npy") for part in _CSR)
    return indptr, indices, data


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame as an Arrow file that `read_frame` maps."""
    draft = _draft(path)
    frame.rechunk().write_ipc(draft, compression="uncompressed")
    os.replace(draft, path)


def write_batches(path: Path, frames: Iterable[pl.DataFrame], schema: pl.Schema) -> int:
    """Write frames of one schema, one after the other, as an Arrow file that `read_frame` reads. Returns the rows."""
    import pyarrow as pa

    draft, n = _draft(path), 0
    arrow = pl.DataFrame(schema=schema).to_arrow().schema
    with pa.OSFile(str(draft), "wb") as opened, pa.ipc.new_file(opened, arrow) as writer:
        for frame in frames:
            writer.write_table(frame.to_arrow().cast(arrow))
            n += len(frame)
    os.replace(draft, path)
    return n


def read_frame(path: Path) -> pl.DataFrame:
    return pl.read_ipc(path)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")
