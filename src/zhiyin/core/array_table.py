"""ArrayTable: any number of arrays as one argument of a compiled function.

Numba compiles a function anew for each combination of argument types, so a tuple of the sources of a pipeline would be
compiled for each pipeline, and each array of a call costs time. Here arrays lie at fixed slots of one int64 array, by
their addresses: a function that reads a table is compiled once, and called with one argument.

    SCORES, NEIGHBORS, SIZE, N_SLOTS = range(4)

    table = ArrayTable(N_SLOTS)
    table.put(SCORES, scores, np.float32)
    table.put_int(SIZE, 3)
    kernel(table.words)                        # float32_at(words, SCORES), int_at(words, SIZE)

The table holds references to its arrays. It must live for as long as a kernel reads its words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from zhiyin.core.parallel import kernel

# Words of a slot: address, rows, columns, and the type of the array.
WORDS = 4
_ADDRESS, _ROWS, _COLUMNS, _TYPE = range(WORDS)
# Numbers of the types; 0: the slot is empty.
_TYPE_CODES = {
    np.dtype(dtype): code
    for code, dtype in enumerate(
        (np.float32, np.float64, np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64, np.bool_), 1
    )
}
_INT, _FLOAT = 100, 101


class ArrayTable:
    """Arrays and numbers at fixed slots; see the module.

    Attributes
    ----------
    words: int64[WORDS * n_slots], read-only; what kernels take.
    """

    def __init__(self, n_slots: int) -> None:
        self._words = np.zeros(WORDS * n_slots, dtype=np.int64)
        self._arrays: dict[int, np.ndarray] = {}
        self.words = self._words.view()
        self.words.flags.writeable = False

    def put(self, slot: int, array: np.ndarray, dtype: Any) -> np.ndarray:
        """Place an array of one or two dimensions; returns it as it is held: contiguous, of this type.

        An array that has both already is not copied, so that memory-mapped files stay where they are. Raises TypeError
        where values would be changed by the type.
        """
        held = np.ascontiguousarray(array.astype(dtype, casting="same_kind", copy=False))
        if held.ndim not in (1, 2):
            raise TypeError(f"slot {slot}: an array of {held.ndim} dimensions")
        self._arrays[slot] = held
        columns = held.shape[1] if held.ndim == 2 else 0
        self._set(slot, held.__array_interface__["data"][0], len(held), columns, _TYPE_CODES[held.dtype])
        return held

    def put_int(self, slot: int, value: int) -> None:
        """Place a whole number."""
        self._set(slot, int(value), 0, 0, _INT)

    def put_float(self, slot: int, value: float) -> None:
        """Place a number, in float64."""
        self._set(slot, int(np.float64(value).view(np.int64)), 0, 0, _FLOAT)

    def array(self, slot: int) -> np.ndarray:
        """The array at a slot. Raises KeyError where there is none."""
        return self._arrays[slot]

    def __reduce__(self) -> tuple[Callable[..., ArrayTable], tuple[Any, ...]]:
        """A copy has addresses of its own arrays."""
        return _table_of, (self._words.copy(), dict(self._arrays))

    def _set(self, slot: int, *words: int) -> None:
        self._words[WORDS * slot : WORDS * (slot + 1)] = words


def _table_of(words: np.ndarray, arrays: dict[int, np.ndarray]) -> ArrayTable:
    """The table of these words with the addresses of these arrays."""
    table = ArrayTable(len(words) // WORDS)
    table._words[:] = words
    for slot, array in arrays.items():
        table.put(slot, array, array.dtype)
    return table


@intrinsic
def _pointer_of(typingctx: Any, address: Any) -> Any:
    """The pointer of an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@intrinsic
def _float_of(typingctx: Any, bits: Any) -> Any:
    """The float64 of 64 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


# Kernels leave the typing context out.
_pointer: Any = _pointer_of
_bits_as_float: Any = _float_of


@kernel
def int_at(words, slot):
    """The whole number at a slot."""
    return words[WORDS * slot]


@kernel
def float_at(words, slot):
    """The float64 at a slot."""
    return _bits_as_float(words[WORDS * slot])


@kernel
def length_at(words, slot):
    """Rows of the array at a slot; 0 where there is none."""
    return words[WORDS * slot + _ROWS]


def _reader(dtype: type) -> Callable[..., Any]:
    """A kernel function that gives the array of one dimension at a slot, which must have this type."""

    @kernel
    def read(words, slot):
        at = WORDS * slot
        return carray(_pointer(words[at]), (words[at + _ROWS],), dtype)

    return read


def _rows_reader(dtype: type) -> Callable[..., Any]:
    """As `_reader`, of two dimensions."""

    @kernel
    def read(words, slot):
        at = WORDS * slot
        return carray(_pointer(words[at]), (words[at + _ROWS], words[at + _COLUMNS]), dtype)

    return read


float32_at, float32_rows_at = _reader(np.float32), _rows_reader(np.float32)
float64_at, float64_rows_at = _reader(np.float64), _rows_reader(np.float64)
int8_at, int8_rows_at = _reader(np.int8), _rows_reader(np.int8)
uint8_at, uint8_rows_at = _reader(np.uint8), _rows_reader(np.uint8)
int32_at, int32_rows_at = _reader(np.int32), _rows_reader(np.int32)
uint32_at, uint32_rows_at = _reader(np.uint32), _rows_reader(np.uint32)
int64_at, int64_rows_at = _reader(np.int64), _rows_reader(np.int64)
bool_at = _reader(np.bool_)
