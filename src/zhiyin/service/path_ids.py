"""Ids in addresses, which may hold slashes: written %2F, they do not end the id."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

# A character of private use, in place of a slash within an id while the path is matched.
_SLASH = "\ue000"


class EncodedSlashMiddleware:
    """Keeps the slashes of ids apart from those of the path."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        raw = scope.get("raw_path") or b""
        if scope["type"] == "http" and b"%2f" in raw.lower():
            replaced = re.sub(b"%2f", quote(_SLASH).encode(), raw, flags=re.IGNORECASE)
            scope["path"] = unquote(replaced.decode("latin-1"), errors="replace")
        await self.app(scope, receive, send)


def decode_slashes(id: str) -> str:
    """An id of a path, with its slashes."""
    return id.replace(_SLASH, "/")
