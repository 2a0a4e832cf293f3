"""AbsentModules: imports of optional modules that fail for a while, as if these were not installed."""

from __future__ import annotations

import sys


class AbsentModules:
    """While the block runs, `import` of these modules raises ImportError, unless they were imported before.

    For the start of a program of our own: a library that uses an optional module where it is installed does without
    it, for good. It holds for all threads.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self._hidden: list[str] = []

    def __enter__(self) -> None:
        self._hidden = [name for name in self._names if name not in sys.modules]
        sys.modules.update(dict.fromkeys(self._hidden))  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> None:
        for name in self._hidden:
            if sys.modules.get(name, self) is None:
                del sys.modules[name]
