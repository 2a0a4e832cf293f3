"""What is known of a public data set and of its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file at its publisher.

    Parameters
    ----------
    url: where it is.
    name: what it is called here; by default the end of the address. A name on .zip is unpacked.
    digest: "md5:..." or "sha256:..." of the file; None where nobody states one.
    digest_url: where the publisher states it, for a file that changes from time to time.
    limit: bytes it may have at most, and the sum of the files in it, should it be an archive.
    """

    url: str
    name: str = ""
    digest: str | None = None
    digest_url: str | None = None
    limit: int = 4 * GIB

    @property
    def file(self) -> str:
        return self.name or unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])

    @property
    def is_archive(self) -> bool:
        return self.file.endswith(".zip")


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """A public data set.

    Parameters
    ----------
    name, title, page, licence, shape: for people; `page` is the publisher's own.
    remotes: what is fetched.
    events, items, users: files to read, by name; of several folders the one that holds them counts.
    columns: roles, as `read` takes them.
    test: the file of the published test part, where there is one.
    raw, prepare: files as fetched, and what makes the others of them, where they cannot be read as they are.
    """

    name: str
    title: str
    page: str
    licence: str
    shape: str
    remotes: tuple[Remote, ...]
    events: str
    columns: Mapping[str, Any]
    items: str | None = None
    users: str | None = None
    test: str | None = None
    raw: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None

    def options(self, folder: Path) -> dict[str, Any]:
        """What `zy.read` needs to read the set: read(**options)."""
        options: dict[str, Any] = {"source": str(folder / self.events), "columns": dict(self.columns)}
        for role in ("items", "users"):
            if getattr(self, role):
                options[role] = str(folder / getattr(self, role))
        return options

    @property
    def files(self) -> list[str]:
        """Files a complete set has."""
        return [name for name in (self.events, self.items, self.users, self.test) if name]
