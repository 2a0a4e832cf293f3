"""Public data sets, fetched from their publishers: `zhiyin data list` and `zhiyin data get NAME`.

Nothing is redistributed. A set lies in a folder of the cache once it is complete, never before; a download
that broke off goes on where it stopped. Checksums are those publishers state, or that many users report alike
of one archive. Where there is none, the first download's SHA-256 is kept and later ones are held against it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import polars as pl

from zhiyin.core.atomic_files import read_json, replace_durably, write_json
from zhiyin.core.atomic_folders import put_in_place
from zhiyin.core.errors import DataError, nearest
from zhiyin.core.run import Run, log

_BLOCK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_GIB = 1 << 30
_DONE = ".complete.json"  # written last: a folder without it is no set
_CHECKSUMS = "checksums.json"


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
    limit: int = 4 * _GIB

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


def get(
    name: str, cache: str | Path | None = None, from_path: str | Path | None = None, run: Run | None = None
) -> Path:
    """The folder of a public set, fetched if need be.

    Parameters
    ----------
    cache: where sets are kept; default the environment variable ZHIYIN_CACHE, else ~/.cache/zhiyin.
    from_path: a file, zip or folder fetched by other means, used instead of the network.

    Raises DataError when the machine is offline (it says what to fetch and how to go on), when a checksum
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
            _take(chosen, Path(from_path).expanduser(), folder)
        else:
            # All are fetched before one is moved: what is whole already need not come again after a failure.
            for remote, file in [(remote, _fetch(remote, root, chosen, run)) for remote in chosen.remotes]:
                if remote.is_archive:
                    unpack(file, folder, remote.limit)
                    file.unlink()
                else:
                    shutil.move(file, folder / remote.file)
        home = _finish(chosen, folder)
        target = root / chosen.name
        target.parent.mkdir(parents=True, exist_ok=True)
        put_in_place(home, target)
    return target


def cached(name: str, cache: str | Path | None = None) -> Path | None:
    """The folder of a set that was fetched before and is complete; None when it was not."""
    chosen = find(name)
    folder = cache_dir(cache) / chosen.name
    complete = (folder / _DONE).is_file() and all((folder / file).is_file() for file in chosen.files)
    return folder if complete else None


def cache_dir(cache: str | Path | None = None) -> Path:
    """Where sets are kept."""
    return Path(cache or os.environ.get("ZHIYIN_CACHE") or Path.home() / ".cache" / "zhiyin").expanduser()


def listed() -> list[PublicSet]:
    """All sets in the order they are shown; a family such as amazon-2023 stands as "amazon-2023/CATEGORY"."""
    return [*SETS.values(), *(family("CATEGORY") for family, _ in FAMILIES.values())]


def find(name: str) -> PublicSet:
    """The set of this name. Raises DataError with the nearest known one."""
    if name in SETS:
        return SETS[name]
    family, _, category = name.partition("/")
    if family in FAMILIES:
        make, categories = FAMILIES[family]
        canonical = next((known for known in categories if known.lower() == category.lower()), None)
        if canonical is None:
            raise DataError(f"{family} has no category {category!r}", remedy=nearest(category, list(categories)))
        return make(canonical)
    known = [*SETS, *(f"{family}/{categories[0]}" for family, (_, categories) in FAMILIES.items())]
    raise DataError(f"there is no public set {name!r}", remedy=nearest(name, known))


# Fetching


def _fetch(remote: Remote, root: Path, chosen: PublicSet, run: Run) -> Path:
    """The file, downloaded into the cache and held against its checksum."""
    whole = root / (chosen.name.replace("/", "-") + "-" + remote.file)
    if whole.exists():  # of an earlier attempt that failed with another file
        return whole
    part = whole.with_name(whole.name + ".part")
    download(remote.url, part, remote.limit, run, chosen.name)
    digest = remote.digest
    if remote.digest_url is not None:
        digest = _stated_digest(remote.digest_url, chosen.name)
    try:
        _verify(part, remote.url, digest, root)
    except DataError:
        part.unlink()  # a wrong file is not gone on with
        raise
    finally:
        _tag(part).unlink(missing_ok=True)
    replace_durably(part, whole)
    return whole


def download(url: str, part: Path, limit: int, run: Run, name: str) -> None:
    """Stream an address into `part`, from where an earlier attempt broke off.

    The rest is asked for with `Range`, and with `If-Range` so that a changed file comes whole. Raises
    DataError when the publisher cannot be reached, sends more than `limit` bytes, or breaks off.
    """
    have = part.stat().st_size if part.exists() else 0
    tag = _tag(part).read_text() if _tag(part).exists() else ""
    headers = {"User-Agent": "zhiyin (recommender; data get)", "Accept-Encoding": "identity"}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    with _open(urllib.request.Request(url, headers=headers), name) as answer:
        resumed = answer.status == 206
        if resumed and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            part.unlink()
            raise DataError("the publisher sent another part of the file than asked for", file=url, remedy="try again")
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if total is not None and total > limit:
            raise _too_large(url, limit)
        tag = answer.headers.get("ETag") or ""
        if not tag or tag.startswith("W/"):  # a weak tag does not promise the same bytes
            tag = answer.headers.get("Last-Modified") or ""
        _tag(part).write_text(tag)
        if resumed:
            log.info("going on at byte %s", f"{have:,}")
        with part.open("ab" if resumed else "wb") as out, run.bar(f"Downloading {name}", total) as advance:
            advance(have)
            have = _copy(answer, out, have, limit, url, advance)
    if total is not None and have < total:
        raise DataError(
            f"the connection broke after {have:,} of {total:,} bytes",
            file=url,
            remedy=f"run it again to go on from there: zhiyin data get {name}",
        )


def _copy(
    source: Any,
    out: BinaryIO,
    have: int,
    limit: int,
    url: str,
    advance: Callable[[int], None] = lambda n: None,
) -> int:
    """Copy until the end or the limit; returns the bytes there are now. A broken connection is an end."""
    while True:
        try:
            block = source.read(_BLOCK)
        except (TimeoutError, ConnectionError):
            return have
        if not block:
            return have
        have += len(block)
        if have > limit:
            raise _too_large(url, limit)
        out.write(block)
        advance(len(block))


def _too_large(url: object, limit: int) -> DataError:
    return DataError(
        f"the file is larger than the {limit:,} bytes expected of it",
        file=url,
        remedy="look at the publisher's page: this is not the file it was",
    )


def _open(request: urllib.request.Request, name: str) -> Any:
    """The answer to a request. Raises DataError that says what to do, offline above all."""
    url = request.full_url
    if urlsplit(url).scheme not in ("https", "http"):
        raise DataError(
            "only http and https addresses are fetched", file=url, remedy="use --from PATH for a local file"
        )
    elsewhere = f"fetch {url} by other means, then: zhiyin data get {name} --from PATH"
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there is not the beginning of what is now published
            request.remove_header("Range")
            request.remove_header("If-range")
            return _open(request, name)
        error.close()
        raise DataError(f"the publisher answers {error.code} {error.reason}", file=url, remedy=elsewhere) from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        if "CERTIFICATE" in str(reason).upper():
            raise DataError(
                f"the publisher's certificate is not valid ({reason})", file=url, remedy=elsewhere
            ) from None
        raise DataError(
            f"{urlsplit(url).hostname} cannot be reached; this machine seems to be offline ({reason})",
            file=url,
            remedy=elsewhere,
        ) from None


def _tag(part: Path) -> Path:
    """Where the version of a file that is half here is kept."""
    return part.with_name(part.name + ".tag")


# Checking


def _stated_digest(url: str, name: str) -> str:
    """The MD5 a publisher states beside a file, in either usual form: "MD5 (x.zip) = ..." or "...  x.zip"."""
    with _open(urllib.request.Request(url, headers={"User-Agent": "zhiyin"}), name) as answer:
        text = answer.read(4096).decode("utf-8", "replace")
    match = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if match is None:
        raise DataError("there is no MD5 where the publisher states it", file=url, remedy="try again later")
    return "md5:" + match[0].lower()


def digest_of(path: Path, kind: str) -> str:
    """Digest of a file, such as "md5:..."."""
    with path.open("rb") as file:
        # MD5 is what publishers state; it guards against accidents, not against forgery.
        digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False))
    return f"{kind}:{digest.hexdigest()}"


def _verify(path: Path, url: str, digest: str | None, root: Path) -> None:
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
    book = root / _CHECKSUMS
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


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Unpack a zip. DataError, before a byte is written, if it reaches outside `folder` or is too large."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            files = [entry for entry in zipped.infolist() if not entry.is_dir()]
            for entry in files:
                place = PurePosixPath(entry.filename.replace("\\", "/"))
                link = stat.S_ISLNK(entry.external_attr >> 16)
                if place.is_absolute() or ".." in place.parts or ":" in place.parts[0] or link:
                    raise DataError(
                        f"the archive would write outside its folder: {entry.filename!r}",
                        file=archive,
                        remedy="do not trust this file; fetch it from its publisher",
                    )
            if sum(entry.file_size for entry in files) > limit:
                raise _too_large(archive, limit)
            left = limit
            for entry in files:
                target = folder / PurePosixPath(entry.filename.replace("\\", "/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(entry) as source, target.open("wb") as out:
                    left -= _copy(source, out, 0, left, str(archive))  # what is written counts, not what is declared
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"the archive cannot be unpacked: {error}", file=archive, remedy="fetch it again") from None


def _take(chosen: PublicSet, path: Path, folder: Path) -> None:
    """Copy a set from a local file, zip or folder; nothing there is changed."""
    if path.is_dir():
        home = _home(chosen, path)
        if home is not None:
            for name in chosen.raw or chosen.files:
                shutil.copy(home / name, folder / name)
            log.info("copied from %s; there is no checksum to hold against a folder", home)
            return
        archives = [path / remote.file for remote in chosen.remotes if (path / remote.file).is_file()]
        if not archives:
            raise _incomplete(chosen, list(chosen.raw or chosen.files), path)
        for archive in archives:
            _take(chosen, archive, folder)
        return
    if not path.is_file():
        raise DataError("there is no such file or folder", file=path, remedy="name what was downloaded")
    packed = zipfile.is_zipfile(path)
    same = [remote for remote in chosen.remotes if remote.file == path.name]
    alike = [remote for remote in chosen.remotes if remote.is_archive == packed]
    remote = (same or alike or [chosen.remotes[0]])[0]
    if remote.digest is not None:
        _verify(path, str(path), remote.digest, folder)
    else:
        log.info("there is no checksum to hold against %s", path)
    if packed or remote.is_archive:
        unpack(path, folder, remote.limit)
    else:
        shutil.copy(path, folder / remote.file)


def _home(chosen: PublicSet, folder: Path) -> Path | None:
    """The folder, or the one below it, that holds every file of the set as fetched."""
    required = chosen.raw or chosen.files
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    return next((each for each in (folder, *below) if all((each / file).is_file() for file in required)), None)


def _finish(chosen: PublicSet, folder: Path) -> Path:
    """The part of `folder` that holds the set, made ready and marked complete."""
    home = _home(chosen, folder)
    if home is None:
        present = {path.name for path in folder.rglob("*")}
        raise _incomplete(chosen, [file for file in chosen.raw or chosen.files if file not in present], folder)
    if chosen.prepare is not None:
        chosen.prepare(home)
    record = {"name": chosen.name, "licence": chosen.licence, "page": chosen.page, "files": chosen.files}
    write_json(home / _DONE, record, indent=1)
    return home


def _incomplete(chosen: PublicSet, missing: list[str], folder: Path) -> DataError:
    sources = " and ".join(remote.url for remote in chosen.remotes)
    return DataError(
        f"{chosen.name} is not whole: it lacks {', '.join(missing)}",
        file=folder,
        remedy=f"fetch all of {sources}",
    )


# Files that cannot be read as they come


def _table(path: Path, separator: str, names: list[str]) -> pl.DataFrame:
    """A file without a header in Latin-1, all as text."""
    text = path.read_bytes().decode("latin-1").replace(separator, "\x1f")
    frame = pl.read_csv(
        io.BytesIO(text.encode()),
        separator="\x1f",
        quote_char=None,
        has_header=False,
        infer_schema=False,
        truncate_ragged_lines=True,
    )
    return frame.rename(dict(zip(frame.columns, names))).select(names)


_TITLE = pl.col("title").str.extract(r"^(.*?)\s*\(\d{4}\)\s*$", 1).fill_null(pl.col("title"))
_YEAR = pl.col("title").str.extract(r"\((\d{4})\)\s*$", 1).cast(pl.Int64, strict=False)
_GENRES_100K = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip


def _movielens_100k(home: Path) -> None:
    names = ["item", "title", "released", "video", "imdb", *_GENRES_100K]
    films = _table(home / "u.item", "|", names)
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES_100K]
    genres = pl.concat_str(flags, separator="|", ignore_nulls=True)
    films.select("item", title=_TITLE, year=_YEAR, genres=genres).write_csv(home / "items.tsv", separator="\t")
    people = _table(home / "u.user", "|", ["user", "age", "gender", "occupation", "zip"])
    people.write_csv(home / "users.tsv", separator="\t")
    _table(home / "u.data", "\t", ["user", "item", "rating", "time"]).write_csv(home / "ratings.tsv", separator="\t")


def _movielens_1m(home: Path) -> None:
    films = _table(home / "movies.dat", "::", ["item", "title", "genres"])
    films.select("item", title=_TITLE, year=_YEAR, genres="genres").write_csv(home / "items.tsv", separator="\t")
    people = _table(home / "users.dat", "::", ["user", "gender", "age", "occupation", "zip"])
    people.write_csv(home / "users.tsv", separator="\t")
    ratings = _table(home / "ratings.dat", "::", ["user", "item", "rating", "time"])
    ratings.write_csv(home / "ratings.tsv", separator="\t")


def _adjacency(home: Path) -> None:
    """Lines "user item item ..." into one pair a line."""
    for name in ("train", "test"):
        lines = pl.read_csv(
            home / f"{name}.txt", separator="\x1f", quote_char=None, has_header=False, infer_schema=False
        ).to_series()
        cells = lines.str.strip_chars().str.split(" ")
        frame = pl.DataFrame({"user": cells.list.first(), "item": cells.list.slice(1)})
        pairs = frame.explode("item").drop_nulls().filter(pl.col("item") != "")
        pairs.write_csv(home / f"{name}.tsv", separator="\t")


def _checkins(home: Path) -> None:
    names = ["user", "time", "latitude", "longitude", "place"]
    lines = pl.scan_csv(home / _CHECKINS, separator="\t", has_header=False, new_columns=names, infer_schema_length=1000)
    lines.collect().write_parquet(home / "checkins.parquet")


# The sets

_CHECKINS = "loc-gowalla_totalCheckins.txt.gz"
_GROUPLENS = "https://files.grouplens.org/datasets"
_ML_LICENCE = "GroupLens: research use, cite Harper & Konstan 2015, no redistribution or commercial use unasked"
_ML_COLUMNS = {
    "user": "userId",
    "item": "movieId",
    "rating": "rating",
    "time": "timestamp",
    "item_id": "movieId",
}
_TIDY = {
    "user": "user",
    "item": "item",
    "rating": "rating",
    "time": "time",
    "item_id": "item",
    "user_id": "user",
}


def _movielens(name: str, archive: str, shape: str, **checksum: str) -> PublicSet:
    page = f"https://grouplens.org/datasets/movielens/{name.removeprefix('latest-').removesuffix('-small')}/"
    return PublicSet(
        f"movielens-{name}",
        f"MovieLens {name}: ratings of films, 0.5 to 5, with times",
        page if not name.startswith("latest") else "https://grouplens.org/datasets/movielens/latest/",
        _ML_LICENCE,
        shape,
        (Remote(f"{_GROUPLENS}/movielens/{archive}.zip", **checksum),),  # type: ignore[arg-type]
        events="ratings.csv",
        items="movies.csv",
        columns=_ML_COLUMNS,
    )


_SUM = f"{_GROUPLENS}/movielens/ml-latest-small.zip.md5"
_ALL = (
    PublicSet(
        "movielens-100k",
        "MovieLens 100k: ratings of films, 1 to 5, with times and users' age, gender and job (1998)",
        "https://grouplens.org/datasets/movielens/100k/",
        _ML_LICENCE,
        "943 users, 1,682 items, 100,000 ratings",
        (Remote(f"{_GROUPLENS}/movielens/ml-100k.zip", digest="md5:0e33842e24a9c977be4e0107933c0723"),),
        events="ratings.tsv",
        items="items.tsv",
        users="users.tsv",
        columns=_TIDY,
        raw=("u.data", "u.item", "u.user"),
        prepare=_movielens_100k,
    ),
    PublicSet(
        "movielens-1m",
        "MovieLens 1M: ratings of films, 1 to 5, with times and users' age, gender and job (2003)",
        "https://grouplens.org/datasets/movielens/1m/",
        _ML_LICENCE,
        "6,040 users, 3,706 rated of 3,883 items, 1,000,209 ratings",
        (Remote(f"{_GROUPLENS}/movielens/ml-1m.zip", digest="md5:c4d9eecfca2ab87c1945afe126590906"),),
        events="ratings.tsv",
        items="items.tsv",
        users="users.tsv",
        columns=_TIDY,
        raw=("ratings.dat", "movies.dat", "users.dat"),
        prepare=_movielens_1m,
    ),
    # This one is made anew from time to time: its checksum is asked for, not written here.
    _movielens("latest-small", "ml-latest-small", "610 users, 9,742 items, 100,836 ratings", digest_url=_SUM),
    _movielens(
        "20m", "ml-20m", "138,493 users, 27,278 items, 20,000,263 ratings",
        digest="md5:cd245b17a1ae2cc31bb14903e1204af3",
    ),
    _movielens(
        "25m", "ml-25m", "162,541 users, 62,423 items, 25,000,095 ratings",
        digest="md5:6b51fb2759a8657d3bfcbfc42b592ada",
    ),
    _movielens(
        "32m", "ml-32m", "200,948 users, 87,585 items, 32,000,204 ratings",
        digest="md5:d472be332d4daa821edc399621853b57",
    ),
    PublicSet(
        "goodbooks-10k",
        "Goodbooks-10k: ratings of books, 1 to 5, without times; its book columns leak",
        "https://github.com/zygmuntz/goodbooks-10k",
        "CC BY-SA 4.0",
        "53,424 users, 10,000 items, 5,976,479 ratings",
        (
            Remote("https://raw.githubusercontent.com/zygmuntz/goodbooks-10k/master/ratings.csv"),
            Remote("https://raw.githubusercontent.com/zygmuntz/goodbooks-10k/master/books.csv"),
        ),
        events="ratings.csv",
        items="books.csv",
        columns={"user": "user_id", "item": "book_id", "rating": "rating", "item_id": "book_id"},
    ),
    PublicSet(
        "online-retail",
        "Online Retail: a British gift shop's invoices with returns, 2010-12 to 2011-12",
        "https://archive.ics.uci.edu/dataset/352/online+retail",
        "CC BY 4.0, UCI Machine Learning Repository (Chen 2015)",
        "541,909 lines, of which 406,829 name one of 4,372 customers",
        (Remote("https://archive.ics.uci.edu/static/public/352/data.csv", "online_retail.csv", limit=_GIB),),
        events="online_retail.csv",
        columns={
            "user": "CustomerID", "item": "StockCode", "time": "InvoiceDate", "rating": "Quantity",
            "item_columns": ["Description"], "user_columns": ["Country"],
        },
    ),
    PublicSet(
        "gowalla",
        "Gowalla check-ins in LightGCN's published random 80/20 split, without times",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        "research use; check-ins from SNAP (Cho, Myers & Leskovec 2011), split by He et al. 2020",
        "29,858 users, 40,981 items, 810,128 train and 217,242 test pairs",
        (
            Remote("https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/gowalla/train.txt"),
            Remote("https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/gowalla/test.txt"),
        ),
        events="train.tsv",
        test="test.tsv",
        columns={"user": "user", "item": "item"},
        raw=("train.txt", "test.txt"),
        prepare=_adjacency,
    ),
    PublicSet(
        "gowalla-checkins",
        "Gowalla check-ins with times and places, 2009-02 to 2010-10",
        "https://snap.stanford.edu/data/loc-Gowalla.html",
        "research use; cite Cho, Myers & Leskovec 2011 (SNAP)",
        "107,092 users, 1,280,969 places, 6,442,890 check-ins",
        (Remote(f"https://snap.stanford.edu/data/{_CHECKINS}"),),
        events="checkins.parquet",
        columns={"user": "user", "time": "time", "item": "place", "item_columns": ["latitude", "longitude"]},
        raw=(_CHECKINS,),
        prepare=_checkins,
    ),
    PublicSet(
        "lastfm-hetrec",
        "Last.fm (HetRec 2011): how often users listened to artists, without times; friends and tags",
        "https://grouplens.org/datasets/hetrec-2011/",
        "non-commercial research use; cite Cantador, Brusilovsky & Kuflik 2011 and Last.fm",
        "1,892 users, 17,632 artists, 92,834 listens",
        (
            Remote(
                f"{_GROUPLENS}/hetrec2011/hetrec2011-lastfm-2k.zip",
                digest="sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
            ),
        ),
        events="user_artists.dat",
        items="artists.dat",
        columns={"user": "userID", "item": "artistID", "rating": "weight", "item_id": "id"},
    ),
)  # fmt: skip
SETS = {each.name: each for each in _ALL}

# Categories as their addresses spell them.
_AMAZON_2023 = (
    "All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive",
    "Baby_Products", "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics",
    "Gift_Cards", "Grocery_and_Gourmet_Food", "Handmade_Products", "Health_and_Household",
    "Health_and_Personal_Care", "Home_and_Kitchen", "Industrial_and_Scientific", "Kindle_Store",
    "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments", "Office_Products",
    "Patio_Lawn_and_Garden", "Pet_Supplies", "Software", "Sports_and_Outdoors", "Subscription_Boxes",
    "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games", "Unknown",
)  # fmt: skip
_AMAZON_2014 = (
    "Beauty", "Amazon_Instant_Video", "Apps_for_Android", "Automotive", "Baby", "Books",
    "CDs_and_Vinyl", "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music",
    "Electronics", "Grocery_and_Gourmet_Food", "Health_and_Personal_Care", "Home_and_Kitchen",
    "Kindle_Store", "Movies_and_TV", "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden",
    "Pet_Supplies", "Sports_and_Outdoors", "Tools_and_Home_Improvement", "Toys_and_Games",
    "Video_Games",
)  # fmt: skip


def _amazon_2023(category: str) -> PublicSet:
    base = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/5core/rating_only"
    return PublicSet(
        f"amazon-2023/{category}",
        f"Amazon reviews 2023, {category.replace('_', ' ')}: ratings 1 to 5 with times, 5-core",
        "https://amazon-reviews-2023.github.io",
        "research use; cite Hou et al. 2024",
        "5-core: every user and item has at least 5 reviews",
        (Remote(f"{base}/{category}.csv.gz"),),
        events=f"{category}.csv.gz",
        columns={"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"},
    )


def _amazon_2014(category: str) -> PublicSet:
    file = f"reviews_{category}_5.json.gz"
    return PublicSet(
        f"amazon-2014/{category}",
        f"Amazon reviews 2014, {category.replace('_', ' ')}: ratings 1 to 5 with times and texts, 5-core",
        "https://jmcauley.ucsd.edu/data/amazon/",
        "research use; cite McAuley et al. 2015, He & McAuley 2016",
        "5-core: every user and item has at least 5 reviews",
        (Remote(f"https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/{file}", limit=16 * _GIB),),
        events=file,
        # Names and texts belong to reviews, not to items or users: no column describes those.
        columns={
            "user": "reviewerID",
            "item": "asin",
            "rating": "overall",
            "time": "unixReviewTime",
            "item_columns": [],
            "user_columns": [],
        },
    )


FAMILIES: dict[str, tuple[Callable[[str], PublicSet], tuple[str, ...]]] = {
    "amazon-2023": (_amazon_2023, _AMAZON_2023),
    "amazon-2014": (_amazon_2014, _AMAZON_2014),
}
