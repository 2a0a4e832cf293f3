"""Words of texts in any script, and texts as weighted words: TF-IDF or BM25.

Texts are normalized (compatibility forms, accents, case) and tokenized; runs of Chinese characters are segmented by
jieba. Encoding needs a vocabulary and its weights only, no fitted object of another library.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import polars as pl
from scipy import sparse

from zhiyin.core.errors import MissingExtraError
from zhiyin.data.ids import Ids
from zhiyin.features.column_encoders import Column, Piece, packed, unpacked, whole

# A run of Chinese characters, or a word of letters and digits of any other script, with its apostrophes.
_WORD = r"\p{Han}+|[[\p{L}\p{N}\p{M}]--\p{Han}]+(?:'[[\p{L}]--\p{Han}]+)*"
_ACCENTS = r"[\u{300}-\u{36f}]"
# BM25's saturation of repeats and share of the length (Robertson & Zaragoza, 2009).
K1, B = 1.2, 0.75
# Lengths of character n-grams, and the number of leading characters of a word that they are taken from.
CHARACTER_NGRAMS, MAX_PREFIX_CHARACTERS = (3, 4, 5), 40


@dataclasses.dataclass
class Text(Column):
    """A text as weighted words: CSR, one column a word.

    tf-idf: (1 + ln tf) · (ln((1 + n) / (1 + df)) + 1), scikit-learn's with sublinear_tf.
    "bm25": tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)) · ln(1 + (n - df + ½) / (df + ½)) (Robertson &
    Zaragoza, The probabilistic relevance framework, 2009, eq. 3.15 with the idf that is never negative).
    Rows are divided by their length, in which words that were not learned count as words of no training row: a title
    of unknown words and "the" is not all about "the".

    Options: `bm25`; `ngrams`: also runs of up to so many words (default 1); `min`: training rows a word needs (default
    2); `pieces`: pieces of three to five characters of " word " beside the words, which find hearts by heart.
    """

    way: str
    ngrams: int
    pieces: bool
    han: bool  # whether training rows held Chinese: only then is it cut
    mean_length: float
    words: np.ndarray
    idf: np.ndarray  # float32, one a word, then that of words not learned

    kind: ClassVar[str] = "text"
    options: ClassVar[tuple[str, ...]] = ("tfidf", "bm25", "ngrams", "min", "pieces")

    @classmethod
    def learn(cls, name: str, values: pl.Series, options: dict[str, str]) -> Text:
        way = "bm25" if "bm25" in options else "tfidf"
        ngrams, pieces = whole(name, options, "ngrams", 1), "pieces" in options
        han = holds_han(values)
        terms = _terms(values, ngrams, pieces, han)
        counts = terms.group_by("word").agg(pl.col("row").n_unique().alias("df"))
        counts = counts.filter(pl.col("df") >= whole(name, options, "min", 2)).sort("word")
        df, n = np.append(counts["df"].to_numpy(), 0).astype(np.float64), len(values)
        idf = np.log1p((n - df + 0.5) / (df + 0.5)) if way == "bm25" else np.log((1 + n) / (1 + df)) + 1
        mean = len(terms) / max(1, n)
        return cls(name, way, ngrams, pieces, han, mean, packed(counts["word"]), idf.astype(np.float32))

    @cached_property
    def ids(self) -> Ids:
        return unpacked(self.words)

    def encode(self, values: pl.Series, now: int | None) -> Piece:
        return Piece(text=self.matrix(values))

    def matrix(self, values: pl.Series) -> sparse.csr_matrix:
        """CSR float32[n, n_words] of texts, rows of length 1 or less; words that were not learned are left out."""
        terms = _terms(values, self.ngrams, self.pieces, self.han)
        row, code = terms["row"].to_numpy(), self.ids.encode(terms["word"])
        unknown = len(self.idf) - 1
        # Each unknown word counts once: repeats are rare, and unknown words have no column.
        unknown_rows = terms.filter(pl.Series(code < 0)).unique(maintain_order=True)["row"].to_numpy()
        shape = (len(values), unknown)
        is_known = code >= 0
        counts = sparse.csr_matrix((np.ones(is_known.sum(), np.float32), (row[is_known], code[is_known])), shape=shape)
        counts.sum_duplicates()
        owner = np.repeat(np.arange(len(values)), np.diff(counts.indptr))
        if self.way == "bm25":
            length = np.bincount(row, minlength=len(values)).astype(np.float32)
            full = K1 * (1 - B + B * length / np.float32(self.mean_length or 1.0))
            weight, once = counts.data * (K1 + 1) / (counts.data + full[owner]), (K1 + 1) / (1 + full)
        else:
            weight, once = 1 + np.log(counts.data), np.ones(len(values))
        weight = weight * self.idf[counts.indices]
        square = np.bincount(owner, weights=weight.astype(np.float64) ** 2, minlength=len(values))
        square = square + np.bincount(unknown_rows, minlength=len(values)) * (once * self.idf[unknown]) ** 2
        counts.data = (weight / np.sqrt(np.maximum(square, 1e-30))[owner]).astype(np.float32)
        return counts


def tokens(values: pl.Series, *, han: bool = True) -> pl.DataFrame:
    """The words of texts in order: frame `row` (Int64), `word`.

    Folded by NFKC, without accents, lower case: "Café" and "CAFE" are one word, "ＡＢＣ１" is "abc1". With `han`, runs
    of Chinese characters are cut into words (jieba, each distinct run once); otherwise a run is a
    word. Raises MissingExtraError where that needs jieba and it is not installed.

    >>> tokens(pl.Series(["Café au lait", None, "WOMEN’S"]))["word"].to_list()
    ['cafe', 'au', 'lait', "women's"]
    """
    folded = values.cast(pl.String, strict=False).str.normalize("NFKD").str.replace_all(_ACCENTS, "")
    folded = folded.str.to_lowercase().str.normalize("NFKC").str.replace_all("[’‘`]", "'")
    frame = pl.DataFrame({"row": np.arange(len(values), dtype=np.int64), "word": folded.str.extract_all(_WORD)})
    frame = frame.explode("word").filter(pl.col("word").is_not_null())
    if han and len(frame):
        runs = frame["word"].filter(frame["word"].str.contains(r"^\p{Han}")).unique()
        if len(runs):
            cutter = _cutter()
            cut = pl.DataFrame({"word": runs, "cut": [cutter.lcut(run) for run in runs]})
            frame = frame.join(cut, on="word", how="left", maintain_order="left")
            frame = frame.with_columns(pl.coalesce("cut", pl.concat_list("word")).alias("word"))
            frame = frame.select("row", "word").explode("word")
    return frame


def holds_han(values: pl.Series) -> bool:
    """Whether any of the texts holds Chinese characters."""
    return bool(values.cast(pl.String, strict=False).str.contains(r"\p{Han}").any())


def unit_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The matrix with its rows scaled, in place, to length 1; rows of zeros stay."""
    owner = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    square = np.bincount(owner, weights=matrix.data.astype(np.float64) ** 2, minlength=matrix.shape[0])
    matrix.data = (matrix.data / np.sqrt(np.maximum(square, 1e-30))[owner]).astype(np.float32)
    return matrix


def _terms(values: pl.Series, ngrams: int, pieces: bool, han: bool) -> pl.DataFrame:
    """Words, word n-grams and character n-grams: frame `row`, `word`."""
    words = tokens(values, han=han)
    frames, run = [words], words
    for more in range(1, ngrams):
        following, owner = words["word"].shift(-more), words["row"].shift(-more)
        run = run.with_columns(word=pl.col("word") + " " + following)  # null after the last word
        frames.append(run.filter(owner == run["row"]))
    if pieces:
        frames.append(_pieces(words))
    return pl.concat(frames)


def _pieces(words: pl.DataFrame) -> pl.DataFrame:
    """Character n-grams of each word, marked by a prefix that no word begins with."""
    distinct = words.select(pl.col("word").unique())
    framed = pl.lit("_") + pl.col("word").str.slice(0, MAX_PREFIX_CHARACTERS) + "_"
    cut = [
        distinct.with_columns(piece=framed.str.slice(start, size)).filter(pl.col("piece").str.len_chars() == size)
        for size in CHARACTER_NGRAMS
        for start in range(MAX_PREFIX_CHARACTERS + 3 - size)
    ]
    pieces = pl.concat(cut).select("word", piece=pl.lit("~") + pl.col("piece"))
    return words.join(pieces, on="word", maintain_order="left").select("row", word="piece")


def _cutter() -> Any:
    """jieba's cutter, with its dictionary read from the package and nothing written to or read from /tmp."""
    if not _CUTTERS:
        try:
            import jieba  # type: ignore[import-untyped]
        except ModuleNotFoundError:
            raise MissingExtraError("jieba", "text", "cutting Chinese text into words") from None
        cutter = jieba.Tokenizer()
        cutter.FREQ, cutter.total = cutter.gen_pfdict(cutter.get_dict_file())
        cutter.initialized = True
        _CUTTERS.append(cutter)
    return _CUTTERS[0]


_CUTTERS: list[Any] = []
