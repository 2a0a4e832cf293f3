"""The rules of the house: what the settings file says of every list, as `Answers` takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zhiyin.core.errors import ConfigError
from zhiyin.data.config import Config, load_config
from zhiyin.pipeline.rules import Rules

_TYPES: dict[str, type] = {"text": str, "number": float, "bool": bool}


def house(config: Path, types: dict[str, type] | None = None) -> dict[str, Any]:
    """Rules, variety and context of a settings file, if there is one. `types`: of what else requests bring."""
    if not config.is_file():
        return {"context": dict(types or {})}
    return house_of(load_config(config), config, types)


def house_of(settings: Config, file: Path | None = None, types: dict[str, type] | None = None) -> dict[str, Any]:
    """As `house`, of settings that were read. Raises ConfigError that names the file."""
    try:
        rules = Rules.from_dict(settings.rules)
    except ConfigError as error:
        error.file = file
        raise
    section = settings.answers
    declared = {name: _TYPES[word] for name, word in section.context.items()}
    return {
        "rules": rules, "variety": section.variety, "balance": section.balance, "by": section.categories,
        "context": (types or {}) | declared,
    }  # fmt: skip
