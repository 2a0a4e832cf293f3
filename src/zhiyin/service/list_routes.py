"""Handlers of lists: recommendations, popular, trending, co-visits, similar, rank, pages; and of their traces."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from zhiyin.api import endpoints
from zhiyin.api.requests import (
    CovisitsQuery,
    HistoryQuery,
    ListQuery,
    PagedQuery,
    PageRequest,
    RankRequest,
    RecommendQuery,
    RecommendRequest,
    ReplayQuery,
    column_names,
)
from zhiyin.core.run import Run
from zhiyin.pipeline.decision_record import HEAD
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles
from zhiyin.service.errors import RefusedError
from zhiyin.service.list_response import list_json
from zhiyin.service.page_cursor import decode_cursor, next_cursor
from zhiyin.store.records import history_json

_NO_REQUEST = RecommendRequest()


async def _list_json(
    access: Access,
    ask: RecommendRequest,
    origin: str = "recommendations",
    like: str | None = None,
    *,
    personal: bool = False,
) -> Any:
    """The answer to a request for one list.

    Parameters
    ----------
    like: the item that those of the list go with.
    personal: whether a page token that is sent says whose list it is, where the request does not.
    """

    def work() -> dict[str, Any]:
        started = time.perf_counter()
        result = access.list_service.create(ask, origin, like)
        return list_json(result, ask, started)

    if ask.now is not None and not access.admin:
        raise RefusedError(403, "only an admin key may say what time it is", "leave now out")
    ask = access.own(ask, personal)
    if origin != "covisits" and access.list_service.is_short(ask):  # the first list of co-visits waits for their count
        return await access.work.do_short(origin, work)
    return await access.work.do(work)


@handles(endpoints.RECOMMEND)
async def recommend(access: Access, body: RecommendRequest) -> Any:
    return await _list_json(access, body, personal=True)


@handles(endpoints.RECOMMEND_BY_QUERY)
async def recommend_by_query(access: Access, query: RecommendQuery) -> Any:
    fields: dict[str, Any] = query.model_dump(exclude={"k"}) | {"fields": column_names(query.fields)}
    if query.k is not None:
        fields["k"] = query.k
    return await _list_json(access, RecommendRequest(**fields), personal=True)


def _ask_of(query: ListQuery, user: str | None = None, session: str | None = None) -> RecommendRequest:
    return RecommendRequest(
        user=user, session=session, k=query.k, filter=query.filter, fields=column_names(query.fields), page=query.page
    )


@handles(endpoints.POPULAR)
async def popular(access: Access, query: ListQuery) -> Any:
    return await _list_json(access, _ask_of(query), "popular")


@handles(endpoints.TRENDING)
async def trending(access: Access, query: ListQuery) -> Any:
    return await _list_json(access, _ask_of(query), "trending")


@handles(endpoints.COVISITS)
async def covisits(access: Access, query: CovisitsQuery) -> Any:
    ask = _ask_of(query, query.user, query.session)
    return await _list_json(access, ask, "covisits", query.item, personal=query.item is None)


@handles(endpoints.SIMILAR)
async def similar(access: Access, key: str, query: ListQuery) -> Any:
    return {"item": key} | await _list_json(access, _ask_of(query), "similar", key)


@handles(endpoints.RANK)
async def rank(access: Access, body: RankRequest) -> Any:
    items = list(dict.fromkeys(body.items))
    fields = {name: getattr(body, name) for name in body.model_fields_set if name != "items"}
    fields |= {"include": items, "k": len(items), "exclude_seen": False, "diversity": "none"}
    ask = access.own(_NO_REQUEST.model_copy(update=fields))  # all of it was checked as the body

    def work() -> dict[str, Any]:
        started = time.perf_counter()
        answer = list_json(access.list_service.create(ask, "rank"), ask, started)
        ranked = {row["item"] for row in answer["items"]}
        answer["items"] += [{"item": item, "score": None} for item in items if item not in ranked]
        answer["next"] = None
        return answer

    if access.list_service.is_short(ask):
        return await access.work.do_short("rank", work)
    return await access.work.do(work)


@handles(endpoints.PAGES)
async def pages(access: Access, body: PageRequest) -> Any:
    who = access.own(body).model_dump(exclude_unset=True, exclude={"widgets"})

    def work() -> dict[str, Any]:
        widgets: list[dict[str, Any]] = []
        shown: list[str] = []
        for widget in body.widgets:
            started = time.perf_counter()
            fields = widget.model_dump(exclude_unset=True, include={"placement", "k", "filter", "page"})
            ask = RecommendRequest(**who, **{name: value for name, value in fields.items() if value is not None})
            is_similar = widget.similar_to is not None and widget.kind != "covisits"
            origin = "similar" if is_similar else widget.kind
            result = access.list_service.create(ask, origin, widget.similar_to, shown)
            shown += result.items
            widgets.append({"name": widget.name} | list_json(result, ask, started))
        return {"widgets": widgets}

    return await access.work.do(work)


@handles(endpoints.SIMILAR_USERS)
async def similar_users(access: Access, key: str, query: PagedQuery) -> Any:
    route, k = f"/v1/users/{key}/similar", query.k

    def work() -> dict[str, Any]:
        view = access.live.view()
        past = access.live.user_history(view, key)
        if not len(past.history.items):
            raise RefusedError(404, f"nothing is known of user {key!r}", "bring events of the user first")
        shown = decode_cursor(query.page, route) if query.page else []
        code, shown_before = int(view.context.user_ids.encode([key])[0]), set(shown)
        n_wanted, n_users = k + len(shown) + 1, len(view.context.user_ids)
        n_asked = n_wanted + 1
        while True:  # more of them where many were forgotten since
            frame = view.answers.model.similar_users(k=n_asked, histories=past.history, run=Run(threads=1))
            neighbors = [(str(user), score) for user, score in frame.select("similar", "score").iter_rows()]
            remembered = access.live.not_forgotten([user for user, _ in neighbors])
            rows = [{"user": user, "score": score} for (user, score), present in zip(neighbors, remembered)
                    if present and (code < 0 or user != key) and user not in shown_before]  # fmt: skip
            if len(rows) > k or len(neighbors) < n_asked or n_asked >= n_users:
                shown = [*shown, *(row["user"] for row in rows[:k])]
                return {"user": key, "version": view.version, "users": rows[:k],
                        "next": next_cursor(shown, len(rows) > k, route)}  # fmt: skip
            n_asked = min(n_users, 4 * n_asked)

    return await access.work.do(work)


@handles(endpoints.HISTORY)
async def history(access: Access, key: str, query: HistoryQuery) -> Any:
    if access.visitor is not None:
        access.visitor.check(key, "user")
    events = await access.work.do(access.store.history, key, query.most)
    return {"user": key, "events": [history_json(event) for event in events]}


@handles(endpoints.GET_LIST)
async def get_list(access: Access, list_id: str) -> Any:
    trace = await access.get_list(list_id)

    def work() -> dict[str, Any]:
        head, arrays = trace.head, trace.arrays
        k = len(head["items"])
        propensities = arrays.get("propensities", np.ones(k)).tolist()
        rows = [
            {"item": item, "score": score, "propensity": propensity,
             "sources": {name: rank + 1 for name, rank in zip(head["sources"], ranks) if rank >= 0}}
            for item, score, propensity, ranks in zip(
                head["items"], arrays["scores"].tolist(), propensities,
                arrays["ranks"].tolist() if arrays["ranks"].size else [[]] * k,
            )
        ]  # fmt: skip
        return {
            "list_id": list_id, "user": trace.user, "time": trace.time, "version": trace.version,
            "placement": trace.placement, "placement_version": head["place_version"], "method": head["method"],
            "experiments": head.get("experiments", {}),
            "origin": head["origin"], "request": head["request"], "degraded": head.get("degraded", []),
            "left_out": head.get("left_out", {}), "items": rows,
            **({"decision": head[HEAD]} if HEAD in head else {}),
            "impressions": [{"time": when, "items": items} for when, items in access.store.impressions(list_id)],
            "events": [history_json(event) for event in access.store.events_of_list(list_id)],
        }  # fmt: skip

    return await access.work.do(work)


@handles(endpoints.REPLAY)
async def replay(access: Access, list_id: str, query: ReplayQuery) -> Any:
    trace = await access.get_list(list_id)

    def work() -> dict[str, Any]:
        same, answer, why = access.list_service.replays.replay(trace, query.explain)
        result: dict[str, Any] = {"list_id": list_id, "same": same, "items": []}
        if answer is not None:
            result["items"] = [{"item": str(i), "score": s} for i, s in zip(answer.items, answer.scores)]
            for row, reason in zip(result["items"], answer.reasons):
                row |= {"reason": reason.to_dict(), "sentence": reason.sentence()}
            if query.explain:
                result["removed"] = [{"item": str(row["item"]), "rule": row["rule"]} for row in answer.removed]
                result["trace"] = answer.trace
        return result | ({"reason": why} if why else {})

    return await access.work.do(work)
