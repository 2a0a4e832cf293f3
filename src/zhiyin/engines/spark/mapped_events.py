"""The events of a log at the driver: columns in files, mapped, so that only what is read of them is in memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from zhiyin.engines.array_files import read_frame

if TYPE_CHECKING:
    import pyarrow as pa

_TYPES = {"user": np.int32, "item": np.int32, "time": np.int64, "value": np.float32, "weight": np.float32}


def joined_events(files: list[Path], folder: Path, kinds: list[str]) -> pl.DataFrame:
    """The events of Arrow files, one after the other, as a `Dataset` has them.

    Parameters
    ----------
    files: with the columns of events, kinds as codes and NaN for no value.
    folder: where the columns are written, and mapped from; the frame stays readable when the folder is removed.
    kinds: names by code.
    """
    n = _write_columns(files, folder)
    if not n:
        empty = {name: pl.Series(name, np.zeros(0, dtype)) for name, dtype in _TYPES.items()}
        return _ordered(empty | {"kind": pl.Series("kind", [], dtype=pl.Enum(kinds))})
    columns = {name: _mapped(name, folder) for name in _TYPES}
    codes = _mapped("kind", folder).cast(pl.UInt32)
    return _ordered(columns | {"kind": pl.Series("kind", kinds, dtype=pl.Enum(kinds)).gather(codes)})


def _ordered(columns: dict[str, pl.Series]) -> pl.DataFrame:
    return pl.DataFrame([columns[name].alias(name) for name in ("user", "item", "time", "kind", "value", "weight")])


def _write_columns(files: list[Path], folder: Path) -> int:
    """Write each column of the files as one array. Returns its length."""
    n = sum(pl.scan_ipc(file).select(pl.len()).collect().item() for file in files)
    with contextlib.ExitStack() as stack:
        outputs = {}
        for file in files:
            events = read_frame(file)
            for name in events.columns:
                array = events[name].to_numpy()
                if name not in outputs:
                    outputs[name] = stack.enter_context(open(folder / f"{name}.npy", "wb"))
                    header = {"descr": array.dtype.str, "fortran_order": False, "shape": (n,)}
                    np.lib.format.write_array_header_1_0(outputs[name], header)
                outputs[name].write(np.ascontiguousarray(array).data)
    return n


def _mapped(name: str, folder: Path) -> pl.Series:
    """A column of a file, without a copy; NaN becomes null."""
    import pyarrow as pa

    array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    is_valid = None
    if array.dtype.kind == "f" and name == "value":
        is_valid = pa.py_buffer(np.packbits(~np.isnan(array), bitorder="little"))
    arrow: pa.Array = pa.Array.from_buffers(
        pa.from_numpy_dtype(array.dtype), len(array), [is_valid, pa.py_buffer(array)]
    )
    return pl.Series(name, pl.from_arrow(arrow))
