"""Public sets, fetched from a server of our own: resumed, verified, unpacked safely; offline said clearly."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import logging
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.data import public_datasets
from zhiyin.data.public_datasets import PublicSet, Remote, cached, download, find, get, listed, unpack
from zhiyin.data.reading import read

QUIET = Run(progress=False)
CSV = b"user,item,rating\n" + b"".join(b"u%d,i%d,%d\n" % (i % 40, i % 30, i % 5 + 1) for i in range(400))


class Server:
    """Files by path, served with ranges and ETags; remembers what was asked, and breaks off when told."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.break_after: int | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, want = self.path, self.headers.get("Range")
                server.asked.append((path, want))
                if path not in server.files:
                    self.send_error(404)
                    return
                body = server.files[path]
                tag = '"' + hashlib.md5(body, usedforsecurity=False).hexdigest() + '"'
                first = int(want.removeprefix("bytes=").rstrip("-")) if want else 0
                if self.headers.get("If-Range") not in (None, tag):
                    first, want = 0, None
                if want and first >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206 if want else 200)
                self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(body) - first))
                if want:
                    self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
                self.end_headers()
                self.wfile.write(body[first : server.break_after])

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def offer(server: Server, monkeypatch: pytest.MonkeyPatch) -> PublicSet:
    """A set "toy" of one zip, whose checksum is known."""
    server.files["/toy.zip"] = zipped({"toy/ratings.csv": CSV, "toy/README": b"terms"})
    digest = "md5:" + hashlib.md5(server.files["/toy.zip"], usedforsecurity=False).hexdigest()
    remotes = (Remote(f"{server.url}/toy.zip", digest=digest, limit=1_000_000),)
    columns = {"user": "user", "item": "item", "rating": "rating"}
    toy = PublicSet("toy", "Toys", "http://toys", "CC0", "40 users", remotes, events="ratings.csv", columns=columns)
    return register(toy, monkeypatch)


def register(toy: PublicSet, monkeypatch: pytest.MonkeyPatch) -> PublicSet:
    monkeypatch.setitem(public_datasets.SETS, toy.name, toy)
    return toy


def zipped(files: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def test_a_set_is_fetched_once_and_read(
    server: Server, offer: PublicSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert cached("toy", tmp_path) is None
    with caplog.at_level(logging.INFO, "zhiyin"):
        folder = get("toy", tmp_path, run=QUIET)
    assert "licence: CC0" in caplog.text
    assert "checksum right" in caplog.text
    assert read(**offer.options(folder)).n_events == 400
    assert get("toy", tmp_path) == folder == cached("toy", tmp_path)
    assert len(server.asked) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]  # no part, no tag, no folder half unpacked


def test_the_cache_is_where_the_environment_says(
    offer: PublicSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZHIYIN_CACHE", str(tmp_path / "there"))
    assert get("toy", run=QUIET) == tmp_path / "there" / "toy"


def test_a_broken_download_goes_on_where_it_stopped(server: Server, offer: PublicSet, tmp_path: Path) -> None:
    server.break_after = 300
    with pytest.raises(DataError, match="broke after 300") as error:
        get("toy", tmp_path, run=QUIET)
    assert "zhiyin data get toy" in (error.value.remedy or "")
    assert cached("toy", tmp_path) is None
    server.break_after = None
    folder = get("toy", tmp_path, run=QUIET)
    assert server.asked == [("/toy.zip", None), ("/toy.zip", "bytes=300-")]
    assert (folder / "ratings.csv").read_bytes() == CSV


def test_a_file_that_changed_in_between_comes_whole(server: Server, tmp_path: Path) -> None:
    server.files["/a"], server.break_after = b"old" * 100, 30
    with pytest.raises(DataError, match="broke"):
        download(f"{server.url}/a", tmp_path / "a.part", 1000, QUIET, "a")
    server.files["/a"], server.break_after = b"new" * 100, None
    download(f"{server.url}/a", tmp_path / "a.part", 1000, QUIET, "a")
    assert (tmp_path / "a.part").read_bytes() == b"new" * 100


def test_a_part_that_is_already_whole_is_no_trouble(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = b"x" * 50
    for _ in range(2):
        download(f"{server.url}/a", tmp_path / "a.part", 1000, QUIET, "a")
    assert (tmp_path / "a.part").read_bytes() == b"x" * 50


def test_a_wrong_checksum_is_said_and_the_file_not_kept(server: Server, offer: PublicSet, tmp_path: Path) -> None:
    server.files["/toy.zip"] = zipped({"toy/ratings.csv": CSV + b"u1,i1,5\n"})
    with pytest.raises(DataError, match="checksum is wrong"):
        get("toy", tmp_path, run=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_beside_the_file_is_asked_for(
    server: Server, offer: PublicSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = (offer.remotes[0].digest or "").removeprefix("md5:")
    server.files["/toy.zip.md5"] = f"MD5 (toy.zip) = {right.upper()}\n".encode()
    remote = Remote(f"{server.url}/toy.zip", digest_url=f"{server.url}/toy.zip.md5")
    register(dataclasses.replace(offer, remotes=(remote,)), monkeypatch)
    get("toy", tmp_path / "right", run=QUIET)
    server.files["/toy.zip.md5"] = f"{'0' * 32}  toy.zip\n".encode()
    with pytest.raises(DataError, match="checksum is wrong"):
        get("toy", tmp_path / "wrong", run=QUIET)


def test_without_a_checksum_the_first_download_sets_it(
    server: Server, offer: PublicSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/ratings.csv"] = CSV
    remote = Remote(f"{server.url}/ratings.csv")
    register(dataclasses.replace(offer, remotes=(remote,)), monkeypatch)
    folder = get("toy", tmp_path, run=QUIET)
    kept = json.loads((tmp_path / "checksums.json").read_text())
    assert kept == {remote.url: "sha256:" + hashlib.sha256(CSV).hexdigest()}
    (folder / "ratings.csv").unlink()  # no longer complete: fetched again
    server.files["/ratings.csv"] = CSV + b"u1,i1,5\n"
    with pytest.raises(DataError, match="has changed since it was first fetched"):
        get("toy", tmp_path, run=QUIET)


def test_of_several_files_those_that_came_are_kept(
    server: Server, offer: PublicSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/ratings.csv"] = CSV
    remotes = (Remote(f"{server.url}/ratings.csv"), Remote(f"{server.url}/films.csv"))
    register(dataclasses.replace(offer, remotes=remotes, items="films.csv"), monkeypatch)
    with pytest.raises(DataError, match="answers 404"):
        get("toy", tmp_path, run=QUIET)
    assert cached("toy", tmp_path) is None
    server.files["/films.csv"] = b"item,title\ni1,One\n"
    folder = get("toy", tmp_path, run=QUIET)
    assert (folder / "ratings.csv").read_bytes() == CSV
    assert [path for path, _ in server.asked] == ["/ratings.csv", "/films.csv", "/films.csv"]


def test_offline_says_so_and_how_to_go_on(offer: PublicSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Remote("http://127.0.0.1:9/toy.zip")  # the discard port: nobody answers
    register(dataclasses.replace(offer, remotes=(nowhere,)), monkeypatch)
    with pytest.raises(DataError, match="seems to be offline") as error:
        get("toy", tmp_path, run=QUIET)
    assert error.value.file == nowhere.url
    assert "--from PATH" in (error.value.remedy or "")
    assert nowhere.url in (error.value.remedy or "")
    assert list(tmp_path.iterdir()) == []


def test_what_the_publisher_refuses_is_said(server: Server, offer: PublicSet, tmp_path: Path) -> None:
    del server.files["/toy.zip"]
    with pytest.raises(DataError, match="answers 404"):
        get("toy", tmp_path, run=QUIET)


def test_a_file_larger_than_it_should_be_is_not_fetched(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = b"x" * 2000
    with pytest.raises(DataError, match="larger than the 1,000 bytes"):
        download(f"{server.url}/a", tmp_path / "a.part", 1000, QUIET, "a")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_an_archive_cannot_write_outside_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(zipped({"good": b"1", name: b"2"}))
    with pytest.raises(DataError, match="outside its folder"):
        unpack(tmp_path / "bad.zip", tmp_path / "in", 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]  # not even the good file was written


def test_an_archive_cannot_smuggle_a_link(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="outside its folder"):
        unpack(tmp_path / "bad.zip", tmp_path / "in", 1000)


def test_an_archive_cannot_swell(tmp_path: Path) -> None:
    (tmp_path / "bomb.zip").write_bytes(zipped({"a": b"0" * 5000, "b": b"0" * 6000}))
    with pytest.raises(DataError, match="larger than the 10,000 bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "in", 10_000)


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "page.zip", tmp_path, 1000)


@pytest.mark.parametrize("how", ["zip", "renamed", "folder", "folder of the zip", "outer folder"])
def test_a_local_copy_serves_without_a_network(how: str, server: Server, offer: PublicSet, tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    if how in ("zip", "renamed", "folder of the zip"):
        path = source / ("toy (1).zip" if how == "renamed" else "toy.zip")
        path.write_bytes(server.files["/toy.zip"])
    else:
        inner = source if how == "folder" else source / "toy"
        inner.mkdir(exist_ok=True)
        path = inner / "ratings.csv"
        path.write_bytes(CSV)
    given = path if how in ("zip", "renamed") else source
    folder = get("toy", tmp_path / "cache", from_path=given, run=QUIET)
    assert (folder / "ratings.csv").read_bytes() == CSV
    assert path.exists()
    assert server.asked == []


def test_a_local_copy_that_is_wrong_or_not_whole_is_refused(offer: PublicSet, tmp_path: Path) -> None:
    (tmp_path / "toy.zip").write_bytes(zipped({"ratings.csv": b""}))
    with pytest.raises(DataError, match="checksum is wrong"):
        get("toy", tmp_path / "cache", from_path=tmp_path / "toy.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"lacks ratings\.csv"):
        get("toy", tmp_path / "cache", from_path=tmp_path / "empty")
    with pytest.raises(DataError, match="no such file or folder"):
        get("toy", tmp_path / "cache", from_path=tmp_path / "nothing")
    assert cached("toy", tmp_path / "cache") is None


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(DataError) as error:
        find("movielens-100")
    assert "movielens-100k" in (error.value.remedy or "")
    with pytest.raises(DataError) as error:
        find("amazon-2023/Book")
    assert "'Books'" in (error.value.remedy or "")
    assert find("amazon-2014/beauty").events == "reviews_Beauty_5.json.gz"


def test_every_set_names_publisher_licence_shape_and_address() -> None:
    sets = listed()
    assert len({each.name for each in sets}) == len(sets) >= 12
    for each in sets:
        assert each.title
        assert each.licence
        assert each.shape
        assert each.page.startswith("https://")
        assert all(remote.url.startswith("https://") for remote in each.remotes)
        assert {"user", "item"} <= set(each.columns)
        digests = [remote.digest for remote in each.remotes if remote.digest]
        assert all(len(digest) == {"md5": 36, "sha256": 71}[digest.split(":")[0]] for digest in digests)
    pinned = [each.name for each in sets if each.remotes[0].digest]
    assert {"movielens-100k", "movielens-1m", "movielens-20m", "movielens-25m", "movielens-32m"} <= set(pinned)


def test_movielens_100k_is_made_ready(tmp_path: Path) -> None:
    raw = tmp_path / "ml-100k"
    raw.mkdir()
    flags = ["0"] * 19
    flags[5] = flags[14] = "1"
    film = ["7", "Misérables, Les (1995)", "01-Jan-1995", "", "http://x", *flags]
    (raw / "u.item").write_bytes("\n".join(["|".join(film), "|".join(["8", "Twelve", *film[2:]])]).encode("latin-1"))
    (raw / "u.user").write_text("3|24|M|technician|85711\n")
    (raw / "u.data").write_text("3\t7\t4\t881250949\n3\t8\t5\t881250950\n")
    folder = get("movielens-100k", tmp_path / "cache", from_path=raw)
    data = read(**find("movielens-100k").options(folder))
    assert data.items.rows() == [
        (7, "Misérables, Les", 1995, "Comedy|Romance"),
        (8, "Twelve", None, "Comedy|Romance"),
    ]
    assert data.users.columns == ["id", "age", "gender", "occupation", "zip"]
    assert data.events["value"].to_list() == [4.0, 5.0]
    assert data.has_times


def test_movielens_1m_is_made_ready(tmp_path: Path) -> None:
    raw = tmp_path / "ml-1m"
    raw.mkdir()
    (raw / "movies.dat").write_bytes('1::Légende: "A" (1995)::Drama|War\n'.encode("latin-1"))
    (raw / "users.dat").write_text("1::F::1::10::48067\n")
    (raw / "ratings.dat").write_text("1::1::5::978300760\n")
    folder = get("movielens-1m", tmp_path / "cache", from_path=raw)
    data = read(**find("movielens-1m").options(folder))
    assert data.items.rows() == [(1, 'Légende: "A"', 1995, "Drama|War")]


def test_gowalla_becomes_pairs(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "train.txt").write_text("0 0 1 2\n1 2 \n2\n")
    (raw / "test.txt").write_text("0 3\n")
    folder = get("gowalla", tmp_path / "cache", from_path=raw)
    assert (folder / "train.tsv").read_text() == "user\titem\n0\t0\n0\t1\n0\t2\n1\t2\n"
    assert (folder / "test.tsv").read_text() == "user\titem\n0\t3\n"


def test_gowalla_checkins_get_names_and_times(tmp_path: Path) -> None:
    lines = b"0\t2010-10-19T23:55:27Z\t30.2\t-97.7\t22847\n1\t2010-10-17T23:42:03Z\t30.3\t-97.8\t316637\n"
    raw = tmp_path / "loc-gowalla_totalCheckins.txt.gz"
    raw.write_bytes(gzip.compress(lines))
    folder = get("gowalla-checkins", tmp_path / "cache", from_path=raw)
    data = read(**find("gowalla-checkins").options(folder))
    assert data.has_times
    assert data.items.rows() == [(22847, 30.2, -97.7), (316637, 30.3, -97.8)]


def test_gowalla_has_the_published_shape(tmp_path: Path) -> None:
    source = Path(os.environ.get("ZHIYIN_DATA", "")) / "gowalla"
    if not os.environ.get("ZHIYIN_DATA") or not source.is_dir():
        pytest.skip("needs ZHIYIN_DATA/gowalla")
    folder = get("gowalla", tmp_path, from_path=source, run=QUIET)
    data = read(**find("gowalla").options(folder))
    assert (data.n_events, data.n_users) == (810_128, 29_858)
