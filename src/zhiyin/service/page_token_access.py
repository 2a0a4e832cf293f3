"""Visitors of a shop's pages: what a page token lets in, and for whom.

A page token is in everybody's hands, so it opens nothing but what its visitor may see anyway: lists made for the user
and the session that it names, and events of theirs. Routes say that they let visitors in; each of them then asks here
about every id of a user that the request holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

from zhiyin.api.requests import RequestSubject
from zhiyin.core.errors import DataError
from zhiyin.core.limits import MAX_ID_CHARS
from zhiyin.core.page_tokens import MAX_CLOCK_SKEW_SECONDS, MAX_LIFETIME_SECONDS, TOKEN_SCOPES, TokenError
from zhiyin.core.text_validation import text
from zhiyin.core.uid import is_fresh_id
from zhiyin.service.errors import RefusedError
from zhiyin.store.traces import Trace

SubjectT = TypeVar("SubjectT", bound=RequestSubject)
_NOBODYS_REMEDY = "decide for a user or a session, or leave event_id out; or report from the shop's server, with a key"
_COLUMNS_REMEDY = "ask from the shop's server, with a key; or keep them by PUT /v1/users/{id}"
_OTHER_USER_REMEDY = "get a token for that user from the shop's server (POST /v1/tokens), or leave the id out"


@dataclasses.dataclass(frozen=True)
class Visitor:
    """Whom a page token names: a user, a session, or both; and what it allows, of `TOKEN_SCOPES`."""

    user: str | None
    session: str | None
    scopes: frozenset[str]

    @classmethod
    def of(cls, claims: Mapping[str, Any], now: float) -> Visitor:
        """The visitor of claims whose signature was right. now: seconds since 1970.

        Raises TokenError for a token that expired, is of the future, lives too long, or says what no token may.
        """
        ends = _moment(claims, "exp")
        if ends is None:
            raise TokenError("this page token never expires")
        if ends <= now:
            raise TokenError("this page token has expired")
        if ends > now + MAX_LIFETIME_SECONDS + MAX_CLOCK_SKEW_SECONDS:
            raise TokenError(f"this page token expires in more than {MAX_LIFETIME_SECONDS // 86_400} days")
        if any((_moment(claims, name) or 0) > now + MAX_CLOCK_SKEW_SECONDS for name in ("iat", "nbf")):
            raise TokenError("this page token is of the future")
        user, session = claims.get("sub"), claims.get("sid")
        try:
            for name, value in (("sub", user), ("sid", session)):
                if value is not None:
                    text(value, name, MAX_ID_CHARS)
        except DataError as error:
            raise TokenError(f"this page token names no user: {error.message}") from None
        if user is None and session is None:
            raise TokenError("this page token names neither a user (sub) nor a session (sid)")
        claimed = claims.get("scope", " ".join(TOKEN_SCOPES))
        scopes = frozenset(claimed.split()) if isinstance(claimed, str) else frozenset()
        if not scopes or not scopes <= set(TOKEN_SCOPES):
            raise TokenError(f"the scope of a page token is of {', '.join(TOKEN_SCOPES)}")
        return cls(user, session, scopes)

    @property
    def name(self) -> str:
        """By which a visitor's requests are counted."""
        return f"{self.user or ''}\n{self.session or ''}"

    def owns(self, id: str | None) -> bool:
        """Whether an id is of the user or the session that the token names."""
        return id is not None and id in (self.user, self.session)

    def check(self, id: str | None, what: str) -> None:
        """Raises RefusedError 403 for an id of somebody else. what: the place where it stands."""
        if not self.owns(id):
            raise RefusedError(403, f"{what}: this page token is of another user", _OTHER_USER_REMEDY)

    def check_list(self, list_id: str, trace: Trace | None, what: str) -> None:
        """Raises RefusedError 403 for a list or decision that the visitor may say nothing of: no event, no reward, no
        impression. what: the place where it stands.

        A visitor may speak of a list that was made for the user or the session of the token, and of one that names
        nobody if the service made its id, since only who was given it knows that. An id that a client chose can be
        guessed. A list without a trace may be one whose trace is still being written; it names nobody yet.
        """
        if trace is not None and trace.user is not None:
            self.check(trace.user, what)
        elif not is_fresh_id(list_id):
            raise RefusedError(403, f"{what}: {list_id[:80]!r} names no user, and its id was chosen by a client",
                               _NOBODYS_REMEDY)  # fmt: skip

    def own(self, request: SubjectT, personal: bool) -> SubjectT:
        """The request, restricted to the visitor. personal: without an id it is for the user and session of the token.

        Raises RefusedError 403 for one that names somebody else.
        """
        for name in ("user", "session"):
            if getattr(request, name) is not None:
                self.check(getattr(request, name), name)
        if getattr(request, "user_columns", None):
            raise RefusedError(403, "user_columns: a page may not say what is kept of its user", _COLUMNS_REMEDY)
        if not personal or request.user is not None or request.session is not None or request.history is not None:
            return request
        ids = {name: getattr(self, name) for name in ("user", "session") if getattr(self, name) is not None}
        return request.model_copy(update=ids)

    def event_id(self, user: str, id: str) -> str:
        """What an event's id is kept as: of one id only the first event is kept, so ids that a page makes up are of
        its own user alone, and none of them can take the place of another's."""
        return f"page-{hashlib.sha256(f'{len(user)} {user}{id}'.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise TokenError(f"{name} of this page token is no moment in seconds since 1970")
    return float(value)
