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
    because: similar items of the history: [{"item": raw id, "similarity": number, "source": name}].
    features: the largest contributions to the ranker's score: [{"feature": name, "contribution": number,
        "value": number}].
    rules: what rules did to it, in words.
    stranger: the user has no history.
    """

    item: Any
    method: str
    sources: dict[str, dict[str, float]]
    because: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    features: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rules: list[str] = dataclasses.field(default_factory=list)
    stranger: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def sentence(self, language: str = "en", titles: Mapping[Any, str] | None = None) -> str:
        """One plain sentence, in "en" or "zh". Raises ConfigError for another language."""
        if language not in _WORDS:
            raise ConfigError(f"there are no sentences in {language!r}", remedy="one of en, zh")
        words, titles = _WORDS[language], titles or {}
        names = [str(titles.get(entry["item"], entry["item"])) for entry in self.because[:2]]
        parts = []
        if names:
            parts.append(words["because"].format(words["and"].join(words["quote"].format(name) for name in names)))
        best = min(self.sources.items(), key=lambda pair: pair[1]["rank"], default=None)
        if self.stranger and best is not None and not best[0].startswith("popular"):
            parts.append(words["fill"])  # what a source says to strangers is what is popular
        elif best is not None:
            name, place = best[0].partition(":")[0], int(best[1]["rank"])
            kind = words["kinds"].get(name, words["kinds"]["other"].format(name))
            parts.append(words["source"].format(kind, place))
        elif not names:
            parts.append(words["fill"])
        if self.rules:
            steps = words["steps"].items()
            lines = [next((text.replace(step, word, 1) for step, word in steps if text.startswith(step)), text)
                    for text in self.rules]  # fmt: skip
            parts.append(words["rules"].format(words["list"].join(lines)))
        return words["comma"].join(parts) + words["stop"]


_WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "because": "Because you had {}",
        "and": " and ",
        "quote": "“{}”",
        "source": "{} (place {})",
        "fill": "Popular with everyone",
        "rules": "rules: {}",
        "comma": "; ",
        "list": ", ",
        "steps": {"mmr": "for variety", "dpp": "for variety", "calibrate": "spread as your history"},
        "stop": ".",
        "kinds": {
            "popular": "popular these days",
            "popularincategory": "popular in what you like",
            "itemknn": "people who had that also had this",
            "ease": "goes with what you had",
            "als": "liked by people of your taste",
            "transitions": "often comes next",
            "content": "described alike",
            "hybrid": "alike in kind and in taste",
            "twotower": "described like what you had",
            "new": "new, and like what suits you",
            "sasrec": "fits the order of what you did",
            "gru4rec": "fits the order of what you did",
            "ratingblend": "you would rate it high",
            "other": "named by {}",
        },
    },
    "zh": {
        "because": "因为您看过{}",
        "and": "和",
        "quote": "《{}》",
        "source": "{}（第 {} 位）",
        "fill": "大家都喜欢",
        "rules": "规则：{}",
        "comma": "；",
        "list": "、",
        "steps": {
            "mmr": "多样性",
            "dpp": "多样性",
            "calibrate": "按您的历史分布",
            "pin": "固定位置",
            "boost": "加权",
            "exposure": "曝光目标",
            "rotate": "轮换",
            "cap": "每组上限",
            "share": "最低占比",
            "dedupe": "去除同款",
        },
        "stop": "。",
        "kinds": {
            "popular": "近期热门",
            "popularincategory": "您喜欢的类别中的热门",
            "itemknn": "看过它们的人也看了这个",
            "ease": "与您看过的相配",
            "als": "与您口味相近的人喜欢",
            "transitions": "常常接着被选择",
            "content": "内容相似",
            "hybrid": "内容与口味都相近",
            "twotower": "描述与您看过的相似",
            "new": "新上架，与适合您的相似",
            "sasrec": "符合您的浏览顺序",
            "gru4rec": "符合您的浏览顺序",
            "ratingblend": "预计您会给高分",
            "other": "由 {} 推荐",
        },
    },
}


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
    because = _because(pipeline, history, items, candidates, rows, run)
    features = [[]] * len(items) if examples is None else _features(pipeline, examples, rows, run)
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
                            stranger=stranger))  # fmt: skip
    return result


def _because(
    pipeline: Pipeline, history: Histories, items: np.ndarray, candidates: Candidates, rows: np.ndarray, run: Run
) -> list[list[dict[str, Any]]]:
    """Of each item the items of the history that are most similar, by the first source that named it and knows."""
    had = np.unique(history.items[history.weights > 0])
    result: list[list[dict[str, Any]]] = [[] for _ in items]
    if not len(had) or not len(candidates.items):
        return result
    free = rows >= 0
    for at, (name, source) in enumerate(pipeline.sources_.items()):
        of = np.flatnonzero(free & (candidates.ranks[np.maximum(rows, 0), at] >= 0))
        if not len(of):
            continue
        try:
            similar = source.similarities(items[of], had, run)
        except ConfigError:
            continue
        raw = pipeline.context_.item_ids.raw(had)
        for row, values in zip(of, similar):
            best = np.argsort(-values, kind="stable")[:MAX_DETAILS]
            best_similar = [b for b in best if np.isfinite(values[b]) and values[b] > 0]
            result[row] = [{"item": raw[b], "similarity": float(values[b]), "source": name} for b in best_similar]
            free[row] = not result[row]
    return result


def _features(pipeline: Pipeline, whole: Examples, rows: np.ndarray, run: Run) -> list[list[dict[str, Any]]]:
    """Of each item the features that moved the ranker's score most."""
    assert pipeline.ranker_ is not None
    item_rows = np.unique(rows[rows >= 0])
    examples = whole.only(item_rows)
    try:
        moved = pipeline.ranker_.contributions(examples, run)
    except (ConfigError, NotImplementedError):
        return [[] for _ in rows]
    names = pipeline.ranker_.contribution_names(examples)
    numbers = {name: examples.numbers[:, at] for at, name in enumerate(examples.number_names)}
    result = []
    for row in np.where(rows >= 0, np.searchsorted(item_rows, rows), -1):
        moves = []
        if row >= 0:
            for at in np.argsort(-np.abs(moved[row]), kind="stable")[:MAX_DETAILS]:
                value = numbers.get(names[at])
                moves.append(
                    {
                        "feature": names[at],
                        "contribution": float(moved[row, at]),
                        "value": None if value is None else float(value[row]),
                    }
                )
        result.append(moves)
    return result
