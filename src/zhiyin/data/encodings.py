"""Text of any encoding as UTF-8.

UTF-8 is validated byte by byte. UTF-16 and UTF-32 are detected by their byte order mark or their zero bytes. For other
text the legacy encoding is chosen under which the bytes beyond ASCII are the most common characters; this is noted.
"""

from __future__ import annotations

import codecs
import dataclasses
import mmap
import unicodedata
from collections.abc import Callable, Iterator

from zhiyin.core.errors import ConfigError
from zhiyin.data.read_assumptions import Findings

_BLOCK = 1 << 20
_SAMPLE = 200_000  # bytes of foreign lines that are judged
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# Legacy encodings by Python's name and for people; of two that are as likely the first counts.
NAMES = {
    "cp932": "Shift-JIS", "euc_jp": "EUC-JP", "euc_kr": "EUC-KR", "gb18030": "GB18030 (GBK)", "big5": "Big5",
    "cp1252": "Windows-1252", "cp1251": "Windows-1251",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Text as UTF-8.

    Parameters
    ----------
    content: the text.
    encoding: the legacy encoding that was found, or None where the text was UTF-8 or carried a mark.
    lines: how many lines were not UTF-8; 0 where the whole text is of the encoding.
    other: the encoding that is nearly as likely, or None.
    """

    content: bytes | mmap.mmap
    encoding: str | None = None
    lines: int = 0
    other: str | None = None


def to_utf8(content: bytes | mmap.mmap, encoding: str | None = None) -> Decoded:
    """Content as UTF-8. `encoding`: of the content, where it is known; None: it is detected.

    Text beyond ASCII that is UTF-8, or carries a mark, is decoded as that, whatever `encoding` is: one reading may
    have files in UTF-8 and others. Where some lines are UTF-8 beyond ASCII and some are not, only the
    latter are decoded. Raises ConfigError for an encoding that Python does not know, and UnicodeDecodeError for text
    that is not in the encoding named.
    """
    marked = _marked(content)
    if encoding is not None:
        codec = known_encoding(encoding)
        may_be_utf8 = content[:3] == codecs.BOM_UTF8 or content.find(b"\x00") < 0
        if not may_be_utf8 or marked not in (None, "utf-8-sig") or not _is_native(content):
            return Decoded(_decoded(content, codec))
    if marked is not None:
        return Decoded(content if marked == "utf-8-sig" and _all_utf8(content) else _decoded(content, marked))
    if _all_utf8(content):
        return Decoded(content)
    foreign, native, sample = _foreign_lines(content)
    likely, other = _judge(sample)
    if likely != "cp1252" and foreign > 9 * native:  # by chance a short line of theirs is UTF-8 too
        try:
            return Decoded(_decoded(content, likely), likely, 0, other)
        except UnicodeDecodeError:
            pass
    return Decoded(_mended(content, likely), likely, foreign, other)


def note_encoding(decoded: Decoded, name: str, findings: Findings) -> None:
    """Note which legacy encoding a file was decoded from. name: of the file."""
    if decoded.encoding is None:
        return
    encoding = NAMES[decoded.encoding]
    what = f"{name} is not UTF-8 and was"
    if decoded.lines:
        what = f"{decoded.lines:,} lines of {name} are not UTF-8 and were"
    other = f"; it may be {NAMES[decoded.other]}" if decoded.other else ""
    if decoded.lines and not decoded.other:  # UTF-8 with some foreign lines: no encoding of the whole
        findings.note(
            f"{what} read as {encoding}{other} (if it is another one: encoding = ... under [read] or by --assume)"
        )
    else:
        findings.assume("encoding", decoded.encoding, f"{what} read as {encoding}{other}")


def known_encoding(name: str) -> str:
    """Python's name of an encoding of text. Raises ConfigError for one it does not know."""
    try:
        info = codecs.lookup(name)
        "a".encode(name)
    except (LookupError, UnicodeError):
        raise ConfigError(
            f"there is no encoding {name!r}", remedy='write one such as "utf-8", "gb18030", "shift_jis" or "cp1252"'
        ) from None
    wider = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "iso8859-1": "cp1252", "utf-8": "utf-8-sig"}
    return wider.get(info.name, info.name)


def _marked(content: bytes | mmap.mmap) -> str | None:
    """The encoding by a byte order mark, or by zero bytes at every other position."""
    head = content[:4096]
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if len(head) >= 16:
        quarters = [head[at::4].count(0) / len(head[at::4]) for at in range(4)]
        if min(quarters[2:]) > 0.9 and quarters[0] < 0.1:
            return "utf-32-le"
        if min(quarters[:2]) > 0.9 and quarters[3] < 0.1:
            return "utf-32-be"
    if len(head) >= 8:
        even, odd = head[::2].count(0) / len(head[::2]), head[1::2].count(0) / len(head[1::2])
        if odd > 0.4 and even < 0.1:
            return "utf-16-le"
        if even > 0.4 and odd < 0.1:
            return "utf-16-be"
    return None


def _decoded(content: bytes | mmap.mmap, encoding: str) -> bytes:
    """Content of one encoding as UTF-8, block by block."""
    decoder = codecs.getincrementaldecoder(encoding)()
    out = bytearray()
    for begin in range(0, len(content), _BLOCK):
        last = begin + _BLOCK >= len(content)
        out += decoder.decode(content[begin : begin + _BLOCK], last).encode("utf-8", errors="replace")
    return bytes(out)


def _mended(content: bytes | mmap.mmap, encoding: str) -> bytes:
    """Content whose lines that are not UTF-8 are decoded by another encoding."""
    out = []
    for block in _blocks(content):
        if not _is_utf8(block):
            block = b"\n".join(
                line if _is_utf8(line) else line.decode(encoding, errors="replace").encode("utf-8")
                for line in block.split(b"\n")
            )
        out.append(block)
    return b"".join(out)


def _foreign_lines(content: bytes | mmap.mmap) -> tuple[int, int, bytes]:
    """Lines that are not UTF-8, lines that are UTF-8 beyond ASCII, and the first of the former."""
    foreign, native, sample = 0, 0, bytearray()
    for block in _blocks(content):
        if block.isascii():
            continue
        whole = _is_utf8(block)
        for line in block.split(b"\n"):
            if line.isascii():
                continue
            if whole or _is_utf8(line):
                native += 1
                continue
            foreign += 1
            if len(sample) < _SAMPLE:
                sample += line[:2000] + b"\n"
    return foreign, native, bytes(sample)


def _judge(sample: bytes) -> tuple[str, str | None]:
    """The likeliest legacy encoding of some lines, and another one that is nearly as likely."""
    scores = {name: _score(sample, name) for name in NAMES}
    ranked = sorted(scores, key=lambda name: -scores[name])
    best, second = ranked[:2]
    if scores[best] <= 0.3:
        return "cp1252", None
    return best, second if scores[second] > 0.9 * scores[best] else None


def _score(sample: bytes, encoding: str) -> float:
    """How ordinary the text is that the encoding makes of the lines: the share of its bytes beyond ASCII that become
    characters in daily use, from 0 to 1; below 0 where lines cannot be decoded."""
    usual_bytes, total_bytes, failed, lines, kana = 0, 0, 0, 0, False
    for line in sample.split(b"\n"):
        if line.isascii():
            continue
        lines += 1
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError:
            failed += 1
            continue
        for at, character in enumerate(text):
            if character < "\x80":
                continue
            width = len(character.encode(encoding))
            total_bytes += width
            usual_bytes += width * _USUAL[encoding](character, text[max(0, at - 1) : at], text[at + 1 : at + 2])
            kana = kana or "\u3040" <= character <= "\u30ff"
    if failed > 0.02 * lines:
        return -1.0
    if encoding in ("cp932", "euc_jp") and not kana:  # Japanese without any is Chinese
        return 0.0
    return usual_bytes / total_bytes if total_bytes else 0.0


def _hanzi(encoding: str, low: int, high: int) -> Callable[[str, str, str], bool]:
    """Whether a character is of the first, common plane of a double-byte set, or East Asian punctuation."""

    def usual(character: str, before: str, after: str) -> bool:
        code = character.encode(encoding)
        return len(code) == 2 and (low <= code[0] <= high or "\u3000" <= character <= "\u303f" or character > "\uff00")

    return usual


def _japanese(encoding: str) -> Callable[[str, str, str], bool]:
    def usual(character: str, before: str, after: str) -> bool:
        kana = "\u3040" <= character <= "\u30ff"
        return kana or "\u3000" <= character <= "\u303f" or _level_1(character)

    return usual


def _level_1(character: str) -> bool:
    """Kanji of JIS level 1: those in daily use."""
    try:
        return 0xB0 <= character.encode("euc_jp")[0] <= 0xCF
    except UnicodeEncodeError:
        return False


def _cyrillic(character: str, before: str, after: str) -> bool:
    """A Russian letter next to another, no small letter directly before a capital."""
    letter = "\u0410" <= character <= "\u044f" or character in "Ёё"
    alone = not (before > "\x7f" or after > "\x7f")
    return letter and not alone and not (character.islower() and after.isupper())


def _western(character: str, before: str, after: str) -> bool:
    """A letter with an accent, or a typographic mark, not between two others."""
    if character in "’‘“”–—…€£¥©®°•™«»¿¡ºª·½¼²³µ§×":
        return True
    letter = unicodedata.category(character)[0] == "L" and character <= "\u017f"
    return letter and not (before > "\x7f" and after > "\x7f")


_USUAL: dict[str, Callable[[str, str, str], bool]] = {
    "gb18030": _hanzi("gb18030", 0xB0, 0xD7),
    "big5": _hanzi("big5", 0xA4, 0xC6),
    "cp932": _japanese("cp932"),
    "euc_jp": _japanese("euc_jp"),
    "euc_kr": lambda character, before, after: "\uac00" <= character <= "\ud7a3",
    "cp1251": _cyrillic,
    "cp1252": _western,
}


def _blocks(content: bytes | mmap.mmap) -> Iterator[bytes]:
    """The content in blocks of about a megabyte, cut after newlines."""
    begin = 0
    while begin < len(content):
        cut = content.find(b"\n", min(begin + _BLOCK, len(content)))
        block = content[begin : len(content) if cut < 0 else cut + 1]
        begin += len(block)
        yield block


def _all_utf8(content: bytes | mmap.mmap) -> bool:
    return all(_is_utf8(block) for block in _blocks(content))


def _is_native(content: bytes | mmap.mmap) -> bool:
    """Whether a text holds characters beyond ASCII, all in UTF-8."""
    return not all(block.isascii() for block in _blocks(content)) and _all_utf8(content)


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
