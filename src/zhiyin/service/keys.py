"""Keys of the service: made at random at the first start, shown once, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from zhiyin.core.errors import ConfigError

# What a key may do: read lists, bring events, change items and users and see the inside.
SCOPES = ("read", "events", "admin")


class Keys:
    """Hashes of keys by scope; `admin` may do all."""

    def __init__(self, hashes: dict[str, str]) -> None:
        self._hashes = {scope: bytes.fromhex(said) for scope, said in hashes.items()}

    @classmethod
    def open(cls, file: Path) -> tuple[Keys, dict[str, str]]:
        """The keys of a file, which is made where it is missing; the new keys, to be shown once, else none."""
        shown: dict[str, str] = {}
        if not file.exists():
            shown = {scope: f"zy_{scope}_{secrets.token_urlsafe(24)}" for scope in SCOPES}
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".{file.name}.draft")
            draft.unlink(missing_ok=True)
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as opened:
                json.dump({scope: _hash(key).hex() for scope, key in shown.items()}, opened)
            draft.replace(file)
        try:
            hashes = json.loads(file.read_text())
            made = cls({scope: hashes[scope] for scope in SCOPES})
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError("the keys cannot be read", file=file, remedy="delete the file to make new ones") from None
        return made, shown

    def shares(self, other: Keys) -> bool:
        """Whether a key of one is a key of the other."""
        return not set(self._hashes.values()).isdisjoint(other._hashes.values())

    def scopes(self, key: str) -> set[str]:
        """What a key may do; nothing if it is not known. Takes the same time for every key."""
        given = _hash(key)
        found = {scope for scope, known in self._hashes.items() if hmac.compare_digest(given, known)}
        return set(SCOPES) if "admin" in found else found


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
