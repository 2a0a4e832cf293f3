"""Hashes of access keys and signed page tokens, which a shop's own server makes without a request to the service.

A token is a JSON Web Token (RFC 7519) signed by HMAC-SHA256, so a shop in any language can make one with its usual
library. It names its page key by `kid`; the signing secret is the SHA-256 of that key, in hexadecimal digits. There is
one algorithm: what a token says of its own algorithm is compared with it and chooses nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError
from zhiyin.core.limits import MAX_ID_CHARS

MAX_TOKEN_CHARS = 4_096
# Seconds that a token may be valid, and that the clock of the server that signed it may be ahead.
MAX_LIFETIME_SECONDS, MAX_CLOCK_SKEW_SECONDS = 7 * 86_400, 60
# Scopes of a token: to send events, and to read lists, of the user it names.
TOKEN_SCOPES = ("events", "read")
_ALGORITHM = "HS256"


class TokenError(Exception):
    """A token is not accepted. The message gives the reason and quotes nothing of the token."""


def key_hash(key: str) -> str:
    """SHA-256 of a key, 64 hexadecimal digits: what is stored of it, and the secret that a page key signs with."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def key_id(hash: str) -> str:
    """Public name of a key, 16 hexadecimal digits, from its hash; reveals neither."""
    return hashlib.sha256(b"zhiyin key id\0" + hash.encode()).hexdigest()[:16]


def new_session() -> str:
    """A random id of a session, which cannot be guessed."""
    return f"session-{secrets.token_hex(16)}"


def page_claims(
    user: str | None, session: str | None, expires: str, scope: tuple[str, ...] = TOKEN_SCOPES, now: float | None = None
) -> dict[str, Any]:
    """Claims of a page token for a user, a session, or both.

    Parameters
    ----------
    expires: a duration such as "1h", at most MAX_LIFETIME_SECONDS.
    now: seconds since 1970.

    Raises ConfigError for claims that no token may have.
    """
    if user is None and session is None:
        raise ConfigError("a page token names a user or a session", remedy="user=..., or session=new_session()")
    for name, value in (("user", user), ("session", session)):
        if value is not None and (not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_CHARS):
            raise ConfigError(
                f"{name} is a text of 1 to {MAX_ID_CHARS} characters", column=name, remedy="give the id as a text"
            )
    if not scope or not set(scope) <= set(TOKEN_SCOPES):
        raise ConfigError("a page token may bring events and read lists", column="scope", remedy='"events", "read"')
    seconds = microseconds(expires) / 1e6
    if not 1 <= seconds <= MAX_LIFETIME_SECONDS:
        raise ConfigError(f"{expires!r} is too long or too short", column="expires", remedy="from 1s to 7d")
    issued = int(time.time() if now is None else now)
    claims: dict[str, Any] = {"iat": issued, "exp": issued + int(seconds)}
    if set(scope) != set(TOKEN_SCOPES):
        claims["scope"] = " ".join(sorted(set(scope)))
    return claims | {name: value for name, value in (("sub", user), ("sid", session)) if value is not None}


def sign(claims: Mapping[str, Any], hash: str) -> str:
    """A signed token with these claims. hash: `key_hash` of the page key."""
    head = {"alg": _ALGORITHM, "kid": key_id(hash), "typ": "JWT"}
    text = f"{_encoded(head)}.{_encoded(claims)}"
    return f"{text}.{_signature(text, hash)}"


def is_token(text: str) -> bool:
    """Whether a text has the form of a token; no key has."""
    return text.count(".") == 2


def signer(token: str) -> str:
    """The id of the key that a token names; nothing of the token is verified yet.

    Raises TokenError for one that cannot be read.
    """
    if len(token) > MAX_TOKEN_CHARS or not token.isascii():
        raise TokenError("this is no page token")
    head = _decoded(token.partition(".")[0])
    if head.get("alg") != _ALGORITHM or "crit" in head or not isinstance(head.get("kid"), str):
        raise TokenError(f"a page token is signed by {_ALGORITHM} and names its key")
    return head["kid"]


def verified(token: str, hash: str) -> dict[str, Any]:
    """The claims of a token. Raises TokenError where its signature is wrong; it is compared in constant time.

    Signatures are compared as texts: a decoder would take several texts for the same bytes.
    """
    text, _, signature = token.rpartition(".")
    if not hmac.compare_digest(_signature(text, hash).encode(), signature.encode("utf-8", "surrogatepass")):
        raise TokenError("the signature of this page token is not right")
    return _decoded(text.partition(".")[2])


def _signature(text: str, hash: str) -> str:
    digest = hmac.digest(hash.encode(), text.encode("utf-8", "surrogatepass"), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _encoded(value: Mapping[str, Any]) -> str:
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> dict[str, Any]:
    try:
        value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise TokenError("this is no page token")
    return value
