"""What both clients do alike: settings of the connection, and when to try again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zhiyin.client.api_call import seconds_of
from zhiyin.client.errors import AGAIN
from zhiyin.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import httpx

LONGEST = 10.0  # seconds between two tries


def pause(answer: httpx.Response | Exception, attempt: int, retries: int) -> float | None:
    """Seconds before another try; None where there is none.

    attempt: from 0. What the service asks for with Retry-After is kept to; where it asks for more than `LONGEST`, there
    is no other try.
    """
    if attempt >= retries:
        return None
    if not isinstance(answer, Exception):
        if answer.status_code not in AGAIN:
            return None
        after = seconds_of(answer.headers.get("Retry-After", ""))
        if after > 0:
            return after if after <= LONGEST else None
    # Spread out, so that many clients do not come back at one moment.
    return min(LONGEST, 0.1 * 2.0**attempt) * random.uniform(0.5, 1.0)


def settings_of(url: str, key: str, timeout: float, transport: Any) -> dict[str, Any]:
    """Arguments of an httpx client. Raises ConfigError for an address or a key that cannot be one; shows no key."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigError("this is no address of a service", remedy="such as http://127.0.0.1:8000")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("this is no key", remedy="make one: zhiyin key add NAME --scope read")
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
    return {"base_url": url, "timeout": timeout, "headers": headers, "transport": transport}


def httpx_or_say() -> Any:
    try:
        import httpx
    except ImportError:
        raise MissingExtraError("httpx", "client", "the client") from None
    return httpx
