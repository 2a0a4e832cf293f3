"""An endpoint is one entry of the table and one handler: routed, decoded, described, scoped, and called from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest

pytest.importorskip("starlette")

from pydantic import BaseModel, Field

from zhiyin.api.endpoint import Endpoint, RawBody
from zhiyin.api.endpoints import ENDPOINTS, HEALTH
from zhiyin.api.requests import Body, Id, Query
from zhiyin.service import app, endpoint_dispatch
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles

from .conftest import client_of
from .running import running


class NoteIn(Body):
    """A note."""

    text: Annotated[str, Field(max_length=5)]
    about: Id | None = None


class NoteQuery(Query):
    times: Annotated[int, Field(ge=1, le=3)] = 1


class Note(BaseModel):
    shop: str
    item: str
    notes: list[str]


NOTE = Endpoint(
    "put_note", "PUT", "/v1/items/{key}/notes", scope="events", tags=("notes",), description="Write a note.",
    query=NoteQuery, body=NoteIn, response=Note,
)  # fmt: skip


@pytest.fixture
def noted(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A shop with an endpoint more."""
    assert app.HANDLER_MODULES  # their handlers are bound
    monkeypatch.setattr(endpoint_dispatch, "HANDLERS", dict(endpoint_dispatch.HANDLERS))

    @handles(NOTE)
    async def put_note(access: Access, key: str, query: NoteQuery, body: NoteIn) -> Any:
        return {"shop": access.tenant.name, "item": key, "notes": [body.text] * query.times}

    return client_of(opened())


def test_a_new_endpoint_is_served(noted: Any) -> None:
    response = noted.put("/v1/items/a%2Fb/notes?times=2", json={"text": "fine"})
    assert response.status_code == 200
    assert response.json() == {"shop": "shop", "item": "a/b", "notes": ["fine", "fine"]}
    wrong = [
        noted.put("/v1/items/i1/notes", json={"text": "too long"}), noted.put("/v1/items/i1/notes", json={}),
        noted.put("/v1/items/i1/notes?times=4", json={"text": ""}), noted.put("/v1/items/i1/notes?time=2", json={}),
    ]  # fmt: skip
    assert [response.status_code for response in wrong] == [422] * 4
    assert [response.json()["field"] for response in wrong] == ["text", "text", "query.times", "query.time"]
    assert noted.get("/v1/items/i1/notes").headers["Allow"] == "PUT"


def test_a_new_endpoint_is_refused_without_a_key_of_its_scope(noted: Any) -> None:
    keys = {
        scope: noted.post("/v1/keys", json={"name": scope + "-only", "scopes": [scope]}).json()["key"]
        for scope in ("read", "events")
    }
    token = noted.post("/v1/tokens", json={"user": "u1"}).json()["token"]
    headers = [{"Authorization": ""}] + [
        {"Authorization": f"Bearer {key}"} for key in ("zy_wrong", keys["read"], token, keys["events"])
    ]
    statuses = [noted.put("/v1/items/i1/notes", json={"text": "a"}, headers=header).status_code for header in headers]
    assert statuses == [401, 401, 403, 403, 200]


def test_a_new_endpoint_is_described(noted: Any) -> None:
    document = noted.get("/openapi.json").json()
    operation = document["paths"]["/v1/items/{key}/notes"]["put"]
    assert operation["operationId"] == "put_note"
    assert operation["tags"] == ["notes"]
    assert operation["security"] == [{"HTTPBearer": []}]
    assert [(one["name"], one["in"]) for one in operation["parameters"]] == [("key", "path"), ("times", "query")]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/NoteIn"}
    assert {"NoteIn", "Note"} <= set(document["components"]["schemas"])
    assert "<code>/v1/items/{key}/notes</code>" in noted.get("/docs").text


def test_a_new_endpoint_is_called_from_python(noted: Any) -> None:
    pytest.importorskip("httpx")
    from zhiyin.client import ApiError, Client

    with running(noted.app) as url, Client(url, noted.keys["admin"], timeout=10) as client:
        answer = client.call(NOTE, "a/b", query={"times": 2}, body={"text": "fine"})
        assert answer == {"shop": "shop", "item": "a/b", "notes": ["fine", "fine"]}
        assert client.call(NOTE, "i1", query=NoteQuery(), body=NoteIn(text="a"))["notes"] == ["a"]
        with pytest.raises(ApiError) as error:
            client.call(NOTE, "i1", body={"text": "too long"})
    assert (error.value.status, error.value.field) == (422, "text")


def test_every_endpoint_has_a_handler(service: Any) -> None:
    assert {endpoint.name for endpoint in endpoint_dispatch.HANDLERS} == set(ENDPOINTS)
    routes = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS.values()}
    assert len(routes) == len(ENDPOINTS)


@pytest.mark.parametrize("name", ["read", "events", "page", "admin", "none", "token"])
def test_endpoints_are_scoped_as_the_table_says(service: Any, name: str) -> None:
    """Each endpoint, asked with each kind of key: refused exactly where the table says so."""
    if name == "token":
        key = service.post("/v1/tokens", json={"user": "u1"}).json()["token"]
    elif name in ("read", "events", "page"):
        key = service.post("/v1/keys", json={"name": "one", "scopes": [name]}).json()["key"]
    else:
        key = service.keys["admin"] if name == "admin" else ""
    for endpoint in ENDPOINTS.values():
        if endpoint.name == "metrics":  # open to all here
            continue
        ids = ["nowhere"] * len(endpoint.path_parameters)
        headers = {"Authorization": f"Bearer {key}"} if key else {"Authorization": ""}
        status = service.request(endpoint.method, endpoint.address(*ids), headers=headers).status_code
        if endpoint.scope is None:
            assert status not in (401, 403), endpoint.name
        elif name == "none":
            assert status == 401, endpoint.name
        else:
            allowed = endpoint.visitors if name == "token" else name in (endpoint.scope, "admin")
            foreign = name == "token" and endpoint.name in ("history", "recommend_by_query")
            assert foreign or (status == 403) is not allowed, (endpoint.name, status)


def test_a_handler_takes_what_its_endpoint_has() -> None:
    async def no_body(access: Access, key: str, query: NoteQuery) -> None: ...
    async def unknown(access: Access, key: str, query: NoteQuery, body: NoteIn, more: int) -> None: ...
    async def keyless(access: Access) -> None: ...

    for endpoint, handler in ((NOTE, no_body), (NOTE, unknown), (HEALTH, keyless)):
        with pytest.raises(TypeError, match=f"the handler of {endpoint.name} takes"):
            handles(endpoint)(handler)
    assert NOTE not in endpoint_dispatch.HANDLERS


def test_addresses() -> None:
    assert NOTE.address("a/b ü") == "/v1/items/a%2Fb%20%C3%BC/notes"
    with pytest.raises(TypeError, match="takes 1 ids in its path, not 2"):
        NOTE.address("a", "b")
    raw = Endpoint("x", "POST", "/x", scope=None, tags=(), description="", response=None, body=RawBody(dict))
    assert raw.path_parameters == ()
