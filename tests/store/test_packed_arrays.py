"""Arrays of traces as safetensors."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from safetensors.numpy import load

from zhiyin.store.traces import array_views, packed_arrays

ARRAYS = {
    "ranks": np.arange(6, dtype=np.int16).reshape(3, 2),
    "pmfs": np.linspace(0, 1, 15).reshape(5, 3).T,  # not contiguous
    "keys": np.array([-(2**63), 5, 2**63 - 1]),
    "seeds": np.array([2**64 - 1], dtype=np.uint64),
    "flags": np.array([True, False, True]),
    "none": np.zeros((0, 0), np.int8),
    "one": np.array(0.1, dtype=np.float32),
}


def test_the_library_reads_what_was_packed() -> None:
    packed = packed_arrays(ARRAYS)
    for read in (load(packed), array_views(zlib.compress(packed))):
        assert read.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert read[name].dtype == array.dtype
            assert np.array_equal(read[name], array)


def test_numbers_are_aligned() -> None:
    packed = packed_arrays(ARRAYS)
    start = 8 + int.from_bytes(packed[:8], "little")
    assert start % 8 == 0
    assert packed[start : start + 24] == ARRAYS["keys"].tobytes()


def test_no_arrays_and_other_types() -> None:
    assert load(packed_arrays({})) == {}
    with pytest.raises(KeyError):
        packed_arrays({"texts": np.array(["a"])})
