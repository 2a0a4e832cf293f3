"""Sentiment by a lexicon, in English and Chinese: words with strengths, negation, degree, "too", and contrast.

Each clause is read from left to right. An odd number of negations before a word of sentiment turns it ("not good",
"一点也不喜欢"), an even number does not ("没有不喜欢的"). What stands behind "but" or 但是 counts more than what stands
before it, and a concession ("although ...", 虽然) less than what it concedes to. After Taboada et al., Lexicon-based
methods for sentiment analysis, Computational Linguistics 2011; the words are this project's own.

>>> round(score("not good, but never boring"), 2), score("一点也不喜欢")
(0.67, -0.6)
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from zhiyin.features import sentiment_words_en as en
from zhiyin.features import sentiment_words_zh as zh

# Characters that are read at the beginning and at the end of a long text: a page of Chinese takes 5 ms.
READ_CHARS = 1_000
# How much of a word's strength is left when it is turned: "not excellent" is milder than "terrible".
TURNED = 0.75
# What a word behind "too" is worth; how far back a negation reaches, in words and in Chinese characters.
TOO_MUCH, REACH, REACH_ZH = -1.5, 7, 9
# What a text is worth that denies something and has no word of sentiment: "it doesn't even turn on".
DENIAL = -0.5
# Weights of what is conceded or stands before a contrast, and of what stands behind it.
CONCEDED, MEANT = 0.4, 1.6
# A sum of strengths of this square is worth about 0.7 of the most.
SQUASH = 4.0

_HAN = re.compile(r"[\u4e00-\u9fff]")
_LATIN = re.compile(r"[a-z]+(?:[-'][a-z]+)*|[0-9]+|[.!?;:,()\n]+")
_PARTS_ZH = re.compile(r"[^，。！？；：、,.!?;:()（）\s~～…—]+|[，。！？；：、,.!?;:()（）\s~～…—]+")
_PAUSES = re.compile(r"[,，、()（） ]+")


def score(text: str, language: str = "auto") -> float:
    """From -1, surely a bad review, to 1; NaN where no word says anything. language: "en", "zh", or "auto" by the
    writing of the text."""
    if len(text) > 2 * READ_CHARS:
        text = f"{text[:READ_CHARS]}\n{text[-READ_CHARS:]}"
    text = text.lower().replace("’", "'").replace("‘", "'")
    clauses: list[Clause] = []
    if language in ("auto", "zh") and _HAN.search(text):
        clauses += _read_chinese(text)
    if language in ("auto", "en") and _LATIN.search(text):
        clauses += _read_english(_HAN.sub(" ", text))
    values = [clause.weight * value for clause in clauses for value in clause.values]
    if not values and _denies(text, language):
        values = [DENIAL]
    if not values:
        return float("nan")
    total = sum(values)
    return total / math.sqrt(total * total + SQUASH)


def scores(texts: pl.Series | Iterable[str | None], language: str = "auto") -> np.ndarray:
    """float32[n]: `score` of each text; NaN for one that is missing."""
    return np.array([math.nan if text is None else score(text, language) for text in texts], dtype=np.float32)


def _denies(text: str, language: str) -> bool:
    kinds = _chinese().kinds
    if language in ("auto", "zh") and any(word in text for word, (kind, _) in kinds.items() if kind == "not"):
        return True
    words = _LATIN.findall(text) if language in ("auto", "en") else []
    return any(word in _english().negations or word.endswith("n't") for word in words)


class Clause(NamedTuple):
    """A clause: what its words of sentiment are worth, and how much it counts."""

    values: list[float]
    weight: float


class _Sentence:
    """The clauses of one sentence, weighed by its contrasts."""

    def __init__(self) -> None:
        self.done: list[Clause] = []
        self.values: list[float] = []
        self.is_conceded, self.is_meant = False, False

    def end_clause(self) -> None:
        if self.values:
            weight = CONCEDED if self.is_conceded else MEANT if self.is_meant else 1.0
            self.done.append(Clause(self.values, weight))
        self.values = []

    def pause(self) -> None:
        """A comma: a concession ends, and what follows is what is meant."""
        self.end_clause()
        if self.is_conceded:
            self.is_conceded, self.is_meant = False, True

    def concede(self) -> None:
        self.end_clause()
        self.is_conceded = True

    def contrast(self) -> None:
        self.end_clause()
        self.done = [Clause(clause.values, min(clause.weight, 1.0) * CONCEDED) for clause in self.done]
        self.is_conceded, self.is_meant = False, True

    def clauses(self) -> list[Clause]:
        self.end_clause()
        if len(self.done) == 1:  # alone, a clause is what it says
            return [Clause(self.done[0].values, 1.0)]
        return self.done


# -- English ------------------------------------------------------------------------------------------------------


class _English(NamedTuple):
    words: dict[str, float]
    phrases: dict[tuple[str, ...], float]
    turning: frozenset[tuple[str, ...]]
    negations: frozenset[str]
    degrees: dict[str, float]
    excessive: frozenset[str]
    conceding: frozenset[tuple[str, ...]]


@functools.cache
def _english() -> _English:
    return _English(
        _strengths(en.POSITIVE, en.NEGATIVE),
        {tuple(phrase.split()): float(value) for phrase, value in en.PHRASES.items()},
        frozenset(tuple(phrase.split()) for phrase in en.NEGATING_PHRASES),
        frozenset(en.NEGATIONS.split()),
        {word: degree for degree, words in en.INTENSIFIERS.items() for word in words.split()},
        frozenset(en.EXCESSIVE.split()),
        frozenset(tuple(phrase.split()) for phrase in en.CONCESSIONS),
    )


def _read_english(text: str) -> list[Clause]:
    """The clauses of a text."""
    clauses, sentence, lexicon = [], _Sentence(), _english()
    words: list[str] = []
    tokens = _LATIN.findall(text)
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if not token[0].isalnum():
            sentence.values += _values_english(words)
            words = []
            if _PAUSES.fullmatch(token):
                sentence.pause()
            else:
                clauses += sentence.clauses()
                sentence = _Sentence()
        elif _starts(tokens, at, lexicon.conceding):
            sentence.values += _values_english(words)
            words = []
            sentence.concede()
        elif (
            token in en.CONTRASTS
            and not (words and words[-1] in ("nothing", "anything", "all"))
            and (token != "yet" or not words)
        ):
            sentence.values += _values_english(words)
            words = []
            sentence.contrast()
        else:
            words.append(token)
        at += 1
    sentence.values += _values_english(words)
    return clauses + sentence.clauses()


def _values_english(words: list[str]) -> list[float]:
    """What the words of sentiment of one clause are worth."""
    lexicon = _english()
    values: list[float] = []
    turns: list[int] = []  # places of negations
    last, was_turned, at = -1, False, 0
    too = -9
    while at < len(words):
        length = _longest(words, at, lexicon.phrases)
        turning = _longest(words, at, lexicon.turning)
        value: float | None = None
        word, step = words[at], 1
        if turning >= max(1, length) and not (at and words[at - 1] in ("as", "than")):
            turns.append(at)
            at += turning
            continue
        if length:
            value, step = lexicon.phrases[tuple(words[at : at + length])], length
            if value == 0:
                at += step
                continue
        elif word in lexicon.negations or word.endswith("n't"):
            if words[at + 1 : at + 2] in (["buy"], ["purchase"], ["order"], ["use"]) and not _again(words, at + 1):
                values.append(-1.5)
            turns.append(at)
        elif word == "too":
            too = at
        elif word == "to" and at - too == 2:
            turns.append(at)
        elif word in ("buy", "order", "purchase", "visit", "stay", "come", "use", "go", "read", "watch"):
            value = 1.5 if _again(words, at) else None
        elif word in lexicon.excessive and 0 < at - too <= 2:
            value = TOO_MUCH
        elif word not in lexicon.degrees or words[at + 1 : at + 2] == []:
            value = _strength(word)
        if value:
            degree = lexicon.degrees.get(words[at - 1], 1.0) if at else 1.0
            between = [turn for turn in turns if last < turn < at and at - turn <= REACH]
            turned = len(between) % 2 == 1
            if not between and last >= 0 and was_turned and at - last == 2 and words[at - 1] == "or":
                turned = True
            if turned and _outdone(words, at, step) and not any(_starts_turn(words, turn) for turn in between):
                turned, degree = False, 1.5
            if value < 0 and any(word in ("gone", "fixed", "solved", "disappeared") for word in words[at + 1 : at + 4]):
                turned = not turned
            values.append(-TURNED * value if turned else degree * value)
            last, was_turned = at + step - 1, turned
        at += step
    return values


def _starts_turn(words: list[str], at: int) -> bool:
    """Whether an expression that turns what follows stands here, other than a plain negation."""
    return _longest(words, at, _english().turning) > 1


def _again(words: list[str], at: int) -> bool:
    return "again" in words[at + 1 : at + 6]


def _outdone(words: list[str], at: int, step: int) -> bool:
    """Whether a negation says that there is no more: "couldn't be happier", "cannot recommend it highly enough"."""
    word = words[at]
    is_more = word == "better" or (word.endswith("er") and word not in _english().words)
    return is_more or "enough" in words[at + step : at + step + 4]


def _strength(word: str) -> float | None:
    """The strength of a word or of what it is an inflection of; None: it says nothing."""
    known = _english().words
    if word in known:
        return known[word]
    for ending, instead in (("'s", ""), ("ies", "y"), ("es", ""), ("s", ""), ("ed", ""), ("d", ""), ("ing", ""),
                            ("ing", "e"), ("ily", "y"), ("ly", ""), ("ier", "y"), ("er", ""), ("er", "e"),
                            ("iest", "y"), ("est", ""), ("est", "e")):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word[: len(word) - len(ending)] + instead
            if stem in known:
                return known[stem]
            if len(stem) > 3 and stem[-1] == stem[-2] and stem[:-1] in known:
                return known[stem[:-1]]
    for prefix in ("un", "in", "im", "dis", "non-"):
        rest = word.removeprefix(prefix)
        if rest != word and len(rest) > 3 and rest in known:
            return -known[rest]
    return None


# -- Chinese ------------------------------------------------------------------------------------------------------


class _Chinese(NamedTuple):
    kinds: dict[str, tuple[str, float]]
    longest: int


@functools.cache
def _chinese() -> _Chinese:
    """Each expression with its kind and number; of one that stands in several lists the last counts."""
    kinds: dict[str, tuple[str, float]] = {}
    for degree, words in zh.INTENSIFIERS.items():
        kinds |= dict.fromkeys(words.split(), ("degree", degree))
    kinds |= dict.fromkeys(zh.EXCESSIVE.split(), ("excessive", 0.0))
    kinds |= dict.fromkeys(zh.TOO, ("too", 1.5))
    kinds |= dict.fromkeys(zh.NEGATIONS.split(), ("not", 0.0))
    kinds |= dict.fromkeys(zh.RHETORICAL, ("not", 0.0))
    kinds |= dict.fromkeys(zh.CONTRASTS, ("contrast", 0.0))
    kinds |= dict.fromkeys(zh.CONCESSIONS, ("concede", 0.0))
    kinds |= dict.fromkeys(zh.TRAILING, ("turn back", 0.0))
    kinds |= {word: ("value", value) for word, value in _strengths(zh.POSITIVE, zh.NEGATIVE).items()}
    kinds |= {word: ("value", float(value)) for word, value in zh.PHRASES.items()}
    return _Chinese(kinds, max(map(len, kinds)))


def _read_chinese(text: str) -> list[Clause]:
    clauses, sentence = [], _Sentence()
    for part in _PARTS_ZH.findall(text):
        if _HAN.search(part):
            _read_clause_zh(part, sentence)
        elif _PAUSES.fullmatch(part) or "，" in part:
            sentence.pause()
        else:
            clauses += sentence.clauses()
            sentence = _Sentence()
    return clauses + sentence.clauses()


def _read_clause_zh(part: str, sentence: _Sentence) -> None:
    """Add what the words of a clause are worth to its sentence."""
    lexicon = _chinese()
    turns: list[int] = []
    degree, too, at = 1.0, -9, 0
    while at < len(part):
        word = next((part[at : at + n] for n in range(min(lexicon.longest, len(part) - at), 0, -1)
                     if part[at : at + n] in lexicon.kinds), "")  # fmt: skip
        if not word:
            at += 1
            continue
        kind, value = lexicon.kinds[word]
        if kind == "excessive":
            kind, value = "value", TOO_MUCH if 0 < at - too <= 2 else 0.0
        if kind == "value":
            if value:
                turned = sum(at - turn <= REACH_ZH for turn in turns) % 2 == 1
                sentence.values.append(-TURNED * value if turned else degree * value)
                turns, degree = [], 1.0
        elif kind == "not":
            turns.append(at + len(word))
        elif kind in ("degree", "too"):
            degree = value
            too = at + len(word) - 1 if kind == "too" else too
        elif kind == "turn back" and sentence.values:
            sentence.values[-1] *= -TURNED
        elif kind in ("contrast", "concede"):
            sentence.contrast() if kind == "contrast" else sentence.concede()
            turns, degree = [], 1.0
        at += len(word)


# -- both ---------------------------------------------------------------------------------------------------------


def _strengths(positive: Mapping[int, str], negative: Mapping[int, str]) -> dict[str, float]:
    words = {word: float(strength) for strength, text in positive.items() for word in text.split()}
    return words | {word: -float(strength) for strength, text in negative.items() for word in text.split()}


def _longest(words: list[str], at: int, phrases: Any) -> int:
    """The length of the longest phrase that begins here; 0 where none does."""
    return next((n for n in range(min(6, len(words) - at), 0, -1) if tuple(words[at : at + n]) in phrases), 0)


def _starts(tokens: list[str], at: int, phrases: frozenset[tuple[str, ...]]) -> bool:
    return any(tuple(tokens[at : at + n]) in phrases for n in (1, 2, 3))
