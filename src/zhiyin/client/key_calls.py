"""Calls for keys, and page tokens: signed by the service, or locally by a page key."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from zhiyin.api import endpoints
from zhiyin.client.api_call import Call, as_object, endpoint_call, present_fields
from zhiyin.core.errors import ConfigError
from zhiyin.core.page_tokens import TOKEN_SCOPES, key_hash, new_session, page_claims, sign

KeyScope = Literal["read", "events", "page", "admin"]
TokenScope = Literal["events", "read"]


@dataclasses.dataclass(frozen=True)
class PageToken:
    """A token for a web page; `str` of it is the token itself.

    Parameters
    ----------
    user, session: whom it names.
    expires: seconds since 1970.
    """

    token: str = dataclasses.field(repr=False)
    user: str | None
    session: str | None
    expires: int

    def __str__(self) -> str:
        return self.token


@dataclasses.dataclass(frozen=True)
class PageKey:
    """Signs page tokens on the shop's own server, without a request to the service.

    key: as `zhiyin key add web --scope page` shows it; it is never printed, and must not reach a web page.

    >>> token = PageKey("zy_page_" + "x" * 43).token(user="alice", expires="1h")
    >>> token.user, str(token).count(".")
    ('alice', 2)
    """

    key: str = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if not self.key.startswith("zy_page_"):
            raise ConfigError("this is no key for pages", remedy="zhiyin key add web --scope page")

    def token(
        self,
        user: str | None = None,
        session: str | None = None,
        expires: str = "1h",
        scope: Sequence[TokenScope] = ("events", "read"),
    ) -> PageToken:
        """A token for a user, a session, or both; without any, for a new session.

        session: created by the shop's server, never taken from a page. expires: "1s" to "7d".

        Raises ConfigError for claims that a token cannot have.
        """
        session = new_session() if user is None and session is None else session
        claims = page_claims(user, session, expires, tuple(scope))
        return PageToken(sign(claims, key_hash(self.key)), user, session, claims["exp"])


def page_token(
    *,
    user: str | None = None,
    session: str | None = None,
    expires: str = "1h",
    scope: Sequence[TokenScope] = TOKEN_SCOPES,  # type: ignore[assignment]
) -> Call[PageToken]:
    """As `PageKey.token`, signed by the service. Needs a page key or an admin key."""
    payload = present_fields(user=user, session=session, expires=expires, scope=list(scope))

    def read(body: Any) -> PageToken:
        return PageToken(body["token"], body["user"], body["session"], body["expires"])

    return endpoint_call(endpoints.PAGE_TOKEN, read=read, body=payload)


def list_keys() -> Call[list[dict[str, Any]]]:
    """All keys: {"name", "id", "scopes", "created", "expires", "expired", "used"} each. Needs an admin key."""
    return endpoint_call(endpoints.LIST_KEYS, read=lambda body: list(body["keys"]))


def add_key(name: str, scope: Sequence[KeyScope] | KeyScope, *, expires: str | None = None) -> Call[dict[str, Any]]:
    """Make a key; the answer's "key" is shown this once. Needs an admin key.

    expires: a duration such as "90d"; None: never. Sent once: after a failure, check with `list_keys`.
    """
    scopes = [scope] if isinstance(scope, str) else list(scope)
    body = present_fields(name=name, scopes=scopes, expires=expires)
    return endpoint_call(endpoints.ADD_KEY, read=as_object, body=body, retries_allowed=False)


def revoke_key(name: str) -> Call[dict[str, Any]]:
    """Revoke a key, and the page tokens that it signed. Needs an admin key."""
    return endpoint_call(endpoints.REVOKE_KEY, name, read=as_object)
