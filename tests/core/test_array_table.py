"""ArrayTable: kernels read what was placed, whatever its type, and nothing is copied that need not be."""

import numpy as np
import pytest

from zhiyin.core import array_table as at
from zhiyin.core.array_table import ArrayTable
from zhiyin.core.parallel import kernel


@kernel
def _sum(words, slot):
    return at.float32_at(words, slot).sum()


@kernel
def _corner(words, slot):
    rows = at.int32_rows_at(words, slot)
    return rows.shape[0], rows.shape[1], rows[rows.shape[0] - 1, rows.shape[1] - 1]


@kernel
def _numbers(words):
    return at.int_at(words, 0), at.float_at(words, 1), at.length_at(words, 2), at.length_at(words, 3)


@kernel
def _first_bit(words):
    return at.bool_at(words, 0)[1], at.uint32_at(words, 1)[0], at.int64_at(words, 2)[0], at.float64_at(words, 3)[0]


def test_arrays_are_read_at_their_slots():
    table = ArrayTable(2)
    table.put(0, np.arange(5, dtype=np.float32), np.float32)
    table.put(1, np.arange(6, dtype=np.int32).reshape(2, 3), np.int32)
    assert _sum(table.words, 0) == 10
    assert _corner(table.words, 1) == (2, 3, 5)


def test_numbers_and_lengths():
    table = ArrayTable(4)
    table.put_int(0, -(2**62))
    table.put_float(1, -0.1)
    table.put(2, np.zeros(7, np.int64), np.int64)
    assert _numbers(table.words) == (-(2**62), -0.1, 7, 0)


def test_every_type_is_read_as_it_is():
    table = ArrayTable(4)
    table.put(0, np.array([False, True]), np.bool_)
    table.put(1, np.array([2**32 - 1], np.uint32), np.uint32)
    table.put(2, np.array([-(2**63)], np.int64), np.int64)
    table.put(3, np.array([np.pi]), np.float64)
    assert _first_bit(table.words) == (True, 2**32 - 1, -(2**63), np.pi)


def test_an_array_that_fits_is_not_copied_and_another_is():
    table = ArrayTable(1)
    array = np.arange(6, dtype=np.float32)
    assert table.put(0, array, np.float32) is array
    held = table.put(0, array[::2], np.float32)
    assert held.flags.c_contiguous
    assert _sum(table.words, 0) == 6
    assert table.array(0) is held


def test_a_memory_map_stays_where_it_is(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4, dtype=np.float32))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r").view(np.ndarray)
    table = ArrayTable(1)
    assert np.shares_memory(table.put(0, mapped, np.float32), mapped)
    assert _sum(table.words, 0) == 6


def test_a_type_that_would_change_values_is_refused():
    with pytest.raises(TypeError):
        ArrayTable(1).put(0, np.array([0.5]), np.int32)
    with pytest.raises(TypeError):
        ArrayTable(1).put(0, np.zeros((1, 1, 1), np.float32), np.float32)


def test_kernels_cannot_be_misled_by_a_changed_table():
    table = ArrayTable(1)
    with pytest.raises(ValueError, match="read-only"):
        table.words[0] = 1
