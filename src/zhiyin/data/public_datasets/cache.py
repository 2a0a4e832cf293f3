"""The cache of public data sets."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from zhiyin.core.atomic_files import write_json
from zhiyin.core.atomic_folders import replace_folder
from zhiyin.core.errors import DataError
from zhiyin.core.run import Run, log
from zhiyin.data.public_datasets.archives import unpack
from zhiyin.data.public_datasets.checksums import verify
from zhiyin.data.public_datasets.download import fetch
from zhiyin.data.public_datasets.known_sets import find
from zhiyin.data.public_datasets.public_set import PublicSet

DONE_FILE = ".complete.json"  # written last: a folder without it is no set


def get(
    name: str, cache: str | Path | None = None, from_path: str | Path | None = None, run: Run | None = None
) -> Path:
    """The folder of a public set; it is downloaded where it is missing.

    Parameters
    ----------
    cache: where sets are kept; default the environment variable ZHIYIN_CACHE, else ~/.cache/zhiyin.
    from_path: a file, zip or folder fetched by other means, used instead of the network.

    Raises DataError when the machine is offline (its remedy names what to download), when a checksum
    differs, or when an archive would write outside its folder.
    """
    run, chosen, root = run or Run(), find(name), cache_dir(cache)
    log.info("%s: %s (%s)", chosen.name, chosen.title, chosen.page)
    log.info("licence: %s", chosen.licence)
    done = cached(name, root)
    if done is not None and from_path is None:
        return done
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=root) as temporary:
        folder = Path(temporary) / "set"
        folder.mkdir()
        if from_path is not None:
            copy_local(chosen, Path(from_path).expanduser(), folder)
        else:
            # All are fetched before one is moved: what is whole already need not come again after a failure.
            for remote, file in [(remote, fetch(remote, root, chosen, run)) for remote in chosen.remotes]:
                if remote.is_archive:
                    unpack(file, folder, remote.limit)
                    file.unlink()
                else:
                    shutil.move(file, folder / remote.file)
        home = finish(chosen, folder)
        target = root / chosen.name
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(home, target)
    return target


def cached(name: str, cache: str | Path | None = None) -> Path | None:
    """The folder of a set that was fetched before and is complete; None when it was not."""
    chosen = find(name)
    folder = cache_dir(cache) / chosen.name
    complete = (folder / DONE_FILE).is_file() and all((folder / file).is_file() for file in chosen.files)
    return folder if complete else None


def cache_dir(cache: str | Path | None = None) -> Path:
    """Where sets are kept."""
    return Path(cache or os.environ.get("ZHIYIN_CACHE") or Path.home() / ".cache" / "zhiyin").expanduser()


def copy_local(chosen: PublicSet, path: Path, folder: Path) -> None:
    """Copy a set from a local file, zip or folder; nothing there is changed."""
    if path.is_dir():
        home = find_home(chosen, path)
        if home is not None:
            for name in chosen.raw or chosen.files:
                shutil.copy(home / name, folder / name)
            log.info("copied from %s; there is no checksum to hold against a folder", home)
            return
        archives = [path / remote.file for remote in chosen.remotes if (path / remote.file).is_file()]
        if not archives:
            raise incomplete(chosen, list(chosen.raw or chosen.files), path)
        for archive in archives:
            copy_local(chosen, archive, folder)
        return
    if not path.is_file():
        raise DataError("there is no such file or folder", file=path, remedy="name what was downloaded")
    packed = zipfile.is_zipfile(path)
    same = [remote for remote in chosen.remotes if remote.file == path.name]
    alike = [remote for remote in chosen.remotes if remote.is_archive == packed]
    remote = (same or alike or [chosen.remotes[0]])[0]
    if remote.digest is not None:
        verify(path, str(path), remote.digest, folder)
    else:
        log.info("there is no checksum to hold against %s", path)
    if packed or remote.is_archive:
        unpack(path, folder, remote.limit)
    else:
        shutil.copy(path, folder / remote.file)


def find_home(chosen: PublicSet, folder: Path) -> Path | None:
    """The folder, or the one below it, that holds every file of the set as fetched."""
    required = chosen.raw or chosen.files
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    return next((each for each in (folder, *below) if all((each / file).is_file() for file in required)), None)


def finish(chosen: PublicSet, folder: Path) -> Path:
    """The part of `folder` that holds the set, made ready and marked complete."""
    home = find_home(chosen, folder)
    if home is None:
        present = {path.name for path in folder.rglob("*")}
        raise incomplete(chosen, [file for file in chosen.raw or chosen.files if file not in present], folder)
    if chosen.prepare is not None:
        chosen.prepare(home)
    record = {"name": chosen.name, "licence": chosen.licence, "page": chosen.page, "files": chosen.files}
    write_json(home / DONE_FILE, record, indent=1)
    return home


def incomplete(chosen: PublicSet, missing: list[str], folder: Path) -> DataError:
    sources = " and ".join(remote.url for remote in chosen.remotes)
    return DataError(
        f"{chosen.name} is not whole: it lacks {', '.join(missing)}",
        file=folder,
        remedy=f"fetch all of {sources}",
    )
