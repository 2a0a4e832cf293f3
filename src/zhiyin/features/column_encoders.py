"""Learned columns of one kind each: numbers, categories, tags, times and vectors; text is in `text`.

A column learns from the values of training rows (`learn`), turns any values into a `Piece` (`encode`), and is kept as
JSON settings and arrays (`state`, `restore`): encoding needs nothing else, so training and serving share this code.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.durations import UNITS
from zhiyin.core.errors import ConfigError, DataError, suggest
from zhiyin.core.hashing import mix
from zhiyin.core.parallel import kernel
from zhiyin.data.ids import Ids
from zhiyin.data.timestamps import to_microseconds

DAY = UNITS["d"]
# Bound of standardised numbers, so that one outlier does not dominate a row.
MAX_DEVIATIONS = 10.0
N_QUANTILES = 256
# Number of text dates kept as examples, enough to tell the day from the month.
N_DATE_EXAMPLES = 64
_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000}
# Separators of the tags in a text.
SEPARATORS = "[|;,]"


@dataclasses.dataclass
class Piece:
    """The encoding of one column for n rows; see `feature_table.FeatureTable` for the shapes.

    `numbers` and `codes` are lists of (name, role, float32[n]) and (name, int32[n], number of codes). Roles: "value"
    (standardised), "missing" (1 where the value is unknown), "circle" (sine or cosine). `rarity`: float32, one a code
    of a category or of tags.
    """

    numbers: list[tuple[str, str, np.ndarray]] = dataclasses.field(default_factory=list)
    codes: list[tuple[str, np.ndarray, int]] = dataclasses.field(default_factory=list)
    bag: tuple[np.ndarray, np.ndarray, int] | None = None
    text: sparse.csr_matrix | None = None
    vector: np.ndarray | None = None
    rarity: np.ndarray | None = None


@dataclasses.dataclass
class Column:
    """Base of the columns. Fields are settings (JSON values) and learned arrays; together they are the whole state."""

    name: str
    kind: ClassVar[str] = ""
    options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def learn(cls, name: str, values: pl.Series, options: dict[str, str]) -> Column:
        """Learn from the values of training rows. `options`: the options of the kind, such as {"hash": "1000"}."""
        raise NotImplementedError

    def encode(self, values: pl.Series, now: int | None) -> Piece:
        """The encoding of values; `now`: microseconds UTC, from which ages are counted."""
        raise NotImplementedError

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON settings and arrays."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
        return {"kind": self.kind} | {name: v for name, v in fields.items() if name not in arrays}, arrays

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Column:
        """The column from what `state` returned."""
        field_names = {field.name for field in dataclasses.fields(cls)}
        fields: dict[str, Any] = {name: value for name, value in settings.items() if name in field_names} | arrays
        return cls(**fields)

    @classmethod
    def check(cls, name: str, options: dict[str, str]) -> None:
        """Raises ConfigError for an option this kind does not have."""
        for option in options:
            if option not in cls.options:
                remedy = suggest(option, list(cls.options)) if cls.options else f"write {cls.kind} alone"
                raise ConfigError(f"column {name!r}: {cls.kind} has no option {option!r}", remedy=remedy)


@dataclasses.dataclass
class Number(Column):
    """A number: mean 0 and deviation 1 over the training rows, as it is, by its quantile, or by its logarithm.

    "log": sign(x) log(1 + |x|), standardised. "quantile": the share of training values below (ties: half of them),
    stretched to deviation 1. Unknown values are 0, the mean; where training rows had some, a second number marks them.
    """

    way: str
    mean: float
    deviation: float
    gaps: bool
    knots: np.ndarray  # float64, distinct training values or their quantiles, ascending; empty unless "quantile"
    levels: np.ndarray  # float64, the share of training values below each knot

    kind: ClassVar[str] = "number"
    options: ClassVar[tuple[str, ...]] = ("standard", "quantile", "log")

    @classmethod
    def learn(cls, name: str, values: pl.Series, options: dict[str, str]) -> Number:
        way = next(iter(options), "standard")
        x = floats(values)
        finite = x[np.isfinite(x)]
        gaps, none = len(finite) < len(x), np.zeros(0)
        if way == "quantile" and len(finite):
            # Equal quantiles are merged into one knot at the mean of their shares.
            shares = np.linspace(0, 1, N_QUANTILES + 1)
            knots, position = np.unique(np.quantile(finite, shares), return_inverse=True)
            levels = np.bincount(position, weights=shares) / np.bincount(position)
            return cls(name, way, 0.5, 12**-0.5, gaps, knots, levels)
        if way == "log":
            finite = _log(finite)
        mean = float(finite.mean()) if len(finite) else 0.0
        deviation = float(finite.std()) if len(finite) else 0.0
        return cls(name, way, mean, deviation if deviation > 1e-12 * max(1.0, abs(mean)) else 1.0, gaps, none, none)

    def encode(self, values: pl.Series, now: int | None) -> Piece:
        x = floats(values)
        is_finite = np.isfinite(x)
        x = np.where(is_finite, x, 0.0)
        if self.way == "log":
            x = _log(x)
        elif len(self.knots):
            x = np.interp(x, self.knots, self.levels)
        z = np.clip((x - self.mean) / self.deviation, -MAX_DEVIATIONS, MAX_DEVIATIONS)
        piece = Piece([(self.name, "value", np.where(is_finite, z, 0.0).astype(np.float32))])
        if self.gaps:
            piece.numbers.append((f"{self.name} missing", "missing", (~is_finite).astype(np.float32)))
        return piece


@dataclasses.dataclass
class Coded(Column):
    """Base of categories and tags: words with codes from 1, 0 for unknown; or words hashed into `buckets` codes.

    Hashing (Weinberger et al., ICML 2009, without signs) needs no vocabulary: a value never seen has a code of its own,
    which it may share. Options: `min`, training rows a value needs to have a code (default 2); `hash`, buckets.
    `rarity`: float32[size], ln((1 + n) / (1 + training rows with the code)) / ln(1 + n), so 1 for the unknown.
    """

    buckets: int
    words: np.ndarray
    rarity: np.ndarray

    options: ClassVar[tuple[str, ...]] = ("min", "hash")

    @classmethod
    def learn(cls, name: str, values: pl.Series, options: dict[str, str]) -> Coded:
        buckets, rows = whole(name, options, "hash", 0), cls._rows(values)
        words = np.zeros(0, np.uint8)
        if not buckets:
            counts = rows.group_by("word").agg(pl.col("row").n_unique())
            words = packed(counts.filter(pl.col("row") >= whole(name, options, "min", 2))["word"].sort())
        column = cls(name, buckets, words, np.zeros(0, np.float32))
        row, code = column.coded(values)
        df = np.bincount(np.unique(row * column.size + code) % column.size, minlength=column.size)
        df[0] = 0
        column.rarity = (1 - np.log1p(df) / np.log1p(max(1, len(values)))).astype(np.float32)
        return column

    @staticmethod
    def _rows(values: pl.Series) -> pl.DataFrame:
        """Frame `row` (Int64), `word`: the words of each row."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Number of codes, that of the unknown included."""
        return 1 + (self.buckets or len(self.ids))

    @cached_property
    def ids(self) -> Ids:
        return unpacked(self.words)

    def coded(self, values: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        """int64[m] rows and int32[m] codes of all words."""
        rows = self._rows(values)
        words = rows["word"]
        if self.buckets:
            codes = (1 + hashed(words) % np.uint64(self.buckets)).astype(np.int32)
        else:
            codes = self.ids.encode(words) + np.int32(1)
        return rows["row"].to_numpy(), codes


@dataclasses.dataclass
class Category(Coded):
    """One of several values; the number 3.0, the number 3 and the text "3" are the same."""

    kind: ClassVar[str] = "category"

    @staticmethod
    def _rows(values: pl.Series) -> pl.DataFrame:
        frame = pl.DataFrame({"row": np.arange(len(values), dtype=np.int64), "word": words_of(values)})
        return frame.filter(pl.col("word").is_not_null())

    def encode(self, values: pl.Series, now: int | None) -> Piece:
        row, code = self.coded(values)
        codes = np.zeros(len(values), dtype=np.int32)
        codes[row] = code
        return Piece(codes=[(self.name, codes, self.size)], rarity=self.rarity)


@dataclasses.dataclass
class Tags(Coded):
    """Several values a row: a list column, or a text parted by "|", ";" or ",". Case and outer spaces do not count.

    Each row has each of its codes once, ascending; all its unknown tags are one 0.
    """

    kind: ClassVar[str] = "tags"

    @staticmethod
    def _rows(values: pl.Series) -> pl.DataFrame:
        return parted(values)

    def encode(self, values: pl.Series, now: int | None) -> Piece:
        row, code = self.coded(values)
        pair = np.unique(row * self.size + code)
        counts = np.bincount(pair // self.size, minlength=len(values))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Piece(bag=(offsets, (pair % self.size).astype(np.int32), self.size), rarity=self.rarity)


@dataclasses.dataclass
class Time(Column):
    """A moment: its age at `now`, its hour and its weekday (UTC).

    The age is a number, log(1 + days), negative for moments after `now`, standardised over the training rows at their
    last moment. Hour and weekday are a sine and a cosine each, and a code each (0 unknown, hour + 1, weekday from
    Monday = 1). Whole numbers are microseconds unless an option says `s` or `ms`.
    """

    unit: str
    last: int  # microseconds UTC: `now` where none is given
    mean: float
    deviation: float
    gaps: bool
    hours: bool  # dates alone have no hour
    examples: list[str]  # of dates written as text: 03/04 alone may be March or April

    kind: ClassVar[str] = "time"
    options: ClassVar[tuple[str, ...]] = ("s", "ms", "us")

    @classmethod
    def learn(cls, name: str, values: pl.Series, options: dict[str, str]) -> Time:
        unit = next(iter(options), "us")
        examples: list[str] = []
        if values.dtype == pl.String:
            distinct = values.drop_nulls().unique().sort()
            examples = distinct.gather_every(max(1, len(distinct) // N_DATE_EXAMPLES)).to_list()
        elif values.dtype.is_temporal() and not isinstance(values.dtype, pl.Datetime | pl.Date):
            raise ConfigError(f"column {name!r} of {values.dtype} holds no moments", remedy="dates or datetimes")
        moments = moments_of(values, unit, examples)
        present = moments.drop_nulls().to_numpy()
        last = int(present.max(initial=0)) if len(present) else 0
        ages = _log((last - present) / DAY)
        mean, deviation = (float(ages.mean()), float(ages.std())) if len(present) else (0.0, 0.0)
        hours = bool((present % DAY != 0).any())
        return cls(name, unit, last, mean, deviation or 1.0, len(present) < len(moments), hours, examples)

    def encode(self, values: pl.Series, now: int | None) -> Piece:
        moments = moments_of(values, self.unit, self.examples)
        is_present = moments.is_not_null().to_numpy()
        at = moments.fill_null(0).to_numpy()
        age = (self.last if now is None else now) - at
        z = np.clip((_log(age / DAY) - self.mean) / self.deviation, -MAX_DEVIATIONS, MAX_DEVIATIONS)
        piece = Piece([(f"{self.name} age", "value", np.where(is_present, z, 0.0).astype(np.float32))])
        if self.gaps:
            piece.numbers.append((f"{self.name} missing", "missing", (~is_present).astype(np.float32)))
        hour, weekday = (at % DAY) / UNITS["h"], (at // DAY + 3) % 7  # day 0 of the epoch was a Thursday
        for what, value, period, used in (("hour", hour, 24, self.hours), ("weekday", weekday, 7, True)):
            if used:
                turn = 2 * np.pi * value / period
                for wave, number in (("sin", np.sin(turn)), ("cos", np.cos(turn))):
                    filled = np.where(is_present, number, 0.0).astype(np.float32)
                    piece.numbers.append((f"{self.name} {what} {wave}", "circle", filled))
                code = np.where(is_present, value.astype(np.int32) + 1, 0).astype(np.int32)
                piece.codes.append((f"{self.name} {what}", code, period + 1))
        return piece


@dataclasses.dataclass
class Vector(Column):
    """Vectors the user brings in a list or array column, all of one width; or a text column, read by a sentence model.

    "vector:/path/to/model": a local folder that `sentence_transformers` can open; nothing is downloaded. A row without
    a vector has zeros.
    """

    width: int
    model: str

    kind: ClassVar[str] = "vector"

    @classmethod
    def check(cls, name: str, options: dict[str, str]) -> None:
        """The one option is a path."""

    @classmethod
    def learn(cls, name: str, values: pl.Series, options: dict[str, str]) -> Vector:
        model = next(iter(options), "")
        if model:
            return cls(name, int(_sentence_model(model).encode(["a"], show_progress_bar=False).shape[1]), model)
        if not isinstance(values.dtype, pl.List | pl.Array):
            remedy = 'a list column of numbers, or a text column and "vector:/path/to/a/sentence/model"'
            raise ConfigError(f"column {name!r} holds no vectors but {values.dtype}", remedy=remedy)
        lengths = _lengths(values)
        return cls(name, int(lengths.max() or 0), "")  # type: ignore[arg-type]

    def encode(self, values: pl.Series, now: int | None) -> Piece:
        vectors = np.zeros((len(values), self.width), dtype=np.float32)
        if self.model:
            present = (values.is_not_null() & (values.cast(pl.String).str.len_bytes() > 0)).fill_null(False)
            if present.any():
                texts = values.filter(present).cast(pl.String).to_list()
                vectors[present.to_numpy()] = _sentence_model(self.model).encode(texts, show_progress_bar=False)
            return Piece(vector=vectors)
        if values.dtype == pl.Null:
            return Piece(vector=vectors)
        lengths = _lengths(values)
        present = (lengths > 0).fill_null(False)
        wrong = present & (lengths != self.width)
        if wrong.any():
            row = int(wrong.arg_true()[0])
            raise DataError(
                f"row {row} has a vector of {lengths[row]} numbers, the training rows had {self.width}",
                column=self.name,
                remedy="vectors of one model and width in every row, or null",
            )
        numbers = values.filter(present).explode().cast(pl.Float32, strict=False).fill_null(0.0).fill_nan(0.0)
        vectors[present.to_numpy()] = numbers.to_numpy().reshape(-1, self.width)
        return Piece(vector=vectors)


# -- words ------------------------------------------------------------------------------------------------------------


def packed(words: pl.Series) -> np.ndarray:
    """Words, not empty and without zero bytes, as uint8[...] separated by zero bytes."""
    return np.frombuffer("\0".join(words).encode(), dtype=np.uint8).copy()


def unpacked(words: np.ndarray) -> Ids:
    """The words from what `packed` returned, as `Ids` for look-up; they must have been sorted."""
    return Ids(pl.Series("id", bytes(words).decode().split("\0") if len(words) else [], dtype=pl.String))


def words_of(values: pl.Series) -> pl.Series:
    """Values as trimmed text, null where empty; 3.0 and 3 are the same."""
    if values.dtype.is_float():
        integers = values.cast(pl.Int64, strict=False)
        same = ((integers == values) & (values.abs() < 2**53)).fill_null(False)
        text = integers.cast(pl.String).zip_with(same, values.fill_nan(None).cast(pl.String))
    else:
        text = values.cast(pl.String, strict=False)
    text = text.str.replace_all("\0", " ", literal=True).str.strip_chars()
    return text.set(text.str.len_bytes() == 0, None)


def parted(values: pl.Series) -> pl.DataFrame:
    """Frame `row` (Int64), `word`: the tags of each row, lower case, with repeats."""
    if isinstance(values.dtype, pl.Array):
        lists = values.arr.to_list()
    elif isinstance(values.dtype, pl.List):
        lists = values
    else:
        lists = words_of(values).str.replace_all(SEPARATORS, "|").str.split("|")
    frame = pl.DataFrame({"row": np.arange(len(values), dtype=np.int64), "word": lists}).explode("word")
    words = words_of(frame["word"]).str.to_lowercase()
    return frame.select("row", word=words).filter(pl.col("word").is_not_null())


def hashed(words: pl.Series) -> np.ndarray:
    """uint64[n]: FNV-1a of each word's bytes, mixed; the same on every machine and in every version."""
    ends = np.cumsum(words.str.len_bytes().to_numpy().astype(np.int64))
    text = np.frombuffer("".join(words).encode(), dtype=np.uint8)
    return _fnv(text, np.concatenate([[0], ends]).astype(np.int64))


@kernel
def _fnv(text, offsets):
    hashes = np.empty(len(offsets) - 1, dtype=np.uint64)
    for word in range(len(hashes)):
        value = np.uint64(0xCBF29CE484222325)
        for at in range(offsets[word], offsets[word + 1]):
            value = (value ^ np.uint64(text[at])) * np.uint64(0x100000001B3)
        hashes[word] = mix(value)
    return hashes


# -- numbers ----------------------------------------------------------------------------------------------------------


def floats(values: pl.Series) -> np.ndarray:
    """float64[n]; NaN where a value is no number."""
    if values.dtype.is_temporal():
        values = values.to_physical()
    elif values.dtype == pl.String:
        values = values.str.strip_chars()
    return values.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()


def whole(name: str, options: dict[str, str], option: str, otherwise: int) -> int:
    """The value of an option that is a whole number of at least 1. Raises ConfigError for another value."""
    text = options.get(option)
    if text is None:
        return otherwise
    if not text.isdigit() or not int(text):
        raise ConfigError(f"column {name!r}: {option} = {text!r} is no number from 1", remedy=f"such as {option}=5")
    return int(text)


def _log(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.log1p(np.abs(x))


def moments_of(values: pl.Series, unit: str, examples: list[str]) -> pl.Series:
    """Int64 microseconds UTC, null where unknown."""
    if values.dtype.is_numeric():  # by the learned unit, whatever the size of these values
        return (values.cast(pl.Float64).fill_nan(None) * _UNITS[unit]).round().cast(pl.Int64, strict=False)
    if values.dtype == pl.Null:
        return values.cast(pl.Int64)
    if values.dtype == pl.String:
        before = pl.Series(examples, dtype=pl.String)
        return to_microseconds(pl.concat([before, values.rename("")]))[len(before) :]
    return to_microseconds(values)


def _lengths(values: pl.Series) -> pl.Series:
    listed = values.arr.to_list() if isinstance(values.dtype, pl.Array) else values
    return listed.list.len()


def _sentence_model(path: str) -> Any:
    """A sentence model from a local folder, opened once."""
    if path not in _MODELS:
        from pathlib import Path

        if not Path(path).is_dir():
            raise ConfigError(f"there is no sentence model at {path!r}", remedy="a local folder that holds one")
        try:
            from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]
        except ModuleNotFoundError:
            raise ConfigError(
                "a sentence model needs sentence_transformers, which is not installed",
                remedy="pip install sentence-transformers, or bring a column of vectors",
            ) from None
        # Weights from safetensors only: a pickle could run.
        _MODELS[path] = SentenceTransformer(path, local_files_only=True, model_kwargs={"use_safetensors": True})
    return _MODELS[path]


_MODELS: dict[str, Any] = {}
