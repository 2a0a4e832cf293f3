"""Tokens: signed as the standard says, and refused for every change of theirs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core.errors import ConfigError
from zhiyin.core.page_tokens import (
    MAX_TOKEN_CHARS,
    TokenError,
    is_token,
    key_hash,
    key_id,
    new_session,
    page_claims,
    sign,
    signer,
    verified,
)

HASH = key_hash("zy_page_secret")


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def by_hand(head: object, claims: object, secret: bytes, how: str = "sha256") -> str:
    """A token as another library makes it."""
    text = f"{part(head)}.{part(claims)}"
    return f"{text}.{base64.urlsafe_b64encode(hmac.digest(secret, text.encode(), how)).rstrip(b'=').decode()}"


def opened(token: str) -> dict[str, Any]:
    """Claims, as the service finds them: by the key that the token names."""
    if signer(token) != key_id(HASH):
        raise TokenError("of a key that is not known")
    return verified(token, HASH)


def test_any_jwt_library_makes_and_reads_them() -> None:
    """RFC 7515: the secret is the hexadecimal SHA-256 of the key, the header in whatever order."""
    secret = hashlib.sha256(b"zy_page_secret").hexdigest().encode()
    token = by_hand({"typ": "JWT", "kid": key_id(HASH), "alg": "HS256"}, {"sub": "alice", "exp": 5}, secret)
    assert signer(token) == key_id(HASH)
    assert verified(token, HASH) == {"sub": "alice", "exp": 5}
    head, claims, signature = sign({"sub": "知音"}, HASH).split(".")
    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"alg": "HS256", "kid": key_id(HASH), "typ": "JWT"}
    expected = hmac.digest(secret, f"{head}.{claims}".encode(), "sha256")
    assert base64.urlsafe_b64decode(signature + "=") == expected


def test_the_example_of_the_standard() -> None:
    """RFC 7515, A.1: its key, its text, its signature."""
    from zhiyin.core import page_tokens

    key = base64.urlsafe_b64decode(
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
    )
    text = (
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    )
    digest = hmac.digest(key, text.encode(), "sha256")
    assert base64.urlsafe_b64encode(digest).rstrip(b"=") == b"dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

    class Key(str):
        """A secret that is no text, which no key of ours is."""

        def encode(self, *_: object) -> bytes:  # type: ignore[override]
            return key

    assert page_tokens._signature(text, Key()) == "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


def test_every_changed_character_is_refused() -> None:
    token = sign({"sub": "alice", "exp": 2_000_000_000}, HASH)
    for at, old in enumerate(token):
        for new in (chr(ord(old) ^ 1), "A" if old != "A" else "B", "=", ".", "知", "\ud800"):
            if new == old:
                continue
            changed = token[:at] + new + token[at + 1 :]
            with pytest.raises(TokenError):
                opened(changed)
    for cut in range(len(token)):
        with pytest.raises(TokenError):
            opened(token[:cut])


def test_one_text_for_one_signature() -> None:
    """A signature's last character has two bits that no byte holds: a lenient reader would take four of them."""
    token = sign({"sub": "alice"}, HASH)
    alphabet = string.ascii_letters + string.digits + "-_"
    taken = []
    for last in alphabet:
        try:
            verified(token[:-1] + last, HASH)
            taken.append(last)
        except TokenError:
            pass
    assert taken == [token[-1]]


@pytest.mark.parametrize("head", [
    {"alg": "none", "kid": key_id(HASH)}, {"alg": "None", "kid": key_id(HASH)}, {"alg": "HS512", "kid": key_id(HASH)},
    {"alg": "RS256", "kid": key_id(HASH)}, {"alg": "hs256", "kid": key_id(HASH)}, {"kid": key_id(HASH)},
    {"alg": "HS256"}, {"alg": "HS256", "kid": 7}, {"alg": "HS256", "kid": [key_id(HASH)]}, [], "x", None,
    {"alg": ["HS256"], "kid": key_id(HASH)}, {"alg": "HS256", "kid": key_id(HASH), "crit": ["b64"], "b64": False},
])  # fmt: skip
def test_no_other_algorithm(head: object) -> None:
    for secret in (HASH.encode(), b"", b"zy_page_secret"):
        with pytest.raises(TokenError):
            signer(by_hand(head, {"sub": "alice"}, secret))
    unsigned = f"{part({'alg': 'none', 'kid': key_id(HASH)})}.{part({'sub': 'alice'})}."
    with pytest.raises(TokenError):
        signer(unsigned)
    with pytest.raises(TokenError):
        verified(unsigned, HASH)


def test_another_key_does_not_open_it() -> None:
    token = sign({"sub": "alice"}, HASH)
    with pytest.raises(TokenError, match="signature"):
        verified(token, key_hash("zy_page_other"))
    with pytest.raises(TokenError, match="signature"):  # the key itself signs nothing, nor its id
        verified(by_hand({"alg": "HS256", "kid": key_id(HASH)}, {"sub": "alice"}, b"zy_page_secret"), HASH)


@given(text=st.text(max_size=60) | st.just("a." * 3_000) | st.just("[" * 3_000))
def test_what_is_no_token(text: str) -> None:
    head = part({"alg": "HS256", "kid": key_id(HASH)})
    for said in (text, f"{text}.{text}.{text}", f"{part(text)}..", f"{head}.{text}.{text}", f"{head}..{text}"):
        with pytest.raises(TokenError):
            opened(said)


def test_what_a_token_may_say() -> None:
    assert page_claims("alice", None, "1h", now=1_000) == {"iat": 1_000, "exp": 4_600, "sub": "alice"}
    assert page_claims("a", "s", "7d", ("read",), 0)["scope"] == "read"
    assert is_token(sign(page_claims(None, new_session(), "1s"), HASH))
    assert not is_token("zy_page_" + "x" * 43)
    assert len(sign(page_claims("知" * 256, "音" * 256, "7d"), HASH)) < MAX_TOKEN_CHARS
    assert new_session() != new_session()
    for wrong in (
        (None, None, "1h"), ("", None, "1h"), ("a" * 257, None, "1h"), (3, None, "1h"), ("a", "", "1h"),
        ("a", None, "8d"), ("a", None, "0h"), ("a", None, "soon"), ("a", None, "0.5s"), ("a", None, "1h", ()),
        ("a", None, "1h", ("admin",)),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            page_claims(*wrong)  # type: ignore[arg-type]
