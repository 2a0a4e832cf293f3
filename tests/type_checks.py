"""What mypy says of a text that uses the package."""

from __future__ import annotations

from pathlib import Path

import pytest

# Large packages whose types the texts do not need: without them a run takes 4 seconds, not 20.
_CONFIG = """
[mypy]
follow_imports = silent

[mypy-torch.*,numpy.*,polars.*,scipy.*,sqlglot.*]
follow_imports = skip
ignore_missing_imports = true
"""


def mypy_messages(text: str, folder: Path, cache: Path) -> list[str]:
    """Messages of mypy on a module, in order, each from its line on: "7: note: Revealed type is ...".

    Parameters
    ----------
    folder: where the module is written.
    cache: a folder that runs share.
    """
    mypy = pytest.importorskip("mypy.api")
    module, config = folder / "typed.py", folder / "mypy.ini"
    module.write_text(text)
    config.write_text(_CONFIG)
    output = mypy.run([str(module), "--cache-dir", str(cache), "--config-file", str(config)])[0]
    return [line.partition("typed.py:")[2] for line in output.splitlines() if "typed.py:" in line]
