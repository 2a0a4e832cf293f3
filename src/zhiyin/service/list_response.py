"""The JSON of a list."""

from __future__ import annotations

import time
from typing import Any

from zhiyin.api.requests import RecommendRequest
from zhiyin.pipeline.request import Answer
from zhiyin.service.list_service import ListResult
from zhiyin.service.version_view import View


def list_json(result: ListResult, ask: RecommendRequest | Any, begun: float) -> dict[str, Any]:
    """The JSON of a list.

    Parameters
    ----------
    begun: when the request came, `time.perf_counter`.
    """
    answer, view = result.answer, result.view
    rows: list[dict[str, Any]] = [{"item": str(i), "score": s} for i, s in zip(answer.items, answer.scores)]
    if ask.fields:
        for row, code in zip(rows, view.ids.encode(answer.items).tolist()):
            row["columns"] = view.row(code, ask.fields)
    if ask.explain and answer.reasons:
        titles = _titles_in_reasons(view, answer)
        for row, reason in zip(rows, answer.reasons):
            row |= {"reason": reason.to_dict(), "sentence": reason.sentence(ask.language, titles)}
    if ask.explain and answer.ranks.size:
        for row, ranks in zip(rows, answer.ranks.tolist()):
            row["sources"] = {name: rank + 1 for name, rank in zip(answer.sources, ranks) if rank >= 0}
    body = {
        "list_id": result.list_id,
        "version": view.version,
        "placement": result.placement,
        "method": answer.method,
        "items": rows,
        "next": result.next,
        "degraded": answer.degraded + sorted(answer.left_out) + (["rules"] if view.unusable_rules else []),
    }
    if result.plan.arms:
        body["experiments"] = dict(result.plan.arms)
    if result.decision is not None:
        info = result.decision.info
        body["decision"] = {
            "policy": info.policy, "mode": info.mode, "snapshot": info.snapshot,
            "explored": bool(result.decision.decision.explored), "reason": info.reason,
        }  # fmt: skip
    if ask.explain or result.request.closed:
        body["removed"] = [{"item": str(row["item"]), "rule": row["rule"]} for row in answer.removed]
    return body | {"milliseconds": round(1e3 * (time.perf_counter() - begun), 3)}


def _titles_in_reasons(view: View, answer: Answer) -> dict[Any, str]:
    """Titles of the items that reasons name."""
    column = view.title
    if column is None:
        return {}
    items = list({cause["item"] for reason in answer.reasons for cause in reason.because})
    codes = view.ids.encode(items)
    titles = {item: view.row(int(code), [column]).get(column) for item, code in zip(items, codes) if code >= 0}
    return {item: str(title) for item, title in titles.items() if title}
