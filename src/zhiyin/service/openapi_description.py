"""How the service describes itself: /openapi.json, and /docs as a page that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

Number = float | int


class Refusal(BaseModel):
    """An answer that is no success: what is wrong, what to do about it, and the field of the request."""

    error: str
    remedy: str
    field: str | None = None


_AGAIN = {"Retry-After": {"description": "seconds until it may succeed", "schema": {"type": "string"}}}
_SAID: dict[int, str] = {
    400: "It has the form that is described, and cannot be done: a filter that cannot be read or names no column, a "
    "page of another route, a value that its column cannot hold, events or lines of which none could be kept",
    401: "No key, or one that is not known",
    403: "The key may not do this",
    404: "There is no such thing: what the address names, or an item, a placement or a version that the body names",
    409: "What is there forbids it: a name that is taken, too many keys, placements or columns, the last admin key, a "
    "type under which a rule of the house could not be used",
    408: "The request came too slowly",
    413: "The request is too large",
    422: "It has not the form that is described: a field is missing, unknown, of the wrong kind or out of its range",
    431: "The headers are too large, or the address",
    429: "The key sends too many requests",
    500: "Something went wrong here",
    503: "Too much is at work, or the store is away: come again",
    504: "Something that the service asks did not answer in time",
    507: "The disk is full",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": said} | ({"headers": _AGAIN} if status in (429, 503) else {})
    for status, said in _SAID.items()
}
QUERY: dict[int | str, dict[str, Any]] = {422: REFUSALS[422]}
UNREADY: dict[int | str, dict[str, Any]] = {503: REFUSALS[503]}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


Columns = dict[str, Any]


class Fate(_Answer):
    """What became of an event. id: as given or made; none where it was rejected."""

    id: str | None = None
    status: str = Field(pattern="^(accepted|known|rejected)$")
    reason: str | None = None


class Fates(_Answer):
    events: list[Fate]
    rejected: int = Field(ge=0)


class Line(_Answer):
    line: int = Field(ge=1)
    reason: str


class Lines(_Answer):
    """rejected: the first 100."""

    accepted: int = Field(ge=0)
    rejected: list[Line]


class Kept(_Answer):
    """version 0: there was nothing to delete."""

    id: str
    version: int = Field(ge=0)


class Thing(_Answer):
    """version 0: as the catalogue of the version in use has it."""

    id: str
    columns: Columns
    version: int = Field(ge=0)


class Forgotten(_Answer):
    id: str
    proof: dict[str, Any]


class Found(_Answer):
    item: str
    columns: Columns


class Search(_Answer):
    """next: given back as page, the items that follow."""

    items: list[Found]
    next: str | None


class Listed(_Answer):
    """columns: those asked for. reason, sentence, sources: with explain. score: null where an item is not known."""

    item: str
    score: Number | None
    columns: Columns | None = None
    reason: dict[str, Any] | None = None
    sentence: str | None = None
    sources: dict[str, int] | None = None


class Removed(_Answer):
    item: str
    rule: str


class List(_Answer):
    """next: given back as page, the items that follow. degraded: stages and sources left out. milliseconds: it took."""

    list_id: str
    version: int
    placement: str
    method: str
    items: list[Listed]
    next: str | None
    degraded: list[str]
    removed: list[Removed] | None = None
    milliseconds: Number


class Similar(List):
    item: str


class Widgets(_Answer):
    class One(List):
        name: str

    widgets: list[One]


class SimilarUser(_Answer):
    user: str
    score: Number


class SimilarUsers(_Answer):
    """next: given back as page, the users that follow."""

    user: str
    version: int
    users: list[SimilarUser]
    next: str | None


class Past(_Answer):
    id: str
    item: str
    time: int
    kind: str
    value: Number | None


class History(_Answer):
    user: str
    events: list[Past]


class Shown(_Answer):
    """kept: items of the list that were shown; inserted: those shown that were not of it; dropped: those not shown."""

    list_id: str
    kept: list[str]
    inserted: list[str]
    dropped: list[str]


class Placement(_Answer):
    name: str
    version: int
    settings: dict[str, Any]


class AllPlacements(_Answer):
    placements: list[Placement]


class SetAsideEntry(_Answer):
    """what: which, by its name or its sequence number. mend: the command or request that mends it."""

    what: str
    reason: str
    mend: str


class ColumnType(_Answer):
    """source: catalogue, first write, settings or declared."""

    type: str
    source: str


class Schema(_Answer):
    """Types by column. version: grows with each change. set_aside: after a change, all that is not used."""

    version: int
    items: dict[str, ColumnType]
    users: dict[str, ColumnType]
    set_aside: list[SetAsideEntry] | None = None


class PlacementKept(_Answer):
    name: str
    version: int


class PlacementGone(_Answer):
    name: str


class PlacementVersion(_Answer):
    version: int
    time: int
    by: str | None
    settings: dict[str, Any] | None


class PlacementVersions(_Answer):
    name: str
    versions: list[PlacementVersion]


class Replayed(BaseModel):
    """reason: why it cannot be made again, or is not the same."""

    list_id: str
    same: bool
    items: list[Listed]
    reason: str | None = None


class Traced(BaseModel):
    """What a list was made of, what was shown of it, what was done with it."""

    class Item(_Answer):
        item: str
        score: Number
        propensity: Number
        sources: dict[str, int]

    list_id: str
    user: str | None
    time: int
    version: int
    placement: str
    method: str
    request: dict[str, Any]
    items: list[Item]
    impressions: list[dict[str, Any]]
    events: list[dict[str, Any]]


class Key(_Answer):
    """id: named by the page tokens that it signs. Moments in microseconds UTC; expires null: never; used: the day."""

    name: str
    id: str
    scopes: list[str]
    created: int
    expires: int | None
    expired: bool
    used: int | None


class NewKey(Key):
    """key: shown this once."""

    key: str


class AllKeys(_Answer):
    keys: list[Key]


class KeyGone(_Answer):
    name: str
    id: str


class Token(_Answer):
    """expires: seconds since 1970."""

    token: str
    user: str | None
    session: str | None
    expires: int


class Health(BaseModel):
    status: str


class Ready(BaseModel):
    """version: none where no version can answer. set_aside: the first 20 things that are not used."""

    status: str
    version: int | None = None
    events: int | None = None
    waiting: int | None = None
    shops: int | None = None
    set_aside: list[SetAsideEntry] | None = None


ANSWERS: dict[tuple[str, str], type[BaseModel]] = {
    ("post", "/v1/events"): Fates,
    ("post", "/v1/impressions/{list_id}"): Shown,
    ("get", "/v1/items"): Search,
    ("delete", "/v1/items/{key}"): Kept,
    ("delete", "/v1/users/{key}"): Forgotten,
    **{("post", f"/v1/{name}"): Lines for name in ("items", "users")},
    **{("get", f"/v1/{name}/{{key}}"): Thing for name in ("items", "users")},
    **{(how, f"/v1/{name}/{{key}}"): Kept for name in ("items", "users") for how in ("put", "patch")},
    ("post", "/v1/recommendations"): List,
    ("get", "/v1/recommendations"): List,
    ("get", "/v1/popular"): List,
    ("get", "/v1/trending"): List,
    ("get", "/v1/items/{key}/similar"): Similar,
    ("get", "/v1/users/{key}/similar"): SimilarUsers,
    ("get", "/v1/users/{key}/history"): History,
    ("post", "/v1/rank"): List,
    ("post", "/v1/pages"): Widgets,
    ("get", "/v1/lists/{list_id}"): Traced,
    ("post", "/v1/lists/{list_id}/replay"): Replayed,
    ("get", "/v1/schema"): Schema,
    ("put", "/v1/schema"): Schema,
    ("get", "/v1/placements"): AllPlacements,
    ("get", "/v1/placements/{name}"): Placement,
    ("put", "/v1/placements/{name}"): PlacementKept,
    ("delete", "/v1/placements/{name}"): PlacementGone,
    ("get", "/v1/placements/{name}/versions"): PlacementVersions,
    ("post", "/v1/placements/{name}/rollback"): PlacementKept,
    ("get", "/v1/keys"): AllKeys,
    ("post", "/v1/keys"): NewKey,
    ("delete", "/v1/keys/{name}"): KeyGone,
    ("post", "/v1/tokens"): Token,
    ("get", "/health"): Health,
    ("get", "/ready"): Ready,
}
# Where nothing of what was brought could be kept, the answer says so of each and is a 400.
_EACH = [("post", "/v1/events"), ("post", "/v1/items"), ("post", "/v1/users")]
_REF = "#/components/schemas/"


def describe(app: FastAPI) -> None:
    """Have /openapi.json tell what answers look like, too, and /docs show it. Routes write answers past FastAPI's own
    models. Both are made once and then sent as they are: anyone may ask for them, as often as they like."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = plain()
            kinds = sorted(set(ANSWERS.values()), key=lambda kind: kind.__name__)
            refs, told = models_json_schema([(kind, "serialization") for kind in kinds], ref_template=_REF + "{model}")
            made["components"]["schemas"] |= told["$defs"]
            for (method, path), kind in ANSWERS.items():
                operation = made["paths"].get(path, {}).get(method)
                if operation is None:
                    continue
                schema = refs[kind, "serialization"]
                operation["responses"]["200"]["content"] = {"application/json": {"schema": schema}}
                if (method, path) in _EACH:
                    operation["responses"]["400"]["content"]["application/json"]["schema"] = {
                        "anyOf": [{"$ref": f"{_REF}Refusal"}, schema]
                    }
            for operations in made["paths"].values():
                for operation in operations.values():
                    for parameter in operation.get("parameters", ()):
                        if parameter["schema"].get("type") == "array":  # read from one text, between commas
                            parameter |= {"style": "form", "explode": False}
                            for rule in ("maxLength", "default"):
                                parameter["schema"].pop(rule, None)
            if "/metrics" in made["paths"]:
                ok = made["paths"]["/metrics"]["get"]["responses"]["200"]
                ok["content"] = {"text/plain": {"schema": {"type": "string"}}}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    ready: dict[tuple[str, str], bytes] = {}

    def send(request: Request, name: str, make: Callable[[dict[str, Any]], str], kind: str) -> Response:
        root = str(request.scope.get("root_path", ""))  # where a proxy serves it; of the settings, so there is one
        if (name, root) not in ready:
            said = app.openapi() | ({"servers": [{"url": root}]} if root else {})
            ready[name, root] = make(said).encode()
        return Response(ready[name, root], headers={"Content-Security-Policy": _POLICY}, media_type=kind)

    @app.get("/openapi.json", include_in_schema=False)
    async def description(request: Request) -> Any:
        return send(request, "openapi", lambda said: json.dumps(said, separators=(",", ":")), "application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Any:
        return send(request, "docs", page_of, "text/html")


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

# -- the page ---------------------------------------------------------------------------------------------------------

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin:2rem 0 .5rem}a{color:#0b57a4}
details{border:1px solid #ccc;border-radius:6px;margin:.4rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code,pre{font-family:ui-monospace,monospace;font-size:.9em}
pre{background:#f4f4f4;padding:.6rem;border-radius:6px;overflow:auto;max-height:24rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}
b.method{display:inline-block;min-width:4.5rem}
@media (prefers-color-scheme:dark){body{color:#e8e8e8;background:#161616}a{color:#8ec5ff}pre{background:#242424}
details{border-color:#444}}
"""


def page_of(said: dict[str, Any]) -> str:
    """The description as HTML; no script, and nothing from anywhere else."""
    schemas = said.get("components", {}).get("schemas", {})
    by_tag: dict[str, list[str]] = {}
    for path, operations in said["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["more"])[0]
            by_tag.setdefault(tag, []).append(_operation(method, path, operation))
    parts = [f"<h2>{escape(tag)}</h2>{''.join(some)}" for tag, some in by_tag.items()]
    kinds = "".join(f'<details id="{escape(name)}"><summary><code>{escape(name)}</code> '
                    f"{escape(schema.get('description', ''))}</summary>{_json(schema)}</details>"
                    for name, schema in sorted(schemas.items()))  # fmt: skip
    title = f"{said['info']['title']} {said['info']['version']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>Each request but those of state brings a key: "
        "<code>Authorization: Bearer KEY</code>. "
        'For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(parts)}<h2>bodies and answers</h2>{kinds}</body></html>"
    )


def _operation(method: str, path: str, said: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}"
        f"{', required' if one.get('required') else ''}</td><td>{_short(one.get('schema', {}))}</td></tr>"
        for one in said.get("parameters", ())
    )
    bodies = "".join(f"<p>Body, <code>{escape(kind)}</code>: {_short(one.get('schema', {}))}</p>"
                     for kind, one in said.get("requestBody", {}).get("content", {}).items())  # fmt: skip
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(one.get('description', ''))}</td><td>"
        + "".join(_short(kind.get("schema", {})) for kind in one.get("content", {}).values()) + "</td></tr>"
        for status, one in said.get("responses", {}).items()
    )  # fmt: skip
    return (
        f'<details><summary><b class="method">{escape(method.upper())}</b> <code>{escape(path)}</code></summary>'
        f"<p>{escape(said.get('description', said.get('summary', '')))}</p>"
        f"{f'<table>{rows}</table>' if rows else ''}{bodies}<table>{answers}</table></details>"
    )


def _short(schema: dict[str, Any]) -> str:
    ref = schema.get("$ref", "")
    if ref.startswith(_REF):
        name = escape(ref.removeprefix(_REF))
        return f'<a href="#{name}"><code>{name}</code></a>'
    return f"<code>{escape(json.dumps(schema, ensure_ascii=False))}</code>" if schema else ""


def _json(schema: dict[str, Any]) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"
