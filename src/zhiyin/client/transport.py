"""What both clients share: settings of the connection, and the delay before another attempt."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zhiyin.client.api_call import retry_after_seconds
from zhiyin.client.errors import RETRYABLE_STATUS_CODES
from zhiyin.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import httpx

MAX_RETRY_DELAY_SECONDS = 10.0


def retry_delay(response: httpx.Response | Exception, attempt: int, retries: int) -> float | None:
    """Seconds to wait before another attempt; None where there is none.

    Parameters
    ----------
    response: of the last attempt, or the error that it ended with.
    attempt: number of the last attempt, from 0.
    retries: further attempts at most.

    The delay is that of Retry-After, where the service sends one; where that is more than MAX_RETRY_DELAY_SECONDS,
    there is no other attempt.
    """
    if attempt >= retries:
        return None
    if not isinstance(response, Exception):
        if response.status_code not in RETRYABLE_STATUS_CODES:
            return None
        seconds = retry_after_seconds(response.headers.get("Retry-After", ""))
        if seconds > 0:
            return seconds if seconds <= MAX_RETRY_DELAY_SECONDS else None
    # Jitter: many clients do not send again at one moment.
    return min(MAX_RETRY_DELAY_SECONDS, 0.1 * 2.0**attempt) * random.uniform(0.5, 1.0)


def connection_settings(url: str, key: str, timeout: float, transport: Any) -> dict[str, Any]:
    """Arguments of an httpx client. Raises ConfigError for an address or a key that cannot be one; shows no key."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigError("this is no address of a service", remedy="such as http://127.0.0.1:8000")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("this is no key", remedy="make one: zhiyin key add NAME --scope read")
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
    return {"base_url": url, "timeout": timeout, "headers": headers, "transport": transport}


def import_httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise MissingExtraError("httpx", "client", "the client") from None
    return httpx
