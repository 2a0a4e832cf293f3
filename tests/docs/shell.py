"""The commands of a shell block, split as a shell splits them, and what stands for a shell to run them."""

from __future__ import annotations

import re
import shlex


def commands(text: str) -> list[list[str]]:
    """Words of each command: lines, and what stands between `&&` and `;`. Comments are left out.

    >>> commands('a "b c" && d; e   # f')
    [['a', 'b c'], ['d'], ['e']]
    """
    found: list[list[str]] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=";&|")
        words.whitespace_split = True
        words.commenters = "#"
        current: list[str] = []
        for word in words:
            if word in (";", "&&"):
                found.append(current)
                current = []
            elif set(word) <= set(";&|"):
                raise ValueError(f"a shell block with {word!r}: split it into commands that can be run one by one")
            else:
                current.append(word)
        found.append(current)
    return [command for command in found if command]
