"""Writing of a settings file in which every key is described and shows its default."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhiyin.core.atomic_files import write_whole
from zhiyin.core.params import Param
from zhiyin.data.project_config.config import NESTED_SECTIONS, Config
from zhiyin.data.project_config.section import Section

_EXAMPLE_WEIGHTS = {"view": 1, "cart": 3, "purchase": 5, "dislike": -1, "rating >= 4": 1}

_EXAMPLE_RULES = [
    '# filter = "price < 50 AND NOT adult"',
    '# stock = "in_stock"',
    '# dedupe = "variant_of"',
    '# bought = { purchase = "never", view = "7d" }',
    '# boosts = [{ when = "margin > 0.3", multiply = 1.2 }]',
    '# caps = [{ per = "seller", at_most = 2 }]',
]

_EXAMPLE_EXPERIMENT = [
    "# [experiments.prices]",
    '# placement = "basket"',
    '# arms = { control = {}, cheaper = { placement = "basket-cheaper" } }',
    '# guardrails = [{ metric = "purchases", margin = 0.05 }]',
]


def write_config(
    path: str | Path, config: Config | None = None, hyperparameters: Mapping[str, Mapping[str, Param]] | None = None
) -> Path:
    """Write a configuration file in which every key is described and shows its default.

    Keys that `config` does not set are written as comments with their defaults.

    Parameters
    ----------
    hyperparameters: by model, as `params_of` gives them; their tables are written out too.
    """
    config = config or Config()
    lines = [
        "# Settings of a Zhiyin project. A line with # shows a default or an example: uncomment it to set it",
        "# Paths are taken from the folder of this file.",
    ]
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if name == "weights":
            lines += ["", f"# {field.description}", f"[{name}]"]
            lines += [f"{_toml_key(text)} = {_toml(weight)}" for text, weight in value.items()]
            lines += [] if value else [f"# {_toml_key(text)} = {weight}" for text, weight in _EXAMPLE_WEIGHTS.items()]
        elif name == "rules":
            lines += ["", f"# {field.description}", "[rules]"]
            lines += [f"{_toml_key(text)} = {_toml(rule)}" for text, rule in value.items()]
            lines += [] if value else _EXAMPLE_RULES
        elif name == "placements":
            lines += ["", f"# {field.description}"]
            if not value:
                lines += ["# [placements.basket]", '# filter = "price < 20"', '# diversity = "mmr"']
            for placement, settings in value.items():
                lines += ["", f"[placements.{_toml_key(placement)}]"]
                lines += [f"{_toml_key(text)} = {_toml(setting)}" for text, setting in settings.items()]
        elif name == "experiments":
            lines += ["", f"# {field.description}"]
            lines += [] if value else _EXAMPLE_EXPERIMENT
            for experiment, settings in value.items():
                lines += ["", f"[experiments.{_toml_key(experiment)}]"]
                lines += [f"{_toml_key(text)} = {_toml(setting)}" for text, setting in settings.items()]
        elif name in NESTED_SECTIONS:
            for table in type(value).model_fields:
                inner = getattr(value, table)
                lines += ["", f"# {(type(inner).__doc__ or '').strip()}", f"[{name}.{table}]"]
                lines += _section_lines(inner)
        elif name == "models":
            lines += _model_tables(value, hyperparameters or {}, field.description or "")
        else:
            lines += ["", f"# {(type(value).__doc__ or '').strip()}", f"[{name}]"]
            lines += _section_lines(value)
    path = Path(path)
    write_whole(path, "\n".join(lines) + "\n")
    return path


def _section_lines(section: Section) -> list[str]:
    lines = []
    for name, field in type(section).model_fields.items():
        value, default = getattr(section, name), field.get_default(call_default_factory=True)
        lines.append(f"# {field.description} (default: {'none' if default is None else _toml(default)})")
        if value is not None and (value != default or name in section.model_fields_set):
            lines.append(f"{name} = {_toml(value)}")
        else:
            example = field.examples[0] if default is None and field.examples else default
            lines.append(f"# {name} = {_toml(example)}")
    return lines


def _model_tables(
    models: Mapping[str, Mapping[str, Any]], hyperparameters: Mapping[str, Mapping[str, Param]], description: str
) -> list[str]:
    lines = ["", f"# {description}"]
    if not models and not hyperparameters:
        lines += ["# [models.EASE]", "# reg = 250.0"]
    for model in dict.fromkeys([*models, *hyperparameters]):
        settings = dict(models.get(model, {}))
        lines += ["", f"[models.{_toml_key(model)}]"]
        for name, declared in hyperparameters.get(model, {}).items():
            lines.append(f"# {declared.describe().removeprefix(f'{name}: ')}")
            if name in settings:
                lines.append(f"{name} = {_toml(settings.pop(name))}")
            else:
                lines.append(f"# {name} = {'...' if declared.default is None else _toml(declared.default)}")
        lines += [f"{_toml_key(name)} = {_toml(value)}" for name, value in settings.items()]
    return lines


def _toml_key(text: str) -> str:
    """A key as TOML writes it: bare where it may be."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _toml(text)


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(str(name))} = {_toml(part)}" for name, part in value.items()) + " }"
    if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
