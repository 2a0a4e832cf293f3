"""Pictures of items as arrays, from a folder or a column of paths; unreadable files are counted and reported.

Pictures are untrusted input: bytes and pixels are limited before decoding, no file outside the folder is opened, and no
URL is fetched.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from zhiyin.core.errors import DataError, MissingExtraError
from zhiyin.core.run import Run

MAX_BYTES = 32 << 20
MAX_PIXELS = 40_000_000
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


@dataclasses.dataclass(frozen=True)
class Images:
    """Paths of the pictures of n rows, read when they are needed.

    Parameters
    ----------
    paths: one a row, null where there is none; relative ones are of `folder`.
    folder: pictures outside it are refused.
    size: height and width of the arrays: the picture is scaled to cover the square, and its middle is taken.
    max_bytes, max_pixels: of the file; what is larger is not decoded.
    """

    paths: pl.Series
    folder: Path
    size: int = 64
    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of_folder(cls, folder: str | Path, ids: pl.Series, size: int = 64) -> Images:
        """The picture of row r is the file of the folder that is named by ids[r], with any suffix of a picture."""
        directory = Path(folder)
        if not directory.is_dir():
            raise DataError("there is no such folder of pictures", file=directory, remedy="name a folder")
        files = sorted(path.name for path in directory.iterdir() if path.suffix.lower() in SUFFIXES)
        named = pl.DataFrame({"id": [Path(name).stem for name in files], "file": files}, schema_overrides=_TEXT)
        named = named.unique("id", keep="first")
        joined = pl.DataFrame({"id": ids.cast(pl.String)}).join(named, on="id", how="left", maintain_order="left")
        return cls(joined["file"], directory, size)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: np.ndarray, run: Run | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The pictures of some rows.

        Returns
        -------
        uint8[len(rows), size, size, 3], RGB, zeros where there is none; bool[len(rows)], whether there is one; and
        why not, with counts, such as "3 cannot be read".
        """
        paths = self.paths.gather(np.asarray(rows, dtype=np.int64)).to_list()
        pixels = np.zeros((len(paths), self.size, self.size, 3), dtype=np.uint8)
        threads = (run or Run()).n_threads
        if threads > 1 and len(paths) > 1:  # decoding releases the lock of the interpreter
            with ThreadPoolExecutor(threads) as pool:
                reasons = list(pool.map(self._read_into, paths, pixels))
        else:
            reasons = [self._read_into(path, place) for path, place in zip(paths, pixels)]
        counted = Counter(reason for reason in reasons if reason)
        is_readable = np.array([not reason for reason in reasons], dtype=bool)
        return pixels, is_readable, [f"{count:,} {reason}" for reason, count in sorted(counted.items())]

    def batches(
        self, size: int = 256, run: Run | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]]:
        """Rows int64, and what `read` gives of them, `size` rows at a time."""
        for start in range(0, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            yield (rows, *self.read(rows, run))

    def _read_into(self, path: str | None, pixels: np.ndarray) -> str:
        """Decode one picture into uint8[size, size, 3]. Returns the reason where that fails, else an empty text."""
        if not path:
            return "have no picture"
        file, root = (self.folder / path).resolve(), self.folder.resolve()
        if not file.is_relative_to(root):
            return "lie outside the folder"
        if not file.is_file():
            return "are not there"
        if file.stat().st_size > self.max_bytes:
            return f"are larger than {self.max_bytes >> 20} MiB"
        pillow = _pillow()
        try:
            # The limit of pixels is checked here, instead of by Pillow's warning.
            with warnings.catch_warnings(), pillow.open(file, formats=_FORMATS) as picture:
                warnings.simplefilter("ignore")
                if picture.width * picture.height > self.max_pixels:
                    return f"have more than {self.max_pixels:,} pixels"
                picture.draft("RGB", (self.size, self.size))  # JPEG decodes at an eighth where that is enough
                pixels[:] = _square(picture.convert("RGB"), self.size)
        except (OSError, ValueError, SyntaxError, EOFError, MemoryError, pillow.DecompressionBombError):
            pixels[:] = 0
            return "cannot be read"
        return ""


_TEXT: dict[str, Any] = {"id": pl.String, "file": pl.String}


def _square(picture: Any, size: int) -> np.ndarray:
    """The middle of a picture, scaled to size × size."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    scaled = picture.resize((size, size), _pillow().Resampling.BILINEAR, (left, top, left + side, top + side))
    return np.asarray(scaled, dtype=np.uint8)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise MissingExtraError("pillow", "images", "reading pictures") from None
    return Image
