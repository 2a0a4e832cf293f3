"""Calls for links between users: who follows or befriends whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from zhiyin.api import endpoints
from zhiyin.client.api_call import Call, CallSequence, endpoint_call
from zhiyin.client.api_types import WriteResult
from zhiyin.client.catalog_calls import write_lines


def put_link(user: str, other: str, weight: float = 1.0) -> Call[bool]:
    """Link a user to another one; whether that is new. A friendship is two links."""
    return endpoint_call(endpoints.PUT_LINK, user, other, read=_read_changed, body={"weight": weight})


def delete_link(user: str, other: str) -> Call[bool]:
    """Remove a link; whether there was one that was not removed before."""
    return endpoint_call(endpoints.DELETE_LINK, user, other, read=_read_changed)


def put_links(links: Iterable[tuple[str, str, float | None]]) -> CallSequence[WriteResult]:
    """Write many links (user, other, weight), sent as they are read; weight None removes one."""
    return write_lines(
        endpoints.PUT_LINKS, ({"user": user, "other": other, "weight": weight} for user, other, weight in links)
    )


def get_links(
    user: str, *, direction: Literal["from", "to"] | None = None, most: int | None = None
) -> Call[dict[str, float]]:
    """Weights of the links of a user, or with direction "to" of those to the user, by the other's id."""

    def read(body: Any) -> dict[str, float]:
        return {row["user"]: float(row["weight"]) for row in body["links"]}

    return endpoint_call(endpoints.GET_LINKS, user, read=read, query={"direction": direction, "most": most})


def suggested_users(user: str, *, k: int | None = None) -> Call[list[dict[str, Any]]]:
    """People a user may know, best first: `user`, `score`, friends in `common`, and some of them, `via`."""
    return endpoint_call(endpoints.SUGGESTED_USERS, user, read=lambda body: list(body["users"]), query={"k": k})


def _read_changed(body: Any) -> bool:
    return bool(body["changed"])
