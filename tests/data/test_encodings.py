"""Text of any encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from zhiyin.core.errors import ConfigError, DataError
from zhiyin.data.encodings import to_utf8
from zhiyin.data.reading import read

TEXTS = {
    "gb18030": ("用户", "商品", "电影"),
    "big5": ("使用者", "電影", "音樂"),
    "cp932": ("ユーザー", "商品の", "映画です"),
    "euc_jp": ("ユーザー", "こんにちは", "映画です"),
    "euc_kr": ("사용자", "상품", "영화"),
    "cp1251": ("Пользователь", "Товар", "фильм"),
    "cp1252": ("Müller", "café", "naïve Zoë"),
}


def log(words: tuple[str, ...]) -> str:
    rows = [f"{words[0]}{u},{words[1]}{i},{words[2]}" for u in range(1, 13) for i in range(1, 9)]
    return "user,item,title\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("far", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_legacy_encodings_are_found_and_said(tmp_path: Path, encoding: str, far: bool) -> None:
    """Also where the first of them stands far behind the head of the file."""
    content = log(TEXTS[encoding])
    if far:
        rows = "".join(f"{n},{n % 50},plain\n" for n in range(400_000))
        content = content.replace("title\n", f"title\n{rows}", 1)
    (tmp_path / "log.csv").write_bytes(content.encode(encoding))
    data = read(tmp_path / "log.csv")
    assert f"{TEXTS[encoding][1]}1" in data.items["id"].to_list()
    assert f"{TEXTS[encoding][0]}12" in data.users["id"].to_list()
    assert any("not UTF-8" in note for note in data.notes)
    again = read(tmp_path / "log.csv", assume=data.assumed)
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_unicode_of_every_form(tmp_path: Path, encoding: str) -> None:
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "log.csv").write_bytes(mark + log(TEXTS["cp1252"]).encode(encoding))
    data = read(tmp_path / "log.csv")
    assert data.n_events == 96
    assert data.users["id"][0] == "Müller1"
    assert data.assumed == {}


def test_an_encoding_that_is_named_is_taken(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(log(TEXTS["cp1251"]).encode("koi8-r"))
    data = read(tmp_path / "log.csv", assume={"encoding": "koi8-r"})
    assert data.items["id"][0] == "Товар1"
    with pytest.raises(DataError, match="this is not utf-8"):
        read(tmp_path / "log.csv", assume={"encoding": "utf-8"})
    with pytest.raises(ConfigError, match="no encoding 'nonsense'"):
        read(tmp_path / "log.csv", assume={"encoding": "nonsense"})


def test_lines_in_another_encoding_among_utf8() -> None:
    good = "é,1\n".encode() * 600_000  # more than one block
    found = to_utf8(good + b"caf\xe9\n" + good)
    assert (found.lines, found.encoding) == (1, "cp1252")
    assert found.content == good + "café\n".encode() + good
    assert to_utf8(good).content == good
    assert to_utf8(good).encoding is None


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("word", ["user", "用户"])
def test_utf32_without_a_mark(tmp_path: Path, encoding: str, word: str) -> None:
    rows = "".join(f"{word}{n % 9},{n % 7}\n" for n in range(60))
    (tmp_path / "log.csv").write_bytes(f"user,item\n{rows}".encode(encoding))
    assert read(tmp_path / "log.csv").users["id"].to_list() == [f"{word}{n}" for n in range(9)]


def test_lines_of_two_encodings_are_each_read_by_its_own(tmp_path: Path) -> None:
    rows = "".join(f"用户{n % 9},商品{n % 7}\n" for n in range(60))
    (tmp_path / "log.csv").write_bytes(f"user,item\n{rows}".encode() + rows.encode("gb18030"))
    data = read(tmp_path / "log.csv")
    assert (data.n_users, data.n_items) == (9, 7)
    assert any("60 lines of log.csv are not UTF-8" in note and "--assume" in note for note in data.notes)
