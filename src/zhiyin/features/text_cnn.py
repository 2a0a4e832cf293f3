"""TextCNN: a text as a vector, by convolutions over its words learned end to end (Kim, EMNLP 2014)."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from zhiyin.data.ids import Ids
from zhiyin.features.column_encoders import packed, unpacked
from zhiyin.features.text import holds_han, tokens

PADDING, UNKNOWN = 0, 1


@dataclasses.dataclass
class Words:
    """The vocabulary that texts become rows of: 0 is padding, 1 a word not learned, then `words` in their order.

    Parameters
    ----------
    words: uint8[...], packed, sorted. han: whether Chinese is cut, because training texts held some.
    """

    words: np.ndarray
    han: bool

    @classmethod
    def learn(cls, texts: pl.Series, min_count: int = 2) -> Words:
        """Words that at least `min_count` of the texts hold."""
        han = holds_han(texts)
        counts = tokens(texts, han=han).group_by("word").agg(pl.col("row").n_unique())
        return cls(packed(counts.filter(pl.col("row") >= min_count)["word"].sort()), han)

    @cached_property
    def ids(self) -> Ids:
        return unpacked(self.words)

    def __len__(self) -> int:
        return 2 + len(self.ids)

    def encode(self, texts: pl.Series, max_len: int) -> np.ndarray:
        """int32[n, max_len]: the first words of each text, padded on the right with 0."""
        words = tokens(texts, han=self.han)
        row = words["row"].to_numpy()
        first = np.searchsorted(row, np.arange(len(texts)))
        place = np.arange(len(row)) - first[row]
        mask = place < max_len
        codes = np.full((len(texts), max_len), PADDING, dtype=np.int32)
        codes[row[mask], place[mask]] = self.ids.encode(words["word"])[mask] + UNKNOWN + 1
        return codes


class TextCNN(nn.Module):
    """int[n, max_len] word codes to float[n, out].

    | difference from the paper | why |
    |---|---|
    | words begin at random, no pre-trained vectors | nothing is downloaded |
    | some words are dropped whole in training | texts are short titles: a title must not hang on one word |
    | GELU before the maximum | trains as well, without dead units |
    """

    def __init__(
        self,
        n_words: int,
        out: int,
        *,
        width: int = 64,
        maps: int = 64,
        windows: tuple[int, ...] = (1, 2, 3),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(n_words, width, padding_idx=PADDING)
        nn.init.normal_(self.words.weight, std=width**-0.5)
        with torch.no_grad():
            self.words.weight[PADDING] = 0
        # Padded on both sides, so that a text shorter than a window is still read.
        self.windows = nn.ModuleList([nn.Conv1d(width, maps, size, padding=size - 1) for size in windows])
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(maps * len(windows), out)
        self.word_dropout = dropout / 2

    def forward(self, codes: Tensor) -> Tensor:
        codes = codes.long()
        if self.training and self.word_dropout:
            codes = codes.masked_fill(torch.rand(codes.shape, device=codes.device) < self.word_dropout, PADDING)
        x = self.words(codes).transpose(1, 2)
        read = [nn.functional.gelu(window(x)).amax(dim=2) for window in self.windows]
        return self.out(self.dropout(torch.cat(read, dim=1)))
