"""Explanations of items: sources, similar items of the history, feature contributions; as data and as one sentence.

An explanation consists of what decided: the ranks that sources gave the item, the similarities that a source itself
uses, and the contributions of the ranker's features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.pipeline.deciding_causes import Cause, causes
from zhiyin.pipeline.reason_words import WORDS, column_words, verb_of_kind
from zhiyin.ranking.examples import Candidates, Examples

if TYPE_CHECKING:
    from zhiyin.pipeline.pipeline import Pipeline

# Of each item: items of the history, and features, that are told.
MAX_DETAILS = 3


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why an item is in a list.

    Parameters
    ----------
    item: raw id.
    method: what ordered the candidates: "ranker", "weighted", "rrf", a source's name, or "popular" for an item added
        by the backfill.
    sources: of each that named the item: {"rank": from 1, "score": its own score}.
    because: similar items of the history: [{"item": raw id, "similarity": number, "source": name, "did": what the user
        did with it, a key of `reason_words`}]; those that the deciding source knows, where it does.
    features: the largest contributions to the ranker's score: [{"feature": name, "contribution": number,
        "value": number}].
    rules: what rules did to it, in words.
    stranger: the user has no history.
    decided: what contributed most to its place; see `Cause`. None: it fills the list up.
    """

    item: Any
    method: str
    sources: dict[str, dict[str, float]]
    because: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    features: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rules: list[str] = dataclasses.field(default_factory=list)
    stranger: bool = False
    decided: Cause | None = None

    def to_dict(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"decided": None if self.decided is None else self.decided.to_dict()}

    def sentence(self, language: str = "en", titles: Mapping[Any, str] | None = None) -> str:
        """One plain sentence, in "en" or "zh". Raises ConfigError for another language."""
        if language not in WORDS:
            raise ConfigError(f"there are no sentences in {language!r}", remedy="one of en, zh")
        words = WORDS[language]
        parts = self._why(words, language, titles or {})
        if self.rules:
            steps = words["steps"].items()
            lines = [next((text.replace(step, word, 1) for step, word in steps if text.startswith(step)), text)
                    for text in self.rules]  # fmt: skip
            parts.append(words["rules"].format(words["list"].join(lines)))
        text = words["comma"].join(parts) + words["stop"]
        return text[:1].upper() + text[1:]

    def _why(self, words: dict[str, Any], language: str, titles: Mapping[Any, str]) -> list[str]:
        """What decided, in words."""
        cause = self.decided
        if cause is None and self.sources and not self.stranger:  # of an item that no source of the model could know
            cause = Cause("source", min(self.sources.items(), key=lambda pair: pair[1]["rank"])[0])
        if cause is None or (self.stranger and cause.by in ("source", "history") and not _is_popular(cause)):
            return [words["fill"]]  # what a source says to strangers is what is popular
        if cause.by in ("columns", "item") and cause.columns:
            names = words["and"].join(column_words(column, language) for column in cause.columns)
            return [words[cause.by].format(names)]
        if cause.by == "popularity":
            return [words["kinds"]["popular"]]
        parts = []
        if self.because and not _is_popular(cause):
            by_verb: dict[str, list[str]] = {}
            for entry in self.because[:2]:
                name = words["quote"].format(titles.get(entry["item"], entry["item"]))
                by_verb.setdefault(entry.get("did", ""), []).append(name)
            did = [words["verbs"][verb].format(_and(words, names)) for verb, names in by_verb.items()]
            parts.append(words["because"].format(words["and"].join(did)))
        if cause.source:
            name = cause.source.partition(":")[0]
            parts.append(words["kinds"].get(name) or words["kinds"]["other"].format(name))
        return parts or [words["history"]]


def _is_popular(cause: Cause) -> bool:
    return cause.by == "popularity" or cause.source.partition(":")[0] == "popular"


def _and(words: dict[str, Any], names: list[str]) -> str:
    return (" and " if words is WORDS["en"] else "和").join(names)


def reasons(
    pipeline: Pipeline,
    history: Histories,
    items: np.ndarray,
    candidates: Candidates,
    run: Run | None = None,
    context: Any = None,
    method: str | None = None,
    examples: Examples | None = None,
) -> list[Reason]:
    """A reason for each item of a list, for one history.

    items: int32[k], codes, as shown; those that are no candidates filled the list up.
    method: what ordered the candidates; None: what orders those of such histories. examples: what the ranker read of
    the candidates; None: what the pipeline has learned says so.
    """
    run, training = run or Run(), pipeline.context_
    method = pipeline.method_of(history) if method is None else method
    if method == "ranker" and examples is None:
        assert pipeline.builder_ is not None
        examples = pipeline.builder_.build(history, candidates, context)
    place = {int(item): at for at, item in enumerate(candidates.items)}
    rows = np.array([place.get(int(item), -1) for item in items], dtype=np.int64)
    moved = None if examples is None else _contributions(pipeline, examples, rows, run)
    moves = None if moved is None else (moved.names, moved.values)
    decided = causes(pipeline, history, items, rows, candidates, method, moves, run)
    because = _because(pipeline, history, items, candidates, rows, decided, run)
    features = [[]] * len(items) if moved is None else _features(moved, rows)
    raw, stranger = training.item_ids.raw(items), not bool((history.weights > 0).any())
    result = []
    for number, row in enumerate(rows):
        sources = {}
        if row >= 0:
            sources = {
                name: {"rank": int(candidates.ranks[row, at]) + 1, "score": float(candidates.scores[row, at])}
                for at, name in enumerate(candidates.sources)
                if candidates.ranks[row, at] >= 0
            }
        result.append(Reason(raw[number], method if row >= 0 else "popular", sources, because[number], features[number],
                            stranger=stranger, decided=decided[number] if row >= 0 else None))  # fmt: skip
    return result


def _because(
    pipeline: Pipeline,
    history: Histories,
    items: np.ndarray,
    candidates: Candidates,
    rows: np.ndarray,
    decided: list[Cause],
    run: Run,
) -> list[list[dict[str, Any]]]:
    """Of each item the items of the history that are most similar: by the source that decided where it knows, else by
    the first source that named it and knows."""
    had = np.unique(history.items[history.weights > 0])
    result: list[list[dict[str, Any]]] = [[] for _ in items]
    if not len(had) or not len(candidates.items):
        return result
    free, raw, did = rows >= 0, pipeline.context_.item_ids.raw(had), _what_was_done(pipeline, history, had)
    deciding = np.array([cause.source for cause in decided], dtype=object)
    sources = list(enumerate(pipeline.sources_.items()))
    passes = [(at, name, source, deciding == name) for at, (name, source) in sources]
    passes += [(at, name, source, np.ones(len(items), dtype=bool)) for at, (name, source) in sources]
    unable = set()
    for at, name, source, asked in passes:
        of = np.flatnonzero(free & asked & (candidates.ranks[np.maximum(rows, 0), at] >= 0))
        if not len(of) or name in unable:
            continue
        try:
            similar = source.similarities(items[of], had, run)
        except ConfigError:
            unable.add(name)
            continue
        for row, values in zip(of, similar):
            best = np.argsort(-values, kind="stable")[:MAX_DETAILS]
            best_similar = [b for b in best if np.isfinite(values[b]) and values[b] > 0]
            result[row] = [{"item": raw[b], "similarity": float(values[b]), "source": name, "did": did[b]}
                           for b in best_similar]  # fmt: skip
            free[row] = not result[row]
    return result


def _what_was_done(pipeline: Pipeline, history: Histories, items: np.ndarray) -> list[str]:
    """What the user did with each item, by the event of the largest weight, of equal ones the last."""
    schema = pipeline.context_.schema
    kinds = () if schema is None else schema.kinds
    order = np.lexsort((np.arange(len(history.items)), history.weights))
    last = dict(zip(history.items[order].tolist(), order.tolist()))
    result = []
    for item in items.tolist():
        event = last[item]
        code = int(history.kinds[event])
        kind = kinds[code] if code < len(kinds) else ""
        result.append(verb_of_kind(kind, not np.isnan(history.values[event])))
    return result


@dataclasses.dataclass(frozen=True)
class _Moved:
    """Contributions of features to the ranker's score, float32[k, features], zeros where an item is no candidate; and
    the numbers that the ranker read, by name."""

    names: list[str]
    values: np.ndarray
    numbers: dict[str, np.ndarray]


def _contributions(pipeline: Pipeline, whole: Examples, rows: np.ndarray, run: Run) -> _Moved | None:
    """Of the listed items; None for a ranker that does not know them."""
    assert pipeline.ranker_ is not None
    item_rows = np.unique(rows[rows >= 0])
    examples = whole.only(item_rows)
    try:
        moved = pipeline.ranker_.contributions(examples, run)
    except (ConfigError, NotImplementedError):
        return None
    names, real = pipeline.ranker_.contribution_names(examples), rows >= 0
    at = np.searchsorted(item_rows, rows[real])
    values = np.zeros((len(rows), len(names)), dtype=np.float32)
    values[real] = moved[at]
    numbers = {}
    for column, name in enumerate(examples.number_names):
        numbers[name] = np.full(len(rows), np.nan, dtype=np.float32)
        numbers[name][real] = examples.numbers[at, column]
    return _Moved(list(names), values, numbers)


def _features(moved: _Moved, rows: np.ndarray) -> list[list[dict[str, Any]]]:
    """Of each item the features that moved the ranker's score most."""
    result: list[list[dict[str, Any]]] = []
    for row, known in enumerate(rows >= 0):
        best = np.argsort(-np.abs(moved.values[row]), kind="stable")[:MAX_DETAILS] if known else ()
        result.append([])
        for at in best:
            value = moved.numbers.get(moved.names[at])
            result[-1].append({
                "feature": moved.names[at], "contribution": float(moved.values[row, at]),
                "value": None if value is None else float(value[row]),
            })  # fmt: skip
    return result
