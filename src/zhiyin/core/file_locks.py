"""Locks between processes: whoever holds one loses it with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zhiyin.core.errors import ConfigError


class LockHeldError(ConfigError):
    """Another process, or another object of this one, holds the lock."""


@contextmanager
def exclusive_lock(path: Path, message: str, remedy: str) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is missing. Never waits.

    Raises LockHeldError with this message and remedy where somebody holds it, and ConfigError where the file cannot be
    opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"the file cannot be opened: {error.strerror}", file=path, remedy="see the permissions of its folder"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise LockHeldError(message, file=path.parent, remedy=remedy) from None
    try:
        yield
    finally:
        os.close(descriptor)
