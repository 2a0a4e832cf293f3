"""Columns of a query of an SQLite file as Polars series, read by compiled code.

The `sqlite3` module makes an object of Python of each value, which costs ten times what SQLite itself takes for it, and
holds up all other threads. Here compiled code calls the functions of SQLite and copies values into arrays, without the
GIL. They are the functions of the very library that the `sqlite3` module uses: two copies of SQLite in one process
lose each other's locks on a file (sqlite.org/howtocorrupt.html, 2.2.1), so another driver must not be taken for it.

Where these functions cannot be reached (a Python that SQLite is part of), or a value is not of its column's type, the
caller is told so and reads rows. What it saves is printed by

    python benchmarks/store.py columns
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from zhiyin.core.parallel import compiled

# Ends each text of a column: no id or kind has a control character.
SEPARATOR = "\x1f"
# Bytes of the texts of a column at first, for each row.
BYTES_PER_TEXT = 24
# Milliseconds to wait for a lock.
BUSY_TIMEOUT_MS = 10_000
_OPEN_READ_WRITE, _OPEN_NO_MUTEX = 0x2, 0x8000  # a reader of a write-ahead log writes its shared index
_OK, _ROW, _DONE = 0, 100, 101
# Results of the kernel beside SQLite's own.
_NO_SPACE, _BAD_VALUE = -1, -2
# Types of values in SQLite, and of columns here.
_INTEGER, _FLOAT, _TEXT, _NULL = 1, 2, 3, 5
_KINDS = {"integer": 0, "number": 1, "text": 2}
_FUNCTIONS = ("step", "column_type", "column_int64", "column_double", "column_blob", "column_bytes")
_STEP, _TYPE, _INT64, _DOUBLE, _BLOB, _BYTES = range(len(_FUNCTIONS))


def read_columns(
    path: Path, statement: str, parameters: Sequence[int], columns: Mapping[str, str], n_rows: int
) -> dict[str, pl.Series] | None:
    """The columns of a query's first `n_rows` rows; None: read rows instead.

    A transaction of its own: it sees what is committed when it begins.

    Parameters
    ----------
    parameters: values of the `?`s of the statement.
    columns: name and type of each column of the statement: "integer", "number" or "text".
    """
    library = _library()
    if library is None or n_rows <= 0:
        return None
    try:
        with _opened(library, path) as database, _prepared(library, database, statement, parameters) as query:
            return _read(query, columns, n_rows)
    except (_SqliteError, UnicodeDecodeError):  # reading rows says what is wrong
        return None


class _SqliteError(Exception):
    """A function of SQLite has failed."""


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library that the `sqlite3` module calls; None where it cannot be reached."""
    import _sqlite3

    try:
        # Symbols are searched for in the module and in what it was linked to, and nowhere else.
        library = ctypes.CDLL(_sqlite3.__file__)
        for name in (*_FUNCTIONS, "open_v2", "close_v2", "busy_timeout", "prepare_v2", "bind_int64", "finalize"):
            getattr(library, f"sqlite3_{name}")
    except (AttributeError, OSError):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.sqlite3_open_v2.argtypes = [ctypes.c_char_p, ctypes.POINTER(pointer), number, ctypes.c_char_p]
    library.sqlite3_close_v2.argtypes = [pointer]
    library.sqlite3_busy_timeout.argtypes = [pointer, number]
    library.sqlite3_prepare_v2.argtypes = [pointer, ctypes.c_char_p, number, ctypes.POINTER(pointer), pointer]
    library.sqlite3_bind_int64.argtypes = [pointer, number, ctypes.c_int64]
    library.sqlite3_finalize.argtypes = [pointer]
    return library


@functools.cache
def _addresses() -> np.ndarray:
    """int64: where the functions of _FUNCTIONS are."""
    library = _library()
    found = [ctypes.cast(getattr(library, f"sqlite3_{name}"), ctypes.c_void_p).value for name in _FUNCTIONS]
    return np.array(found, dtype=np.int64)


@contextlib.contextmanager
def _opened(library: ctypes.CDLL, path: Path) -> Any:
    database = ctypes.c_void_p()
    flags = _OPEN_READ_WRITE | _OPEN_NO_MUTEX
    try:
        _check(library.sqlite3_open_v2(os.fsencode(path), ctypes.byref(database), flags, None))
        _check(library.sqlite3_busy_timeout(database, BUSY_TIMEOUT_MS))
        yield database
    finally:
        library.sqlite3_close_v2(database)


@contextlib.contextmanager
def _prepared(library: ctypes.CDLL, database: Any, statement: str, parameters: Sequence[int]) -> Any:
    query = ctypes.c_void_p()
    try:
        _check(library.sqlite3_prepare_v2(database, statement.encode(), -1, ctypes.byref(query), None))
        for place, value in enumerate(parameters, 1):
            _check(library.sqlite3_bind_int64(query, place, value))
        yield query
    finally:
        library.sqlite3_finalize(query)


def _check(code: int) -> None:
    if code != _OK:
        raise _SqliteError(code)


def _read(query: Any, columns: Mapping[str, str], n_rows: int) -> dict[str, pl.Series] | None:
    kinds = np.array([_KINDS[type_name] for type_name in columns.values()], dtype=np.int64)
    integers = np.empty((len(kinds), n_rows), dtype=np.int64)  # memory that is not written is not used
    numbers = np.empty((len(kinds), n_rows), dtype=np.float64)
    present = np.empty((len(kinds), n_rows), dtype=np.bool_)
    texts = np.empty((len(kinds), BYTES_PER_TEXT * n_rows), dtype=np.uint8)
    sizes, row, is_on_row = np.zeros(len(kinds), dtype=np.int64), 0, False
    while True:
        code, row = _read_rows(
            _addresses(), query.value, kinds, n_rows, row, is_on_row, integers, numbers, present, texts, sizes
        )
        if code != _NO_SPACE:
            break
        grown = np.empty((len(kinds), 2 * texts.shape[1] + 4_096), dtype=np.uint8)
        for place, size in enumerate(sizes):
            grown[place, :size] = texts[place, :size]
        texts, is_on_row = grown, True
    if code == _BAD_VALUE:
        return None
    if code not in (_ROW, _DONE):
        raise _SqliteError(code)
    found = {}
    for place, (name, type_name) in enumerate(columns.items()):
        if type_name == "text":
            values = _texts(name, texts[place, : sizes[place]])
        else:
            values = pl.Series(name, (integers if type_name == "integer" else numbers)[place, :row])
        found[name] = _with_nulls(values, present[place, :row])
    return found


def _texts(name: str, data: np.ndarray) -> pl.Series:
    if not len(data):
        return pl.Series(name, [], dtype=pl.String)
    return pl.Series(name, [data[:-1].tobytes().decode()]).str.split(SEPARATOR).explode()


def _with_nulls(series: pl.Series, present: np.ndarray) -> pl.Series:
    """Null where nothing is present."""
    if present.all():
        return series
    return pl.select(pl.when(pl.Series(present)).then(series).alias(series.name)).to_series()


# -- compiled -------------------------------------------------------------------------------------------------------


def _function_of(result: Any, *arguments: Any) -> Any:
    """An intrinsic (address, *arguments) -> result that calls the function of C at an address."""

    def call(typingctx: Any, address: Any, *given: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            c_types = [context.get_value_type(argument) for argument in arguments]
            function_type = ir.FunctionType(context.get_value_type(result), c_types)
            function = builder.inttoptr(values[0], function_type.as_pointer())
            return builder.call(function, values[1:])

        return result(types.int64, *arguments), generate

    return call


def _step_code(typingctx: Any, address: Any, query: Any) -> Any:
    return _function_of(types.int32, types.int64)(typingctx, address, query)


def _int32_code(typingctx: Any, address: Any, query: Any, place: Any) -> Any:
    return _function_of(types.int32, types.int64, types.int32)(typingctx, address, query, place)


def _int64_code(typingctx: Any, address: Any, query: Any, place: Any) -> Any:
    return _function_of(types.int64, types.int64, types.int32)(typingctx, address, query, place)


def _double_code(typingctx: Any, address: Any, query: Any, place: Any) -> Any:
    return _function_of(types.float64, types.int64, types.int32)(typingctx, address, query, place)


def _byte_code(typingctx: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.inttoptr(values[0], ir.IntType(8).as_pointer()))

    return types.uint8(types.int64), generate


_call_step: Any = intrinsic(_step_code)  # (function, query) -> int32
_call_int32: Any = intrinsic(_int32_code)  # (function, query, place) -> int32
_call_int64: Any = intrinsic(_int64_code)  # (function, query, place) -> int64 or a pointer
_call_double: Any = intrinsic(_double_code)  # (function, query, place) -> float64
_byte_at: Any = intrinsic(_byte_code)  # (address) -> uint8


@compiled
def _read_rows(functions, query, kinds, n_rows, row, is_on_row, integers, numbers, present, texts, sizes):
    """Step through a query up to `n_rows` rows and write its values into arrays.

    Returns a code of SQLite, _NO_SPACE or _BAD_VALUE, and the number of rows written. _NO_SPACE: the query stands on
    the next row, whose texts have no space; the caller gives more and says that it `is_on_row`.

    functions: int64[6]; kinds: int64[c], of _KINDS; integers, numbers, present: [c, n_rows]; texts: uint8[c, b], each
    text of a column with a separator behind it; sizes: int64[c], bytes written of each.
    """
    ends = sizes.copy()
    while row < n_rows:
        if not is_on_row:
            code = _call_step(functions[_STEP], query)
            if code != _ROW:
                return code, row
        is_on_row = False
        for column in range(len(kinds)):
            place, kind = np.int32(column), kinds[column]
            found = _call_int32(functions[_TYPE], query, place)
            present[column, row] = found != _NULL
            if kind == 0:
                if found == _INTEGER:
                    integers[column, row] = _call_int64(functions[_INT64], query, place)
                elif found == _NULL:
                    integers[column, row] = 0
                else:
                    return np.int32(_BAD_VALUE), row
            elif kind == 1:
                if found in (_INTEGER, _FLOAT):
                    numbers[column, row] = _call_double(functions[_DOUBLE], query, place)
                elif found == _NULL:
                    numbers[column, row] = 0
                else:
                    return np.int32(_BAD_VALUE), row
            else:
                size = np.int64(0)
                if found == _TEXT:
                    # In this order: the first call decides where the bytes are.
                    start = _call_int64(functions[_BLOB], query, place)
                    size = np.int64(_call_int32(functions[_BYTES], query, place))
                elif found != _NULL:
                    return np.int32(_BAD_VALUE), row
                end = sizes[column]
                if end + size + 1 > texts.shape[1]:
                    return np.int32(_NO_SPACE), row
                for at in range(size):
                    byte = _byte_at(start + at)
                    if byte == 0x1F:
                        return np.int32(_BAD_VALUE), row
                    texts[column, end + at] = byte
                texts[column, end + size] = 0x1F
                ends[column] = end + size + 1
        sizes[:] = ends
        row += 1
    return np.int32(_ROW), row
