"""IdTable: a hash table from ids to their codes, in compiled code.

A request looks up a few ids among millions. Their table is one array of slots, with the bytes of all texts (or all
numbers) beside it: open addressing with linear probing. A slot holds a code and, in the bits that a code leaves free,
some bits of the hash, so that a text is compared only where it is most likely the one that is looked up.

    table = IdTable.of(series)
    table.codes(["a", 42, None])               # int32[3], -1 where unknown
    table.texts(codes)                         # list of str

Texts cross into compiled code as one array of bytes, separated by zero bytes: Numba's own type of texts costs a
microsecond each.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.array_table import ArrayTable, int64_at, int_at, length_at, uint8_at, uint32_at
from zhiyin.core.parallel import kernel

# What the table holds: the bytes of all texts and uint32[n + 1] where each begins, or int64[n] the numbers; uint32
# slots, of which the low CODE_BITS are a code + 1, 0 where the slot is empty; what hashes begin with; the least number.
# There are no slots where the numbers are consecutive: a code then is a difference.
_BYTES, _OFFSETS, _NUMBERS, _SLOTS, _CODE_BITS, _SEED, _LEAST, _N_SLOTS = range(8)
# Slots for each id. The table takes 6.4 bytes an id, and 4 more for the offset of a text.
_SLOTS_PER_ID = 1.6
_MAX_BYTES = 2**32 - 1


class IdTable:
    """Codes of distinct ids, which are texts or whole numbers: the code of ids[i] is i. See the module."""

    def __init__(self, table: ArrayTable, n: int, has_numbers: bool, has_zero_bytes: bool) -> None:
        self._table, self._words, self._n = table, table.words, n
        self.has_numbers, self._has_zero_bytes = has_numbers, has_zero_bytes

    @classmethod
    def of(cls, ids: pl.Series) -> IdTable | None:
        """The table of some ids; None where they are of another type, missing, or 4 GiB of text."""
        if not len(ids) or ids.null_count():
            return None
        if ids.dtype.is_integer() and ids.dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
            return cls._of_numbers(ids.cast(pl.Int64).to_numpy())
        return cls._of_texts(ids) if ids.dtype == pl.String else None

    @classmethod
    def _of_texts(cls, ids: pl.Series) -> IdTable | None:
        lengths = ids.str.len_bytes().to_numpy()
        if lengths.sum(dtype=np.int64) > _MAX_BYTES:
            return None
        data = np.frombuffer((ids.str.join("")[0] or "").encode(), dtype=np.uint8)
        offsets = np.zeros(len(ids) + 1, dtype=np.uint32)
        np.cumsum(lengths, out=offsets[1:])
        table = _with_slots(len(ids))
        _insert_texts(
            table.put(_BYTES, data, np.uint8), table.put(_OFFSETS, offsets, np.uint32), table.array(_SLOTS), table.words
        )
        return cls(table, len(ids), False, bool((data == 0).any()))

    @classmethod
    def _of_numbers(cls, numbers: np.ndarray) -> IdTable:
        consecutive = int(numbers[-1]) - int(numbers[0]) == len(numbers) - 1
        table = ArrayTable(_N_SLOTS) if consecutive else _with_slots(len(numbers))
        table.put(_NUMBERS, numbers, np.int64)
        table.put_int(_LEAST, int(numbers[0]))
        if not consecutive:
            _insert_numbers(table.array(_NUMBERS), table.array(_SLOTS), table.words)
        return cls(table, len(numbers), True, False)

    def codes(self, values: list[Any]) -> np.ndarray:
        """int32, codes of ids, -1 where unknown, by the rule of `Ids.encode`."""
        kinds = set(map(type, values))
        if kinds == {str}:
            return self.codes_of_texts(values)
        if kinds == {int} and self.has_numbers:
            try:
                return self.codes_of_numbers(np.array(values, dtype=np.int64))
            except OverflowError:  # one of them is beyond 64 bits: all go by their text
                pass
        texts = [id_text(value) for value in values]
        known = [text for text in texts if text is not None]
        if len(known) == len(texts):
            return self.codes_of_texts(known)
        codes = np.full(len(texts), -1, dtype=np.int32)
        codes[[text is not None for text in texts]] = self.codes_of_texts(known)
        return codes

    def codes_of_texts(self, texts: list[str]) -> np.ndarray:
        """As `codes`. Texts match numbers that they are the decimal form of."""
        codes = np.empty(len(texts), dtype=np.int32)
        if not texts:
            return codes
        find = _find_decimals if self.has_numbers else _find_texts
        # Lone surrogates have no UTF-8; as these bytes they are equal to no text.
        data = np.frombuffer("\0".join(texts).encode("utf-8", "surrogatepass"), dtype=np.uint8)
        if find(self._words, data, codes) != len(texts):  # a text holds the separator
            codes[:] = [self._code_of(find, text) for text in texts]
        return codes

    def codes_of_numbers(self, numbers: np.ndarray) -> np.ndarray:
        """int32[m]: codes of int64[m] among the numbers, -1 where unknown."""
        codes = np.empty(len(numbers), dtype=np.int32)
        _find_numbers(self._words, numbers, codes)
        return codes

    def texts(self, codes: np.ndarray) -> list[str] | None:
        """Texts of int[m] codes; None where one of all ids holds a zero byte. Raises IndexError for other codes."""
        if self._has_zero_bytes:
            return None
        if not len(codes):
            return []
        joined, valid = _joined_texts(self._words, np.asarray(codes, dtype=np.int64))
        if not valid:
            raise IndexError(f"codes are from 0 to {self._n - 1}")
        return joined.tobytes().decode().split("\0")

    def _code_of(self, find: Any, text: str) -> int:
        """The code of a text that may hold a zero byte."""
        if "\0" not in text:
            return int(self.codes_of_texts([text])[0])
        if self.has_numbers:
            return -1
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        return int(_find_text(self._words, data, 0, len(data)))


def id_text(value: Any) -> str | None:
    """One id as a text: 42 and 42.0 are "42"; None for what is no id, such as 42.5."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else None
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def _with_slots(n: int) -> ArrayTable:
    """A table with empty slots for n ids."""
    table = ArrayTable(_N_SLOTS)
    table.put(_SLOTS, np.zeros(int(n * _SLOTS_PER_ID) + 1, dtype=np.uint32), np.uint32)
    table.put_int(_CODE_BITS, n.bit_length())
    # A random start: nobody can choose ids that all fall into the same slots.
    table.put_int(_SEED, int.from_bytes(os.urandom(7), "little"))
    return table


@kernel
def _mix(bits):
    """The finalizer of MurmurHash3: every bit of the argument changes half of the result's."""
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xFF51AFD7ED558CCD)
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xC4CEB9FE1A85EC53)
    return bits ^ (bits >> np.uint64(33))


@kernel
def _hash_text(data, start, stop, seed):
    """uint64: FNV-1a of data[start:stop], mixed."""
    bits = np.uint64(seed)
    for at in range(start, stop):
        bits = (bits ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
    return _mix(bits)


@kernel
def _hash_number(number, seed):
    return _mix(np.uint64(number) ^ np.uint64(seed))


@kernel
def _first_slot(bits, n_slots):
    """Where the probing for a hash begins: its high half as a fraction of all slots."""
    return np.int64(((bits >> np.uint64(32)) * np.uint64(n_slots)) >> np.uint64(32))


@kernel
def _tag(bits, code_bits):
    """uint32: the part of a hash that a slot holds, above the code."""
    return np.uint32((bits << np.uint64(code_bits)) & np.uint64(0xFFFFFFFF))


@kernel
def _insert(slots, bits, code, code_bits):
    at = _first_slot(bits, len(slots))
    while slots[at] != 0:
        at += 1
        if at == len(slots):
            at = 0
    slots[at] = _tag(bits, code_bits) | np.uint32(code + 1)


@kernel
def _insert_texts(data, offsets, slots, words):
    seed, code_bits = int_at(words, _SEED), int_at(words, _CODE_BITS)
    for code in range(len(offsets) - 1):
        bits = _hash_text(data, np.int64(offsets[code]), np.int64(offsets[code + 1]), seed)
        _insert(slots, bits, code, code_bits)


@kernel
def _insert_numbers(numbers, slots, words):
    seed, code_bits = int_at(words, _SEED), int_at(words, _CODE_BITS)
    for code in range(len(numbers)):
        _insert(slots, _hash_number(numbers[code], seed), code, code_bits)


@kernel
def _find_text(words, data, start, stop):
    """The code of the text data[start:stop], or -1."""
    slots, known, offsets = uint32_at(words, _SLOTS), uint8_at(words, _BYTES), uint32_at(words, _OFFSETS)
    code_bits = int_at(words, _CODE_BITS)
    code_mask = np.uint32((np.int64(1) << code_bits) - 1)
    bits = _hash_text(data, start, stop, int_at(words, _SEED))
    tag = _tag(bits, code_bits)
    at = _first_slot(bits, len(slots))
    while slots[at] != 0:
        if slots[at] & ~code_mask == tag:
            code = np.int64(slots[at] & code_mask) - 1
            begin, end = np.int64(offsets[code]), np.int64(offsets[code + 1])
            if end - begin == stop - start:
                same = 0
                while same < stop - start and known[begin + same] == data[start + same]:
                    same += 1
                if same == stop - start:
                    return code
        at += 1
        if at == len(slots):
            at = 0
    return np.int64(-1)


@kernel
def _find_number(words, number):
    """The code of a number, or -1."""
    numbers, slots = int64_at(words, _NUMBERS), uint32_at(words, _SLOTS)
    if length_at(words, _SLOTS) == 0:  # they are consecutive
        least = int_at(words, _LEAST)
        inside = number >= least and number <= numbers[len(numbers) - 1]
        return number - least if inside else np.int64(-1)
    code_bits = int_at(words, _CODE_BITS)
    code_mask = np.uint32((np.int64(1) << code_bits) - 1)
    bits = _hash_number(number, int_at(words, _SEED))
    tag = _tag(bits, code_bits)
    at = _first_slot(bits, len(slots))
    while slots[at] != 0:
        if slots[at] & ~code_mask == tag:
            code = np.int64(slots[at] & code_mask) - 1
            if numbers[code] == number:
                return code
        at += 1
        if at == len(slots):
            at = 0
    return np.int64(-1)


@kernel
def _find_texts(words, data, out):
    """Codes of the texts in `data`, which zero bytes separate; returns their number, which may exceed `out`."""
    count, start = 0, 0
    for at in range(len(data) + 1):
        if at == len(data) or data[at] == 0:
            if count < len(out):
                out[count] = _find_text(words, data, start, at)
            count += 1
            start = at + 1
    return count


@kernel
def _find_decimals(words, data, out):
    """As `_find_texts`, among numbers: the code of the number that a text is the decimal form of."""
    count, start = 0, 0
    for at in range(len(data) + 1):
        if at == len(data) or data[at] == 0:
            if count < len(out):
                number, valid = _number_of(data, start, at)
                out[count] = _find_number(words, number) if valid else -1
            count += 1
            start = at + 1
    return count


@kernel
def _number_of(data, start, stop):
    """The int64 that the ASCII text data[start:stop] is the decimal form of, and whether there is one."""
    negative = start < stop and data[start] == 45  # "-"
    first = start + 1 if negative else start
    n_digits = stop - first
    if n_digits < 1 or n_digits > 19 or (data[first] == 48 and (n_digits > 1 or negative)):  # "0"
        return np.int64(0), False
    total = np.uint64(0)  # 19 digits stay below 2**64
    for at in range(first, stop):
        if data[at] < 48 or data[at] > 57:
            return np.int64(0), False
        total = total * np.uint64(10) + np.uint64(data[at] - 48)
    if total > np.uint64(2**63 - 1) + np.uint64(negative):
        return np.int64(0), False
    return -np.int64(total) if negative else np.int64(total), True


@kernel
def _find_numbers(words, numbers, out):
    for at in range(len(numbers)):
        out[at] = _find_number(words, numbers[at])


@kernel
def _joined_texts(words, codes):
    """uint8: the texts of codes, at least one, with a zero byte between them; and whether all codes are valid."""
    data, offsets = uint8_at(words, _BYTES), uint32_at(words, _OFFSETS)
    size = np.int64(len(codes) - 1)
    for code in codes:
        if code < 0 or code >= len(offsets) - 1:
            return np.zeros(0, dtype=np.uint8), False
        size += np.int64(offsets[code + 1]) - np.int64(offsets[code])
    joined = np.zeros(size, dtype=np.uint8)
    at = 0
    for code in codes:
        for byte in range(np.int64(offsets[code]), np.int64(offsets[code + 1])):
            joined[at] = data[byte]
            at += 1
        at += 1
    return joined, True
