"""Routes for lists: recommendations, popular, trending, similar, rank, pages; and what was kept of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response

from zhiyin.core.run import Run
from zhiyin.service.errors import RefusedError
from zhiyin.service.fast_path import FastRoute
from zhiyin.service.list_service import next_page, unpacked
from zhiyin.service.openapi_description import REFUSALS
from zhiyin.service.request_json import JsonRoute, parsed
from zhiyin.service.request_models import Ask, Body, Id, PageIn, RankIn
from zhiyin.service.route_dependencies import (
    FieldsQuery,
    FilterQuery,
    ItemId,
    KQuery,
    LanguageQuery,
    PageQuery,
    ScopeDependencies,
    Tenant,
    json_response,
    names,
)
from zhiyin.store.traces import Trace

_Who = Annotated[Id | None, Query()]


def routes(needs: ScopeDependencies) -> APIRouter:
    router = APIRouter(tags=["lists"], responses=REFUSALS, route_class=JsonRoute)
    _single(router, needs)
    _several(router, needs)
    _kept(router, needs)
    return router


async def _answer(tenant: Tenant, ask: Ask, origin: str = "recommendations", like: str | None = None) -> Response:
    def work() -> dict[str, Any]:
        begun = time.perf_counter()
        made = tenant.list_service.create(ask, origin, like)
        return tenant.list_service.to_json(made, ask, begun)

    if ask.now is not None and not tenant.admin:
        raise RefusedError(403, "only an admin key may say what time it is", "leave now out")
    ask = tenant.own(ask, origin == "recommendations")
    found = await tenant.work.do(work)
    return json_response(found if like is None else {"item": like} | found)


BLANK = Ask()


async def _recommend(ask: Ask, tenant: Tenant) -> Response:
    return await _answer(tenant, ask)


async def _rank(body: RankIn, tenant: Tenant) -> Response:
    wanted = list(dict.fromkeys(body.items))
    given = {name: getattr(body, name) for name in body.model_fields_set if name != "items"}
    given |= {"include": wanted, "k": len(wanted), "exclude_seen": False, "diversity": "none"}
    ask = tenant.own(BLANK.model_copy(update=given))  # all of it was checked as the body

    def work() -> dict[str, Any]:
        begun = time.perf_counter()
        made = tenant.list_service.create(ask, "rank")
        found = tenant.list_service.to_json(made, ask, begun)
        there = {row["item"] for row in found["items"]}
        found["items"] += [{"item": item, "score": None} for item in wanted if item not in there]
        found["next"] = None
        return found

    return json_response(await tenant.work.do(work))


def _read(model: type[Body]) -> Callable[[bytes, str], Body]:
    def read(body: bytes, kind: str) -> Body:
        return model.model_validate(parsed(body))

    return read


FAST_ROUTES = {
    "/v1/recommendations": FastRoute("read", _read(Ask), _recommend, visitors=True),
    "/v1/rank": FastRoute("read", _read(RankIn), _rank, visitors=True),
}


def _single(router: APIRouter, needs: ScopeDependencies) -> None:
    @router.post("/v1/recommendations")
    async def recommend(body: Ask, tenant: Tenant = needs.visitor_read) -> Any:
        """The best items for a user, a session, a visitor with a history, or a stranger."""
        return await _recommend(body, tenant)

    @router.get("/v1/recommendations")
    async def recommend_simply(
        user: _Who = None,
        session: _Who = None,
        placement: _Who = None,
        k: Annotated[int | None, Query(ge=1, le=1_000)] = None,
        filter: FilterQuery = "",
        explain: bool = False,
        language: LanguageQuery = "en",
        fields: FieldsQuery = "",
        page: PageQuery = None,
        tenant: Tenant = needs.visitor_read,
    ) -> Any:
        """The same in one line."""
        given = {"k": k} if k is not None else {}
        ask = Ask(user=user, session=session, placement=placement, filter=filter, explain=explain, language=language,
                  fields=names(fields), page=page, **given)  # type: ignore[arg-type]  # fmt: skip
        return await _answer(tenant, ask)

    @router.get("/v1/popular")
    async def popular(
        k: KQuery = 10,
        filter: FilterQuery = "",
        fields: FieldsQuery = "",
        page: PageQuery = None,
        tenant: Tenant = needs.visitor_read,
    ) -> Any:
        """What most users had."""
        return await _answer(tenant, Ask(k=k, filter=filter, fields=names(fields), page=page), "popular")

    @router.get("/v1/trending")
    async def trending(
        k: KQuery = 10,
        filter: FilterQuery = "",
        fields: FieldsQuery = "",
        page: PageQuery = None,
        tenant: Tenant = needs.visitor_read,
    ) -> Any:
        """What users choose right now: the weight of each event of the store's log, halved for every day that passed.

        Events that count against an item, such as dislikes, are left out.
        """
        return await _answer(tenant, Ask(k=k, filter=filter, fields=names(fields), page=page), "trending")

    @router.get("/v1/items/{key}/similar", tags=["items"])
    async def similar(
        key: ItemId,
        k: KQuery = 10,
        filter: FilterQuery = "",
        fields: FieldsQuery = "",
        page: PageQuery = None,
        tenant: Tenant = needs.visitor_read,
    ) -> Any:
        """What goes with an item."""
        return await _answer(tenant, Ask(k=k, filter=filter, fields=names(fields), page=page), "similar", key)

    @router.get("/v1/users/{key}/similar", tags=["users"])
    async def similar_users(key: ItemId, k: KQuery = 10, page: PageQuery = None, tenant: Tenant = needs.read) -> Any:
        """Users of the training data who did alike."""
        route = f"/v1/users/{key}/similar"

        def work() -> dict[str, Any]:
            view = tenant.live.view()
            past = tenant.live.past(view, key)
            if not len(past.history.items):
                raise RefusedError(404, f"nothing is known of user {key!r}", "bring events of the user first")
            paged = unpacked(page, route) if page else []
            me, before = int(view.known.user_ids.encode([key])[0]), set(paged)
            wanted, users = k + len(paged) + 1, len(view.known.user_ids)
            most = wanted + 1
            while True:  # more of them where many were forgotten since
                frame = view.answers.model.similar_users(k=most, histories=past.history, run=Run(threads=1))
                found = [(str(user), score) for user, score in frame.select("similar", "score").iter_rows()]
                named = tenant.live.not_forgotten([user for user, _ in found])
                rows = [{"user": user, "score": score} for (user, score), there in zip(found, named)
                        if there and (me < 0 or user != key) and user not in before]  # fmt: skip
                if len(rows) > k or len(found) < most or most >= users:
                    shown = [*paged, *(row["user"] for row in rows[:k])]
                    return {"user": key, "version": view.version, "users": rows[:k],
                            "next": next_page(shown, len(rows) > k, route)}  # fmt: skip
                most = min(users, 4 * most)

        return json_response(await tenant.work.do(work))

    @router.get("/v1/users/{key}/history", tags=["users"])
    async def history(
        key: ItemId, most: Annotated[int, Query(ge=1, le=1_000)] = 100, tenant: Tenant = needs.visitor_read
    ) -> Any:
        """Events of a user that the store has heard, oldest first; a page token is told those of its own user."""
        if tenant.visitor is not None:
            tenant.visitor.check(key, "user")
        found = await tenant.work.do(tenant.store.history, key, most)
        return json_response({"user": key, "events": [
            {"id": e.id, "item": e.item, "time": e.time, "kind": e.kind, "value": e.value} for e in found
        ]})  # fmt: skip


def _several(router: APIRouter, needs: ScopeDependencies) -> None:
    @router.post("/v1/rank")
    async def rank(body: RankIn, tenant: Tenant = needs.visitor_read) -> Any:
        """The given items in the best order for this user; those nobody knows or may see come last, as given."""
        return await _rank(body, tenant)

    @router.post("/v1/pages")
    async def page(body: PageIn, tenant: Tenant = needs.visitor_read) -> Any:
        """Several lists for one page; no item is in two of them."""
        who = tenant.own(body).model_dump(exclude_unset=True, exclude={"widgets"})

        def work() -> dict[str, Any]:
            told: list[dict[str, Any]] = []
            out: list[str] = []
            for widget in body.widgets:
                begun = time.perf_counter()
                given = widget.model_dump(exclude_unset=True, include={"placement", "k", "filter", "page"})
                ask = Ask(**who, **{name: value for name, value in given.items() if value is not None})
                origin = "similar" if widget.similar_to is not None else widget.kind
                made = tenant.list_service.create(ask, origin, widget.similar_to, out)
                out += made.items
                told.append({"name": widget.name} | tenant.list_service.to_json(made, ask, begun))
            return {"widgets": told}

        return json_response(await tenant.work.do(work))


def _kept(router: APIRouter, needs: ScopeDependencies) -> None:
    @router.get("/v1/lists/{list_id}", tags=["traces"])
    async def trace(list_id: ItemId, tenant: Tenant = needs.admin) -> Any:
        """What a list was made of, what was really shown of it, and what was done with it."""
        found = await _known(tenant, list_id)

        def work() -> dict[str, Any]:
            head, arrays = found.head, found.arrays
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
                "list_id": list_id, "user": found.user, "time": found.time, "version": found.version,
                "placement": found.placement, "placement_version": head["place_version"], "method": head["method"],
                "origin": head["origin"], "request": head["request"], "degraded": head.get("degraded", []),
                "left_out": head.get("left_out", {}), "items": rows,
                "impressions": [{"time": when, "items": items} for when, items in tenant.store.impressions(list_id)],
                "events": [{"id": e.id, "item": e.item, "kind": e.kind, "time": e.time, "value": e.value}
                           for e in tenant.store.events_of_list(list_id)],
            }  # fmt: skip

        return json_response(await tenant.work.do(work))

    @router.post("/v1/lists/{list_id}/replay", tags=["traces"])
    async def replay(list_id: ItemId, explain: bool = False, tenant: Tenant = needs.admin) -> Any:
        """Make a list again, by the version and the items of then, and say whether it is the same. `explain`: with the
        reason of each item, and what was removed by which rule."""
        found = await _known(tenant, list_id)

        def work() -> dict[str, Any]:
            same, answer, why = tenant.list_service.replay(found, explain)
            said: dict[str, Any] = {"list_id": list_id, "same": same, "items": []}
            if answer is not None:
                said["items"] = [{"item": str(i), "score": s} for i, s in zip(answer.items, answer.scores)]
                for row, reason in zip(said["items"], answer.reasons):
                    row |= {"reason": reason.to_dict(), "sentence": reason.sentence()}
                if explain:
                    said["removed"] = [{"item": str(row["item"]), "rule": row["rule"]} for row in answer.removed]
                    said["trace"] = answer.trace
            return said | ({"reason": why} if why else {})

        return json_response(await tenant.work.do(work))


async def _known(tenant: Tenant, list_id: str) -> Trace:
    found = await tenant.find_list(list_id)
    if found is None:
        raise RefusedError(404, f"list {list_id!r} is not known", "lists are kept for a while only")
    return found
