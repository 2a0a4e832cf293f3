"""Unpacking of archives within limits."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

from zhiyin.core.errors import DataError
from zhiyin.data.public_datasets.copying import copy_stream, too_large


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Unpack a zip. DataError, before a byte is written, if it reaches outside `folder` or is too large."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            files = [entry for entry in zipped.infolist() if not entry.is_dir()]
            for entry in files:
                member = PurePosixPath(entry.filename.replace("\\", "/"))
                link = stat.S_ISLNK(entry.external_attr >> 16)
                if member.is_absolute() or ".." in member.parts or ":" in member.parts[0] or link:
                    raise DataError(
                        f"the archive would write outside its folder: {entry.filename!r}",
                        file=archive,
                        remedy="do not trust this file; fetch it from its publisher",
                    )
            if sum(entry.file_size for entry in files) > limit:
                raise too_large(archive, limit)
            n_left = limit
            for entry in files:
                target = folder / PurePosixPath(entry.filename.replace("\\", "/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(entry) as source, target.open("wb") as out:
                    # The bytes that are written count, not those that the archive declares.
                    n_left -= copy_stream(source, out, 0, n_left, str(archive))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"the archive cannot be unpacked: {error}", file=archive, remedy="fetch it again") from None
