"""Settings of all lists: rules, diversity and context of the settings file, as arguments of `Answers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from zhiyin.core.errors import ConfigError, closest_name
from zhiyin.data.project_config import Config, load_config
from zhiyin.pipeline.rules import Rules

_TYPES: dict[str, type] = {"text": str, "number": float, "bool": bool}


def load_answer_settings(config: Path, types: dict[str, type] | None = None) -> dict[str, Any]:
    """Rules, diversity and context of a settings file, if it exists. types: of further context columns, by name."""
    if not config.is_file():
        return {"context": dict(types or {})}
    return answer_settings(load_config(config), config, types)


def answer_settings(settings: Config, file: Path | None = None, types: dict[str, type] | None = None) -> dict[str, Any]:
    """As `load_answer_settings`, from parsed settings. Raises ConfigError that names the file."""
    try:
        rules = Rules.from_dict(settings.rules)
    except ConfigError as error:
        error.file = file
        raise
    return _options(settings, rules, types)


def usable_answer_settings(settings: Config) -> tuple[dict[str, Any], dict[str, ConfigError]]:
    """As `answer_settings`, with the rules that are valid, and the error of each other one by key."""
    rules, wrong = Rules(), {}
    for key, value in settings.rules.items():
        try:
            rules = dataclasses.replace(rules, **{key: getattr(Rules.from_dict({key: value}), key)})
        except ConfigError as error:
            wrong[key] = error
    return _options(settings, rules), wrong


def _options(settings: Config, rules: Rules, types: dict[str, type] | None = None) -> dict[str, Any]:
    section = settings.answers
    declared = {name: _TYPES[word] for name, word in section.context.items()}
    return {
        "rules": rules, "variety": section.variety, "balance": section.balance, "by": section.categories,
        "context": (types or {}) | declared,
    }  # fmt: skip


MATCHES_NOTHING = "FALSE"
# Stands for all rules, where [rules] is no table.
ALL = "rules"


def usable_rules(rules: Rules, bind: Callable[[Rules], object]) -> tuple[Rules, dict[str, str]]:
    """The rules that fit a catalogue, and by name why the others do not.

    A rule that arranges lists is left out. Where one that restricts lists cannot be used, nothing may be listed: items
    that the rule excludes would be worse than an empty list.

    bind: raises ConfigError for rules that do not fit the catalogue.
    """
    wrong: dict[str, str] = {}
    plain = Rules()
    restricting = Rules.restricting()
    for name in sorted(_rule_names(), key=lambda name: name not in restricting):
        try:
            bind(dataclasses.replace(plain, **{name: getattr(rules, name)}))
        except ConfigError as error:
            wrong[name] = error.message.splitlines()[0]
            rules = dataclasses.replace(rules, **{name: getattr(plain, name)})
    if hides_everything(wrong):
        rules = dataclasses.replace(rules, filter=MATCHES_NOTHING)
    return rules, wrong


def hides_everything(wrong: Iterable[str]) -> bool:
    """Whether unusable rules, by name, hide all items.

    They do where one of them restricts lists, is a misspelt name of one that does, or is `ALL`.
    """
    known, restricting = _rule_names(), Rules.restricting()
    return any(name == ALL or (name if name in known else closest_name(name, known)) in restricting for name in wrong)


def _rule_names() -> list[str]:
    return [field.name for field in dataclasses.fields(Rules)]
