"""Arrays in one file that processes map into memory and go on writing to, each for itself.

    write_arrays(path, {"seq": 7}, {"times": times}, room={"times": 1_000})
    file = MappedFile.open(path)
    file.header["seq"]; file.arrays()["times"]        # len(times) + 1,000 places; another call: other copies

The file is whole or not there (`whole_file`). Pages are shared by all who map it until one writes to them, which
changes its own copy alone. An array may have room behind its end: a hole, which takes no space on the disk, and whose
places are 0.

    8 bytes of MAGIC, length of the header, the header in JSON with the places of the arrays, the arrays from multiples
    of 4,096 bytes on; CRC-32 of all but the holes in the last four bytes
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zhiyin.core.atomic_files import whole_file
from zhiyin.core.errors import DataError

_MAGIC = b"zyarray1"
_PAGE, _CHUNK = 4_096, 1 << 22
_START = struct.Struct("<8sQ")
MAX_HEADER_BYTES = 1 << 28


def write_arrays(
    path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], room: Mapping[str, int] | None = None
) -> None:
    """Write a file, closed to other users.

    Parameters
    ----------
    header: JSON values.
    arrays: of one or two dimensions.
    room: by array, the rows that are free behind its end.
    """
    places: dict[str, dict[str, Any]] = {}
    at = 0
    for name, array in arrays.items():
        rows = len(array) + (room or {}).get(name, 0)
        places[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "rows": rows, "at": at}
        at += _pages(rows * math.prod(array.shape[1:]) * array.dtype.itemsize)
    text = json.dumps({"header": dict(header), "arrays": places, "bytes": at}).encode()
    begin = _pages(_START.size + len(text))
    with whole_file(path, 0o600) as draft, open(draft, "r+b") as file:
        head = _START.pack(_MAGIC, len(text)) + text
        file.write(head)
        crc = zlib.crc32(head)
        for name, array in arrays.items():
            file.seek(begin + places[name]["at"])
            for chunk in _chunks(np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")):
                file.write(chunk)
                crc = zlib.crc32(chunk, crc)
        file.seek(begin + at)
        file.write(struct.pack("<I", crc))


class MappedFile:
    """A file of arrays; see the module.

    Attributes
    ----------
    header: as it was written.
    """

    def __init__(self, descriptor: int, header: dict[str, Any], places: dict[str, Any], begin: int, size: int) -> None:
        self._descriptor, self.header, self._places = descriptor, header, places
        self._begin, self._size = begin, size

    @classmethod
    def open(cls, path: Path) -> MappedFile:
        """Raises FileNotFoundError where there is none, and DataError for one that is damaged."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            magic, length = _START.unpack(os.pread(descriptor, _START.size, 0).ljust(_START.size))
            if magic != _MAGIC or length > min(size, MAX_HEADER_BYTES):
                raise ValueError
            said = json.loads(os.pread(descriptor, length, _START.size))
            file = cls(descriptor, said["header"], said["arrays"], _pages(_START.size + length), size)
            if file._begin + said["bytes"] + 4 != size:
                raise ValueError
            file._check(length)
        except (ValueError, KeyError, TypeError, struct.error):
            os.close(descriptor)
            raise DataError("the file is cut off or damaged", file=path, remedy="it is made again") from None
        except BaseException:
            os.close(descriptor)
            raise
        return file

    def _check(self, length: int) -> None:
        """Raise ValueError where the file does not hold what was written."""
        with mmap.mmap(self._descriptor, self._size, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            crc = zlib.crc32(view[: _START.size + length])
            for place in self._places.values():
                at, n = self._begin + place["at"], math.prod(place["shape"]) * np.dtype(place["dtype"]).itemsize
                if place["at"] < 0 or n < 0 or at + n > self._size - 4:
                    raise ValueError
                for start in range(at, at + n, _CHUNK):
                    crc = zlib.crc32(view[start : min(start + _CHUNK, at + n)], crc)
            if struct.unpack("<I", bytes(view[-4:])) != (crc,):
                raise ValueError

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays with their room, in memory of their own that is shared with the file until it is written to."""
        content = mmap.mmap(self._descriptor, self._size, access=mmap.ACCESS_COPY)
        found = {}
        for name, place in self._places.items():
            shape = (place["rows"], *place["shape"][1:])
            flat = np.frombuffer(content, place["dtype"], math.prod(shape), self._begin + place["at"])
            found[name] = flat.reshape(shape)
        return found

    def close(self) -> None:
        """Close the file; arrays stay."""
        os.close(self._descriptor)

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pages(size: int) -> int:
    """The smallest multiple of a page that holds so many bytes."""
    return -(-size // _PAGE) * _PAGE


def _chunks(content: memoryview) -> list[memoryview]:
    return [content[start : start + _CHUNK] for start in range(0, len(content), _CHUNK)]
