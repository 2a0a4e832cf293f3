"""Fenced code blocks of a Markdown file: where each stands, its language and its text."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

# A fence of three or more backticks or tildes, perhaps indented within a list, closed by one as long.
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<lang>[^\n`]*)\n(?P<text>.*?)^ *(?P=fence)[`~]* *$", re.M | re.S
)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#* *$", re.M)


@dataclasses.dataclass(frozen=True)
class Block:
    """One block. section: the heading above it; line: of its first fence, from 1."""

    file: str
    section: str
    line: int
    lang: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.section}, {self.lang or 'no language'})"

    @property
    def first(self) -> str:
        """Its first line, by which a list can name it."""
        return next((line.strip() for line in self.text.splitlines() if line.strip()), "")


def blocks_of(file: Path, root: Path) -> list[Block]:
    """All blocks of a file, in order."""
    text = file.read_text("utf-8")
    spans = [match.span() for match in _FENCE.finditer(text)]
    headings = [
        (match.start(), match[1])
        for match in _HEADING.finditer(text)
        if not any(start <= match.start() < stop for start, stop in spans)
    ]
    blocks = []
    for match in _FENCE.finditer(text):
        section = next((title for at, title in reversed(headings) if at < match.start()), "")
        indent = len(match["indent"])
        lines = [line[indent:] if line[:indent].isspace() else line for line in match["text"].splitlines()]
        line = text.count("\n", 0, match.start()) + 1
        name = str(file.relative_to(root))
        blocks.append(Block(name, section, line, match["lang"].strip().split(" ")[0].lower(), "\n".join(lines) + "\n"))
    return blocks
