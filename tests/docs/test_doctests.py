"""Every example in a docstring says what the code does."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import zhiyin
from zhiyin.core.errors import MissingExtraError

SRC = Path(zhiyin.__file__).parent
MODULES = [
    ".".join(("zhiyin", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(SRC.rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except (MissingExtraError, ModuleNotFoundError) as error:
        pytest.skip(f"{name} needs what is not installed: {error}")
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0 or "doctest: +SKIP" in Path(module.__file__ or "").read_text("utf-8")
    assert found.failed == 0, "see the captured output"


def test_there_are_examples() -> None:
    assert len(MODULES) > 10
