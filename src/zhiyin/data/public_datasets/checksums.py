"""Checksums of downloaded files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from zhiyin.core.atomic_files import read_json, write_json
from zhiyin.core.errors import DataError
from zhiyin.core.run import log

CHECKSUMS_FILE = "checksums.json"


def digest_of(path: Path, kind: str) -> str:
    """Digest of a file, such as "md5:..."."""
    with path.open("rb") as file:
        # MD5 is what publishers state; it guards against accidents, not against forgery.
        digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False))
    return f"{kind}:{digest.hexdigest()}"


def verify(path: Path, url: str, digest: str | None, root: Path) -> None:
    """Hold a file against the publisher's digest, or against that of the first download from there."""
    if digest is not None:
        actual = digest_of(path, digest.split(":")[0])
        if actual != digest:
            raise DataError(
                f"the checksum is wrong: {actual} instead of {digest}",
                file=url,
                remedy="fetch it again; if it stays so, the publisher has changed the file",
            )
        log.info("checksum right: %s", digest)
        return
    book = root / CHECKSUMS_FILE
    recorded = read_json(book, "remove it; checksums of what is fetched are kept anew") if book.exists() else {}
    actual = digest_of(path, "sha256")
    if url not in recorded:
        log.info("the publisher states no checksum; kept that of this first download: %s", actual)
        write_json(book, dict(sorted((recorded | {url: actual}).items())), indent=1)
    elif recorded[url] != actual:
        raise DataError(
            f"the file has changed since it was first fetched: {actual} instead of {recorded[url]}",
            file=url,
            remedy=f"if that is expected, remove its line from {book} and fetch it again",
        )
