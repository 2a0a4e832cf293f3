"""Download of a file from its publisher; one that broke off continues."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zhiyin.core.atomic_files import replace_durably
from zhiyin.core.errors import DataError
from zhiyin.core.run import Run, log
from zhiyin.data.public_datasets.checksums import verify
from zhiyin.data.public_datasets.copying import copy_stream, too_large
from zhiyin.data.public_datasets.public_set import PublicSet, Remote

TIMEOUT_SECONDS = 30.0  # without a byte


def fetch(remote: Remote, root: Path, chosen: PublicSet, run: Run) -> Path:
    """The file, downloaded into the cache and held against its checksum."""
    whole = root / (chosen.name.replace("/", "-") + "-" + remote.file)
    if whole.exists():  # of an earlier attempt that failed with another file
        return whole
    part = whole.with_name(whole.name + ".part")
    download(remote.url, part, remote.limit, run, chosen.name)
    digest = remote.digest
    if remote.digest_url is not None:
        digest = stated_digest(remote.digest_url, chosen.name)
    try:
        verify(part, remote.url, digest, root)
    except DataError:
        part.unlink()  # a wrong file is not gone on with
        raise
    finally:
        tag_of(part).unlink(missing_ok=True)
    replace_durably(part, whole)
    return whole


def download(url: str, part: Path, limit: int, run: Run, name: str) -> None:
    """Download an address into `part`, from where an earlier attempt stopped.

    The rest is requested with `Range`, and with `If-Range`, so that a changed file is sent whole. Raises
    DataError when the publisher cannot be reached, sends more than `limit` bytes, or breaks off.
    """
    have = part.stat().st_size if part.exists() else 0
    tag = tag_of(part).read_text() if tag_of(part).exists() else ""
    headers = {"User-Agent": "zhiyin (recommender; data get)", "Accept-Encoding": "identity"}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    with open_url(urllib.request.Request(url, headers=headers), name) as answer:
        resumed = answer.status == 206
        if resumed and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            part.unlink()
            raise DataError("the publisher sent another part of the file than asked for", file=url, remedy="try again")
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if total is not None and total > limit:
            raise too_large(url, limit)
        tag = answer.headers.get("ETag") or ""
        if not tag or tag.startswith("W/"):  # a weak tag does not promise the same bytes
            tag = answer.headers.get("Last-Modified") or ""
        tag_of(part).write_text(tag)
        if resumed:
            log.info("going on at byte %s", f"{have:,}")
        with part.open("ab" if resumed else "wb") as out, run.bar(f"Downloading {name}", total) as advance:
            advance(have)
            have = copy_stream(answer, out, have, limit, url, advance)
    if total is not None and have < total:
        raise DataError(
            f"the connection broke after {have:,} of {total:,} bytes",
            file=url,
            remedy=f"run it again to go on from there: zhiyin data get {name}",
        )


def open_url(request: urllib.request.Request, name: str) -> Any:
    """The response to a request. Raises DataError with a remedy, also where the machine is offline."""
    url = request.full_url
    if urlsplit(url).scheme not in ("https", "http"):
        raise DataError(
            "only http and https addresses are fetched", file=url, remedy="use --from PATH for a local file"
        )
    elsewhere = f"fetch {url} by other means, then: zhiyin data get {name} --from PATH"
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there is not the beginning of what is now published
            request.remove_header("Range")
            request.remove_header("If-range")
            return open_url(request, name)
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


def tag_of(part: Path) -> Path:
    """Where the version of a file that is half here is kept."""
    return part.with_name(part.name + ".tag")


def stated_digest(url: str, name: str) -> str:
    """The MD5 a publisher states beside a file, in either usual form: "MD5 (x.zip) = ..." or "...  x.zip"."""
    with open_url(urllib.request.Request(url, headers={"User-Agent": "zhiyin"}), name) as answer:
        text = answer.read(4096).decode("utf-8", "replace")
    match = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if match is None:
        raise DataError("there is no MD5 where the publisher states it", file=url, remedy="try again later")
    return "md5:" + match[0].lower()
