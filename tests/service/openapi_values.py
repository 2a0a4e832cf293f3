"""What the description of the service cannot say in JSON Schema, for Schemathesis to know.

It registers a serializer of lines of JSON, and one hook that makes of a request which the description allows one that
is possible at this moment: texts of our formats (conditions, expressions, pages of lists) that can be read, times that
are not ahead of the clock, columns of the types that they have, widgets of different names, ids of which every other
one is there. It changes values of the described form only into others of that form: what is wrong by the description
stays wrong.

    SCHEMATHESIS_HOOKS=tests.service.openapi_values schemathesis run URL/openapi.json -H "Authorization: Bearer KEY"

tests a running service, with columns as in `tests/service/conftest.py`, for as long as wanted.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote
from zlib import crc32

import schemathesis

from zhiyin.api.requests import MAX_FILTER_CHARS, MAX_PAGE_TOKEN_CHARS
from zhiyin.core.errors import DataError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.text_validation import text
from zhiyin.service.page_cursor import encode_cursor, list_route
from zhiyin.store.records import TIME_POLICY

# Columns that the catalogue of the tests has; a column of another name is new to it.
KNOWN = frozenset({"id", "hidden", "price", "genre", "title"})
_NUMBERS = ("price", "price + 1", "-price", "ABS(price)", "0.1 * price", "CASE WHEN price > 3 THEN 2 ELSE 1 END")
_WORDS = ("genre", "title", "id", "LOWER(genre)")
_LITERALS = ("'even'", "'i3'", "''", "'it''s'", "'知音'", "'r%'")


def condition(draw: random.Random, depth: int = 0) -> str:
    """A condition on the columns of the tests' catalogue."""
    form = draw.randrange(8 if depth < 3 else 5)
    if form == 0:
        return f"{draw.choice(_NUMBERS)} {draw.choice(('=', '!=', '<', '<=', '>', '>='))} {draw.randint(-5, 50)}"
    if form == 1:
        return f"{draw.choice(_WORDS)} {draw.choice(('=', '!=', 'LIKE', 'ILIKE'))} {draw.choice(_LITERALS)}"
    if form == 2:
        return f"{draw.choice(_WORDS)} IN ({', '.join(draw.sample(_LITERALS, 3))})"
    if form == 3:
        return f"{draw.choice(('price', 'genre'))} IS {draw.choice(('', 'NOT '))}NULL"
    if form == 4:
        return f"price BETWEEN {draw.randint(0, 9)} AND {draw.randint(10, 40)}"
    if form == 5:
        return f"NOT ({condition(draw, depth + 1)})"
    return f"({condition(draw, depth + 1)}) {draw.choice(('AND', 'OR'))} {condition(draw, depth + 1)}"


def expression(draw: random.Random, depth: int = 0) -> str:
    """A number by an expression."""
    return draw.choice(_NUMBERS)


def register() -> None:
    """Have Schemathesis know all of it."""
    schemathesis.serializer("application/x-ndjson")(_lines)
    schemathesis.hook(before_call)


def _lines(context: Any, value: Any) -> bytes:
    """A list as a line each; anything else as one line."""
    parts = value if isinstance(value, list) else [value]
    return b"\n".join(json.dumps(part).encode("utf-8", "surrogatepass") for part in parts)


# -- the hook ---------------------------------------------------------------------------------------------------------


def before_call(context: Any, case: Any, kwargs: Any) -> None:
    path = case.operation.path
    ids = case.path_parameters or {}
    there = {name: _there(path, name, value) for name, value in ids.items()}
    if there != ids and all(
        map(_is_described, ids.values())
    ):  # what is set is looked at anew, whether it is of the described form
        case.path_parameters = ids = there
    if isinstance(case.query, dict):
        query = _possible(case.query, path.replace("{key}", unquote(str(ids.get("key", "")))))
        if query != case.query:
            case.query = query
    if isinstance(case.body, dict | list):
        body = _body(path, case)
        if body != case.body:
            case.body = body


def _is_described(value: Any) -> bool:
    """Whether the value of an id in a path is of the described form; one that is not stays beside another that is."""
    try:
        return bool(text(unquote(value), "id", MAX_ID_CHARS))
    except (DataError, TypeError):
        return False


def _there(path: str, name: str, value: Any) -> Any:
    """Every other id is one that there is."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_CHARS:
        return value
    number = _number(value)
    if "keys" in path and value == "admin":  # this run comes in by it
        return "read"
    if number % 2:
        return value
    if name == "event_id":
        return DECISION
    if name == "list_id":
        return LISTS[number % len(LISTS)] if LISTS else value
    if name == "name":
        if "placements" in path:
            return "default"
        return "home" if "policies" in path else "taste" if path.endswith("/stop") else value
    if name == "other":  # nobody is linked to themselves
        return f"v{number % 60}"
    return f"u{number % 60}" if "users" in path else f"i{number % 40}"


# Lists that were made, for what is asked about lists; the test fills it.
LISTS: list[str] = []
# The decision that is rewarded, and its policy; the test makes both.
DECISION, POLICY = "decided", "hero"


def _written(make: Callable[[random.Random], str], most: int) -> Callable[[Any], Any]:
    """Of a text another one, by a grammar; of anything else, of none and of a longer text, itself."""

    def change(value: Any) -> Any:
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            return value
        return make(random.Random(_number(value)))

    return change


def _number(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))


_TEXTS = {"filter": _written(condition, MAX_FILTER_CHARS), "when": _written(condition, MAX_FILTER_CHARS),
          "multiply": _written(expression, 1_000), "add": _written(expression, 1_000)}  # fmt: skip


def _possible(given: dict[str, Any], route: str) -> dict[str, Any]:
    """A request for a list: its conditions, boosts and page. route: which gives pages to it."""
    made = {name: _TEXTS[name](value) if name in _TEXTS else value for name, value in given.items()}
    for name, there in (("placement", "default"), ("similar_to", "i5")):  # every other one is one that there is
        if isinstance(made.get(name), str) and len(made[name]) <= MAX_ID_CHARS and len(made[name]) % 2:
            made[name] = there
    if isinstance(made.get("policy"), dict):
        made["policy"] = _policy(made["policy"])
    if isinstance(made.get("page"), str) and 1 <= len(made["page"]) <= MAX_PAGE_TOKEN_CHARS:
        made["page"] = encode_cursor(["i1", "i2"], route)
    if isinstance(made.get("boosts"), list):
        made["boosts"] = [_possible(one, "") if isinstance(one, dict) else one for one in made["boosts"]]
    return made


def _policy(policy: dict[str, Any]) -> dict[str, Any]:
    """A policy of a placement, of a kind that there is and with hyperparameters that it has."""
    kind, settings = policy.get("kind"), policy.get("settings")
    if isinstance(kind, str) and 1 <= len(kind) <= 64:
        policy = policy | {"kind": "lin_ts"}
    if isinstance(settings, dict) and all(type(value) in (str, int, float, bool) for value in settings.values()):
        policy = policy | {"settings": {"draws": 20} if len(settings) % 2 else {}}
    return policy


def _body(path: str, case: Any) -> Any:
    body = case.body
    if path == "/v1/events":
        events = body.get("events") if isinstance(body, dict) else body
        if isinstance(events, list):
            events = _wrong_or_all(case, [_timely(one) for one in events])
            return body | {"events": events} if isinstance(body, dict) else events
    elif path in ("/v1/items", "/v1/users") and isinstance(body, list):
        return _wrong_or_all(case, [
            one | {"columns": _typed(one["columns"])}
            if isinstance(one, dict) and isinstance(one.get("columns"), dict) else one
            for one in body
        ])  # fmt: skip
    elif not isinstance(body, dict):
        return body
    elif path in ("/v1/items/{key}", "/v1/users/{key}"):
        return _typed(body)
    elif path == "/v1/schema":
        return {
            table: {f"{name}?" if name in KNOWN - {"id", "hidden"} else name: type for name, type in types.items()}
            if isinstance(types, dict) else types
            for table, types in body.items()
        }  # fmt: skip
    elif path == "/v1/whatif":
        settings = body.get("settings")
        body = body | ({"settings": _possible(settings, "")} if isinstance(settings, dict) else {})
        return body | ({"rules": {"filter": "price > 3"}} if isinstance(body.get("rules"), dict) else {})
    elif path == "/v1/pages" and isinstance(body.get("widgets"), list):
        return body | {"widgets": list(_widgets(body["widgets"]))}
    elif path == "/v1/decisions":
        return _decision(body)
    elif path == "/v1/decisions/{event_id}/reward":
        return _reward(body)
    else:
        return _possible(body, path)
    return body


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_ID_CHARS


def _decision(body: dict[str, Any]) -> dict[str, Any]:
    """A decision of the policy that there is, among actions and slots of different ids, of which some are left."""
    made = dict(body)
    if _is_id(made.get("policy")):
        made["policy"] = POLICY
    for name in ("actions", "slots"):
        if isinstance(made.get(name), list):
            made[name] = _of_different_ids(made[name])
    actions = [one["id"] for one in made.get("actions") or [] if isinstance(one, dict) and _is_id(one.get("id"))]
    if _is_id(made.get("baseline")) and actions:
        made["baseline"] = actions[0]
    for place in [made, *(one for one in made.get("slots") or [] if isinstance(one, dict))]:
        if isinstance(place.get("excluded"), list) and all(map(_is_id, place["excluded"])):
            place["excluded"] = []
        if place is not made and _is_id(place.get("baseline")):
            place["baseline"] = None
    if isinstance(made.get("candidates"), dict):
        made["candidates"] = _possible(made["candidates"], "")
        if isinstance(made["candidates"].get("filter"), str) and len(made["candidates"]["filter"]) <= MAX_FILTER_CHARS:
            made["candidates"]["filter"] = ""
    return made


def _reward(body: dict[str, Any]) -> dict[str, Any]:
    """A reward of the one slot that there is, which was earned before now."""
    made, moment, latest = dict(body), body.get("time"), time.time_ns() // 1000
    if isinstance(moment, int | float) and not isinstance(moment, bool) and latest < moment <= 7_258_118_400_000_000:
        made["time"] = int(moment) % latest
    if isinstance(made.get("slots"), list):
        slots = _of_different_ids(made["slots"])
        if all(isinstance(one, dict) and _is_id(one.get("id")) for one in slots):
            made = made | {"slots": [one | {"id": "1"} for one in slots[:1]]}
    return made


def _of_different_ids(parts: list[Any]) -> list[Any]:
    return [
        part | {"id": f"{part['id'][:240]} {number}"} if isinstance(part, dict) and _is_id(part.get("id")) else part
        for number, part in enumerate(parts)
    ]


def _timely(event: Any) -> Any:
    """An event whose time is not ahead of the clock: a description cannot tell what time it is."""
    moment = event.get("time") if isinstance(event, dict) else None
    latest = time.time_ns() // 1000
    if isinstance(moment, bool) or not isinstance(moment, int | float) or moment <= latest or moment > 5e15:
        return event
    return event | {"time": TIME_POLICY.earliest + int(moment) % (latest - TIME_POLICY.earliest)}


def _wrong_or_all(case: Any, parts: list[Any]) -> list[Any]:
    """Of parts that are judged one by one, those that the description does not allow, if there are any: beside others
    that are right, the answer would be a success that names them."""
    alternative = case.operation.get_body_for_media_type(case.media_type)
    validator = case.operation.schema.adapter.jsonschema_validator_cls(alternative.optimized_schema)
    whole = {"events": parts} if case.media_type == "application/json" else parts
    if validator.is_valid(whole) or not 1 <= len(parts) <= 10_000:
        return parts
    alone = [{"events": [part]} if isinstance(whole, dict) else [part] for part in parts]
    return [part for part, one in zip(parts, alone) if not validator.is_valid(one)] or parts


def _typed(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns that are named by the type of what they hold, so that no two writes disagree about one."""
    return {name if name in KNOWN - {"price", "genre", "title"} or not 1 <= len(name) <= MAX_ID_CHARS - 10
            else f"{name} {_type(value)}": value for name, value in columns.items()}  # fmt: skip


def _type(value: Any) -> str:
    if isinstance(value, list):
        return next((f"{_type(part)}s" for part in value if part is not None), "nothing")
    return "nothing" if value is None else type(value).__name__.replace("float", "number").replace("int", "number")


def _widgets(widgets: list[Any]) -> Iterator[Any]:
    """Widgets of different names, each with a page of its own route."""
    names: set[str] = set()
    for number, one in enumerate(widgets):
        if isinstance(one, dict):
            one = _possible(one, "")
            kind, item = one.get("kind", "recommendations"), one.get("similar_to")
            if one.get("page") and isinstance(kind, str) and (item is None or isinstance(item, str)):
                one |= _possible({"page": one["page"]}, list_route(kind, item))
            if isinstance(one.get("name"), str):
                if one["name"] in names:
                    one["name"] = f"{one['name'][:240]} {number}"
                names.add(one["name"])
        yield one


if "SCHEMATHESIS_HOOKS" in os.environ:
    register()
