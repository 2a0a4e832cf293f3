"""The application: routes, keys, limits. Thin: reads a request, asks `Live` and `Answers`, writes the answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

import zhiyin
from zhiyin.core.errors import UnknownItemError, ZhiyinError
from zhiyin.core.run import Run
from zhiyin.pipeline import answers as pipeline
from zhiyin.pipeline.rules import Boost
from zhiyin.service.keys import Keys
from zhiyin.service.live import Live
from zhiyin.store.records import ID, Event
from zhiyin.store.writer import StoreBusyError, StoreClosedError, Writer

# Bytes of a request's body; events in one; seconds that a commit is waited for.
BODY, MOST_EVENTS, COMMIT = 4 << 20, 1_000, 10.0

BEARER = HTTPBearer(auto_error=False, description="a key made at the first start")

Id = Annotated[str, Field(min_length=1, max_length=ID)]
ItemId = Annotated[str, Path(min_length=1, max_length=ID)]
Scalar = str | bool | int | float | None


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class EventIn(Body):
    """One event. `time`: microseconds UTC, left out for now; `id`: of one id only the first event is kept."""

    user: str
    item: str
    kind: str = "event"
    time: int | None = None
    value: float | None = None
    id: str | None = None
    list_id: str | None = None


class EventsIn(Body):
    events: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_EVENTS)


class BoostIn(Body):
    when: str = ""
    multiply: float | str = 1.0
    add: float | str = 0.0


class Ask(Body):
    """Who asks for how many of what. `history`: of an anonymous visitor, items, oldest first, instead of `user`."""

    user: Id | None = None
    history: list[Id] | None = Field(default=None, max_length=1_000)
    k: int = Field(default=10, ge=1, le=pipeline.MOST_ITEMS)
    filter: str = Field(default="", max_length=10_000)
    boosts: list[BoostIn] = Field(default_factory=list, max_length=20)
    include: list[Id] | None = Field(default=None, max_length=pipeline.MOST_IDS)
    exclude: list[Id] = Field(default_factory=list, max_length=pipeline.MOST_IDS)
    pins: dict[int, Id] = Field(default_factory=dict, max_length=100)
    exclude_seen: bool | None = None
    diversity: Literal["none", "mmr", "dpp", "calibrate"] | None = None
    balance: float | None = Field(default=None, ge=0, le=1)
    context: dict[str, Scalar] = Field(default_factory=dict, max_length=100)
    explain: bool = False
    language: Literal["en", "zh"] = "en"


class RankIn(Body):
    """Items to be ordered for a user or a visitor."""

    user: Id | None = None
    history: list[Id] | None = Field(default=None, max_length=1_000)
    items: list[Id] = Field(min_length=1, max_length=1_000)
    context: dict[str, Scalar] = Field(default_factory=dict, max_length=100)


def create_app(live: Live, keys: Keys, writer: Writer | None = None) -> FastAPI:
    """The service over a state. The caller closes `live` and the writer."""
    app = FastAPI(title="Zhiyin", version=zhiyin.__version__, docs_url="/docs", redoc_url=None)
    app.state.live, app.state.writer = live, writer or Writer(live.store)

    def needs(scope: str) -> Any:
        def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)] = None) -> None:
            found = keys.scopes(given.credentials) if given is not None else set()
            if not found:
                raise RefusedError(401, "a key is needed", "send the header Authorization: Bearer KEY")
            if scope not in found:
                raise RefusedError(403, f"this key may not {scope}", "use another key")

        return Depends(check)

    app.add_middleware(_Limited)
    _handle_errors(app)
    _events(app, needs)
    _things(app, needs)
    _lists(app, needs)

    @app.get("/health", tags=["state"])
    def health() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.get("/ready", tags=["state"])
    def ready() -> dict[str, Any]:
        """Whether it can answer: a version in use, and a store that can be read."""
        return {
            "status": "ok",
            "version": live.now.version,
            "events": live.store.last,
            "waiting": app.state.writer.waiting,
        }

    return app


def _events(app: FastAPI, needs: Callable[[str], Any]) -> None:
    live: Live = app.state.live

    @app.post("/v1/events", dependencies=[needs("events")], tags=["events"])
    def bring(body: EventsIn) -> Any:
        """Keep events. Each is accepted, known already, or rejected with its reason; answered once they are on the
        disk, and they count in the very next list."""
        now, right, said = time.time_ns() // 1000, [], []
        for given in body.events:
            try:
                known = EventIn.model_validate(given)
                moment = now if known.time is None else known.time
                made = Event(known.user, known.item, moment, known.kind, known.value, known.id or "", known.list_id)
                event = made.checked()
            except ZhiyinError as error:
                said.append({"status": "rejected", "reason": error.message, "field": error.column})
            except ValueError as error:
                said.append({"status": "rejected", "reason": _first(error)})
            else:
                said.append({"status": "accepted", "id": event.id})
                right.append(event)
        if right:
            new = app.state.writer.submit(right).result(COMMIT)
            live.heard([event for event, fresh in zip(right, new) if fresh])
            fate = iter(new)
            for told in said:
                if told["status"] == "accepted" and not next(fate):
                    told["status"] = "known"
        bad = sum(told["status"] == "rejected" for told in said)
        return JSONResponse({"events": said, "rejected": bad}, 200 if bad < len(said) else 400)


def _things(app: FastAPI, needs: Callable[[str], Any]) -> None:
    live: Live = app.state.live

    def table_of(name: str, one: str) -> None:
        @app.put(f"/v1/{name}/{{key}}", dependencies=[needs("admin")], tags=[name], operation_id=f"put_{one}")
        def put(key: ItemId, body: dict[str, Any]) -> dict[str, Any]:
            """Write all columns. Hidden by `hidden: true`."""
            version = live.store.put(name, {key: body})[key]
            live.changed(name, {key: body})
            return {"id": key, "version": version}

        @app.patch(f"/v1/{name}/{{key}}", dependencies=[needs("admin")], tags=[name], operation_id=f"patch_{one}")
        def patch(key: ItemId, body: dict[str, Any]) -> dict[str, Any]:
            """Change the columns named, leave the others."""
            old = live.store.get(name, key)
            return put(key, (old[0] if old else {}) | body)

        @app.get(f"/v1/{name}/{{key}}", dependencies=[needs("read")], tags=[name], operation_id=f"get_{one}")
        def get(key: ItemId) -> dict[str, Any]:
            """Columns and version."""
            found = live.store.get(name, key)
            if found is None:
                raise RefusedError(404, f"{one} {key!r} is not known", f"PUT /v1/{name}/{key} first")
            return {"id": key, "columns": found[0], "version": found[1]}

        @app.delete(f"/v1/{name}/{{key}}", dependencies=[needs("admin")], tags=[name], operation_id=f"delete_{one}")
        def delete(key: ItemId) -> dict[str, Any]:
            """Items: no longer shown. Users: all of them is removed, with the proof."""
            if name == "users":
                proof = live.store.forget(key)
                live.forget(key)
                return {"id": key, "proof": proof}
            version = live.store.put(name, {key: None})[key]
            live.changed(name, {key: None})
            return {"id": key, "version": version}

    table_of("items", "item")
    table_of("users", "user")

    @app.get("/v1/users/{key}/history", dependencies=[needs("read")], tags=["users"])
    def history(key: ItemId, most: Annotated[int, Query(ge=1, le=1_000)] = 100) -> dict[str, Any]:
        """Events of a user, oldest first."""
        found = live.store.history(key, most)
        return {"user": key, "events": [
            {"id": e.id, "item": e.item, "time": e.time, "kind": e.kind, "value": e.value} for e in found
        ]}  # fmt: skip


def _lists(app: FastAPI, needs: Callable[[str], Any]) -> None:
    live: Live = app.state.live

    def answer(ask: Ask) -> dict[str, Any]:
        begun, now = time.perf_counter(), live.now
        if ask.user is not None and ask.history is not None:
            raise RefusedError(422, "user and history cannot both be given", "send one of them")
        columns: dict[str, Any] = {}
        given: Any = [] if ask.history is None else [now.item(item) for item in ask.history]
        if ask.user is not None:
            given, columns = live.history(ask.user), live.users.get(ask.user) or {}
        request = pipeline.Request(
            user=None if ask.user is None else now.user(ask.user),
            history=given,
            k=ask.k,
            filter=ask.filter,
            boosts=tuple(Boost(b.when, str(b.multiply), str(b.add)) for b in ask.boosts),
            include=None if ask.include is None else [now.item(item) for item in ask.include],
            exclude=[now.item(item) for item in ask.exclude],
            pins={slot: now.item(item) for slot, item in ask.pins.items()},
            exclude_seen=ask.exclude_seen,
            diversity=ask.diversity,
            balance=ask.balance,
            user_columns=columns,
            context=ask.context,
            explain=ask.explain,
        )
        found = now.answers.ask(request, now.shown)
        rows = [{"item": str(item), "score": score} for item, score in zip(found.items, found.scores)]
        if ask.explain:
            for row, reason in zip(rows, found.reasons):
                row |= {"reason": reason.said(), "sentence": reason.sentence(ask.language)}
        return {
            "list_id": uuid.uuid4().hex,
            "version": now.version,
            "method": found.method,
            "items": rows,
            **({"removed": found.removed} if ask.explain else {}),
            "milliseconds": round(1e3 * (time.perf_counter() - begun), 3),
        }

    @app.post("/v1/recommendations", dependencies=[needs("read")], tags=["lists"])
    def recommend(body: Ask) -> dict[str, Any]:
        """The best items for a user, a visitor with a history, or a stranger."""
        return answer(body)

    @app.get("/v1/recommendations", dependencies=[needs("read")], tags=["lists"])
    def recommend_simply(
        user: Annotated[str | None, Query(min_length=1, max_length=ID)] = None,
        k: Annotated[int, Query(ge=1, le=pipeline.MOST_ITEMS)] = 10,
        filter: Annotated[str, Query(max_length=10_000)] = "",
        explain: bool = False,
    ) -> dict[str, Any]:
        """The same in one line."""
        return answer(Ask(user=user, k=k, filter=filter, explain=explain))

    @app.get("/v1/popular", dependencies=[needs("read")], tags=["lists"])
    def popular(
        k: Annotated[int, Query(ge=1, le=pipeline.MOST_ITEMS)] = 10,
        filter: Annotated[str, Query(max_length=10_000)] = "",
    ) -> dict[str, Any]:
        """What a stranger gets."""
        return answer(Ask(k=k, filter=filter))

    @app.get("/v1/items/{key}/similar", dependencies=[needs("read")], tags=["items"])
    def similar(key: ItemId, k: Annotated[int, Query(ge=1, le=pipeline.MOST_ITEMS)] = 10) -> dict[str, Any]:
        """What goes with an item."""
        now = live.now
        hidden = int((~now.shown).sum())
        frame = now.answers.model.similar([now.item(key)], k + hidden, run=Run(threads=1))
        frame = frame.filter(pl.Series(now.shown[now.known.item_ids.encode(frame["similar"])])).head(k)
        rows = [{"item": str(item), "score": score} for item, score in frame.select("similar", "score").iter_rows()]
        return {"item": key, "version": now.version, "items": rows}

    @app.post("/v1/rank", dependencies=[needs("read")], tags=["lists"])
    def rank(body: RankIn) -> dict[str, Any]:
        """The given items in the best order for this user; those the version does not know come last, as given."""
        wanted = list(dict.fromkeys(body.items))
        found = answer(Ask(user=body.user, history=body.history, include=wanted, k=len(wanted), exclude_seen=False,
                           context=body.context, diversity="none"))  # fmt: skip
        there = {row["item"] for row in found["items"]}
        found["items"] += [{"item": item, "score": None} for item in wanted if item not in there]
        return found


class RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        self.status, self.message, self.remedy = status, message, remedy


def _handle_errors(app: FastAPI) -> None:
    def say(status: int, message: str, remedy: str | None = None, **more: Any) -> JSONResponse:
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        return JSONResponse({"error": message, "remedy": remedy or "", **more}, status, headers)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return say(error.status, error.message, error.remedy)

    @app.exception_handler(ZhiyinError)
    async def wrong(_: Request, error: ZhiyinError) -> Response:
        status = 503 if isinstance(error, StoreBusyError | StoreClosedError) else 400
        status = 404 if isinstance(error, UnknownItemError) else status
        return say(status, error.message, error.remedy, field=error.column)

    @app.exception_handler(TimeoutError)
    async def late(_: Request, error: TimeoutError) -> Response:
        return say(503, "the store did not commit in time", "send the same events again: of one id only one is kept")

    @app.exception_handler(RequestValidationError)
    async def unreadable(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return say(422, f"{place}: {first['msg']}" if place else first["msg"], "see /docs", field=place)


def _first(error: Any) -> str:
    """What pydantic found first, without the input."""
    if hasattr(error, "errors"):
        found = error.errors(include_input=False, include_url=False, include_context=False)[0]
        return ".".join(str(part) for part in found["loc"]) + ": " + found["msg"]
    return str(error)


class _Limited:
    """Refuses bodies above BODY bytes, whatever their header says."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
            if size > BODY:
                said = {"error": "the request is too large", "remedy": f"at most {BODY >> 20} MiB"}
                await JSONResponse(said, 413)(scope, receive, send)
                return
        whole = {"type": "http.request", "body": b"".join(chunks), "more_body": False}
        sent = False

        async def again() -> Any:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return whole

        await self.app(scope, again, send)
