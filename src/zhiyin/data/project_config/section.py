"""A table of the settings file, and its keys."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of the file. A key nobody reads is an error, and a number written as text is no number.

    Every number declares both ends of its range.
    """

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=False, allow_inf_nan=False)


def key(default: Any, help: str, expected: str, example: Any = None, **limits: Any) -> Any:
    """A key of the file: default, one line of help, what would be right, an example for a default of None."""
    factory = {"default_factory": lambda: default.copy()} if isinstance(default, list | dict) else {"default": default}
    examples = None if example is None else [example]
    return Field(**factory, description=help, title=expected, examples=examples, **limits)
