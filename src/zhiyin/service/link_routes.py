"""Handlers of links between users: one or many written, read, and people a user may know."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from zhiyin.api import endpoints
from zhiyin.api.requests import MAX_LINES_PER_REQUEST, LinkBody, LinkLine, LinksQuery, SuggestedQuery
from zhiyin.core.validation_errors import first_field_error
from zhiyin.service.authentication import Access
from zhiyin.service.endpoint_dispatch import handles, json_response
from zhiyin.service.errors import RefusedError

MAX_REPORTED_LINES = 100


@handles(endpoints.GET_LINKS)
async def get_links(access: Access, key: str, query: LinksQuery) -> Any:
    def work() -> dict[str, Any]:
        links, view = access.live.links, access.live.serving
        weights = links.links_from(view, key) if query.direction == "from" else links.links_to(view, key)
        rows = [{"user": other, "weight": weight} for other, weight in list(weights.items())[: query.most]]
        return {"user": key, "direction": query.direction, "links": rows}

    return await access.work.do(work)


@handles(endpoints.PUT_LINK)
async def put_link(access: Access, key: str, other: str, body: LinkBody) -> Any:
    return await access.writes.do(_write_one, access, key, other, body.weight)


@handles(endpoints.DELETE_LINK)
async def delete_link(access: Access, key: str, other: str) -> Any:
    return await access.writes.do(_write_one, access, key, other, None)


@handles(endpoints.PUT_LINKS)
async def put_links(access: Access, body: bytes) -> Any:
    def work() -> Response:
        links, rejected, is_readable = _read_lines(body)
        access.live.put_links(links)
        result = {"accepted": len(links), "rejected": rejected[:MAX_REPORTED_LINES]}
        return json_response(result, 200 if is_readable or not rejected else 400)

    return await access.writes.do(work)


@handles(endpoints.SUGGESTED_USERS)
async def suggested_users(access: Access, key: str, query: SuggestedQuery) -> Any:
    def work() -> dict[str, Any]:
        users = access.live.links.suggested(access.live.serving, key, query.k)
        return {"user": key, "users": [
            {"user": one.user, "score": one.score, "common": one.common, "via": list(one.via)} for one in users
        ]}  # fmt: skip

    return await access.work.do(work)


def _write_one(access: Access, user: str, other: str, weight: float | None) -> dict[str, Any]:
    if user == other:
        raise RefusedError(409, f"user {user!r} is linked to themselves", "name another user")
    return {"user": user, "other": other, "changed": access.live.put_links({(user, other): weight}) > 0}


def _read_lines(body: bytes) -> tuple[dict[tuple[str, str], float | None], list[dict[str, Any]], bool]:
    """Weights by pair, the lines that are wrong, and whether any line is of the form of a link. Of a pair the last line
    counts."""
    lines = body.splitlines()
    if not 1 <= len(lines) <= MAX_LINES_PER_REQUEST:
        raise RefusedError(422, f"{len(lines):,} lines", f"from 1 to {MAX_LINES_PER_REQUEST:,} lines of JSON")
    links: dict[tuple[str, str], float | None] = {}
    rejected: list[dict[str, Any]] = []
    is_readable = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = LinkLine.model_validate_json(line)
        except ValidationError as error:
            rejected.append({"line": number, "reason": str(first_field_error(error, LinkLine))})
            continue
        is_readable = True
        if row.user == row.other:
            reason = f"user {row.user!r} is linked to themselves; name another user"
            rejected.append({"line": number, "reason": reason})
        else:
            links[row.user, row.other] = row.weight
    return links, rejected, is_readable
