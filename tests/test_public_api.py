"""The names of `zhiyin`: what a type checker sees is what is imported at first use."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zhiyin
from tests.type_checks import mypy_messages


def typed_names() -> dict[str, str]:
    """The module of each name that `zhiyin` imports for type checkers."""
    tree = ast.parse(Path(zhiyin.__file__).read_text())
    (block,) = (step for step in tree.body if isinstance(step, ast.If) and ast.unparse(step.test) == "TYPE_CHECKING")
    imports = [step for step in block.body if isinstance(step, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    assert all(name.name == name.asname for step in imports for name in step.names)  # the form that re-exports a name
    return {name.name: str(step.module) for step in imports for name in step.names}


def test_type_checkers_see_the_names_that_are_imported_at_first_use() -> None:
    assert typed_names() == {name: f"zhiyin.{module}" for name, module in zhiyin._PUBLIC.items()}
    assert set(zhiyin.__all__) == {"__version__", *typed_names()}
    with pytest.raises(AttributeError, match="EAES"):
        _ = zhiyin.EAES  # type: ignore[attr-defined]


def test_importing_it_loads_no_model() -> None:
    code = "import sys, zhiyin; print([name for name in ('numpy', 'polars', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


TYPED = """
import zhiyin as zy

zy.EASE(reg=3.0)
zy.EASE(regg=3.0)
zy.EAES()
zy.ALS(factors="many")
zy.EASE().fit(zy.read("log.csv"))
zy.EASE().fit("log.csv")
reveal_type(zy.load("model"))
"""


@pytest.mark.slow
def test_wrong_names_and_settings_are_errors_of_types(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    messages = mypy_messages(TYPED, tmp_path, tmp_path_factory.getbasetemp() / "mypy")
    assert [message.partition(":")[0] for message in messages] == ["5", "6", "7", "9", "10"]
    assert 'Unexpected keyword argument "regg" for "EASE"' in messages[0]
    assert 'no attribute "EAES"' in messages[1]
    assert 'Argument "factors" to "ALS" has incompatible type' in messages[2]
    assert 'Argument 1 to "fit"' in messages[3]
    assert "zhiyin.models.recommender.Recommender" in messages[4]
