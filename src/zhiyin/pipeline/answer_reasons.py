"""Explanations of a list: reasons of its items, items that rules removed, ranks by source and features."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from zhiyin.core.parallel import kernel
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.pipeline.cold_start import NewItems
from zhiyin.pipeline.explanations import Reason, reasons
from zhiyin.pipeline.list_building import BuiltLists, ListBatch
from zhiyin.pipeline.pipeline import Pipeline
from zhiyin.pipeline.request import Request
from zhiyin.pipeline.slate import Slate, Slates
from zhiyin.ranking.examples import Candidates, Examples, ItemFeatures


def list_reasons(
    model: Pipeline, new_items: NewItems, ids: Ids, history: Histories, slate: Slate, built: BuiltLists, run: Run
) -> list[Reason]:
    """A reason for each item of a list."""
    n_trained = new_items.n
    known_items = slate.items[slate.items < n_trained]
    known_reasons = iter(
        reasons(model, history, known_items, built.candidates, run, method=built.method, examples=built.examples)
    )
    result = []
    for item, raw_id in zip(slate.items, ids.raw(slate.items)):
        lines = trace_lines(slate.trace, int(item))
        if item < n_trained:
            result.append(dataclasses.replace(next(known_reasons), rules=lines))
        else:
            result.append(new_items.reason(raw_id, new_items.source, lines))
    return result


def trace_lines(trace: list[dict[str, Any]], item: int) -> list[str]:
    """What rules did to an item, in words."""
    lines = []
    for event in trace:
        if item in event.get("items", ()):
            line = event["step"]
            if event.get("when") or event.get("of"):
                line += f" ({event.get('when') or event.get('of')})"
            if "slot" in event:
                line += f", slot {event['slot'][event['items'].index(item)]}"
            lines.append(line)
    return list(dict.fromkeys(lines))


def unlisted_items(
    request: Request, ids: Ids, batch: ListBatch, slate: Slate, visible: np.ndarray | None
) -> list[dict[str, Any]]:
    """Of a closed request: the items of `include` that are not in the list, in the order given, and why."""
    raw = list(dict.fromkeys(request.include or ()))
    codes = ids.encode(raw)
    rule: dict[int, str] = {}
    for event in slate.trace:
        if event["step"] in ("cap", "dedupe"):
            rule |= dict.fromkeys(event["items"], event["step"])
    if batch.exclude_seen:
        rule |= dict.fromkeys([*batch.histories.items.tolist(), *batch.seen.tolist()], "seen")
    items = np.unique(codes[codes >= 0])
    slates = Slates.best_first(np.array([0, len(items)]), items, np.zeros(len(items), np.float32))
    for event in batch.rulebook.qualify(slates, batch.requests)[0].trace:
        rule |= dict.fromkeys(event["items"], event["step"])
    if visible is not None:
        rule |= dict.fromkeys(items[~visible[items]].tolist(), "hidden")
    listed = set(slate.items.tolist())
    return [{"item": item, "rule": "unknown" if code < 0 else rule.get(code, "no candidate")}
            for item, code in zip(raw, codes.tolist()) if code not in listed]  # fmt: skip


def removed_items(model: Pipeline, batch: ListBatch, run: Run) -> list[dict[str, Any]]:
    """The items that would be in the list without rules, and the rule that removed each."""
    history = batch.histories
    candidates = model.retrieve(history, batch.k, run=run)
    scores = model.order(history, candidates, run, batch.index)
    best = Slates.best_first(candidates.offsets, candidates.items, scores).first(batch.k)
    trace = batch.rulebook.qualify(best, batch.requests)[0].trace
    rule = {int(item): event["step"] for event in trace for item in event["items"]}
    if batch.exclude_seen:
        rule |= {int(item): "seen" for item in np.intersect1d(best.items, history.items)}
    raw = model._context().item_ids.raw(best.items)
    return [{"item": name, "rule": rule[int(item)]} for name, item in zip(raw, best.items) if int(item) in rule]


def source_ranks(items: np.ndarray, candidates: Candidates) -> np.ndarray:
    """int32[k, sources]: the rank from 0 that each source gave each item; -1 where it did not name it."""
    ranks = np.empty((len(items), len(candidates.sources)), dtype=np.int32)
    _copy_ranks(items, candidates.items, candidates.ranks, ranks)
    return ranks


@kernel
def _copy_ranks(items, candidates, candidate_ranks, ranks):
    """Rows of `candidate_ranks` of some of the candidates, -1 where one is none; by a hash table of the items."""
    ranks[:] = -1
    size = 2
    while size < 2 * len(items):
        size *= 2
    slots = np.full(size, -1, dtype=np.int32)
    for place in range(len(items)):
        at = (np.int64(items[place]) * 40503) & (size - 1)
        while slots[at] >= 0:
            at = (at + 1) & (size - 1)
        slots[at] = place
    for row in range(len(candidates)):
        at = (np.int64(candidates[row]) * 40503) & (size - 1)
        while slots[at] >= 0:
            place = slots[at]
            if items[place] == candidates[row]:
                for source in range(ranks.shape[1]):
                    ranks[place, source] = candidate_ranks[row, source]
                break
            at = (at + 1) & (size - 1)


def item_features(which: str, items: np.ndarray, examples: Examples | None) -> ItemFeatures | None:
    """What the ranker read, of the items "shown", of "all" candidates, or of "none"."""
    if which == "none" or examples is None:
        return None
    return ItemFeatures.of(examples, items if which == "shown" else None)
