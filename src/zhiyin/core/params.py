"""Hyperparameters, declared once.

A hyperparameter is a dataclass field made by `param`. The constructor, the configuration file, the command line, the
tuner, the docs and the saved manifest all read that one field:

    @dataclass
    class EASE(Recommender):
        reg: float = param(250.0, "L2 penalty; more for sparser data", at_least=0, tune=(10, 5000), log=True)
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_type_hints

from zhiyin.core.durations import is_duration, microseconds
from zhiyin.core.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Param:
    """One hyperparameter: `kind` is int, float, bool, str or duration; `tune` the range a tuner searches."""

    name: str
    kind: str
    optional: bool
    default: Any
    help: str
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] | None = None
    tune: tuple[Any, ...] | None = None
    log: bool = False

    def check(self, value: Any, owner: str) -> Any:
        """The value in its own type. Raises ConfigError that names owner, field, value and what would be right."""
        if value is None and self.optional:
            return None
        try:
            if isinstance(value, bool) != (self.kind == "bool"):
                raise ValueError
            if self.kind in ("int", "float"):
                value = float(value) if self.kind == "float" else _whole(value)
                if value != value:
                    raise ValueError
            elif self.kind == "duration":
                microseconds(str(value))
            elif self.kind == "str":
                value = str(value)
        except (TypeError, ValueError, ConfigError):
            raise ConfigError(
                f"{owner}: {self.name} = {value!r} is not {_A[self.kind]}", remedy=self.describe()
            ) from None
        too_low = self.at_least is not None and value < self.at_least
        too_high = self.at_most is not None and value > self.at_most
        if too_low or too_high or (self.choices and value not in self.choices):
            raise ConfigError(f"{owner}: {self.name} = {value!r} is out of range", remedy=self.describe())
        return value

    def parse(self, text: str, owner: str) -> Any:
        """The value of this hyperparameter written as text on a command line."""
        if self.optional and text.lower() in ("none", "null", ""):
            return None
        value: Any = text
        if self.kind == "bool":
            value = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(
                text.lower(), text
            )
        elif self.kind in ("int", "float"):
            try:
                value = json.loads(text)
            except json.JSONDecodeError:
                value = text
        return self.check(value, owner)

    def describe(self) -> str:
        """Help, range and default in one line."""
        if self.choices:
            allowed = "one of " + ", ".join(self.choices)
        else:
            low = f" >= {self.at_least:g}" if self.at_least is not None else ""
            high = f" <= {self.at_most:g}" if self.at_most is not None else ""
            allowed = self.kind + low + high
        optional = " or none" if self.optional else ""
        return f"{self.name}: {self.help} ({allowed}{optional}; default {self.default})"


_A = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "duration": "a duration"}


def _whole(value: Any) -> int:
    number = float(value)
    if number != int(number):
        raise ValueError
    return int(number)


def param(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] | None = None,
    tune: tuple[Any, ...] | None = None,
    log: bool = False,
) -> Any:
    """Declare a hyperparameter: its default, one line of help, its valid range, and the range a tuner searches."""
    declared = {
        "help": help,
        "at_least": at_least,
        "at_most": at_most,
        "choices": choices,
        "tune": tune,
        "log": log,
    }
    return dataclasses.field(default=default, metadata={"param": declared})


def params_of(owner: type) -> dict[str, Param]:
    """The hyperparameters a class declares, by name, in order."""
    hints = get_type_hints(owner)
    found = {}
    for field in dataclasses.fields(owner):
        if "param" not in field.metadata:
            continue
        hint = str(hints[field.name])
        kind = hints[field.name].__name__ if isinstance(hints[field.name], type) else hint.split(" |")[0]
        declared = field.metadata["param"]
        if kind == "str" and is_duration(declared["tune"][-1] if declared["tune"] else field.default):
            kind = "duration"
        found[field.name] = Param(field.name, kind, "None" in hint, field.default, **declared)
    return found


def settings_of(model: Any) -> dict[str, Any]:
    """The values of a model's hyperparameters, by name."""
    return {name: getattr(model, name) for name in params_of(type(model))}


def check_settings(owner: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings checked and in their own types. Raises ConfigError for an unknown name, with the nearest known one."""
    known = params_of(owner)
    for name in settings:
        if name not in known:
            raise ConfigError(
                f"{owner.__name__} has no hyperparameter {name!r}", remedy=nearest(name, list(known) or ["none"])
            )
    return {name: known[name].check(value, owner.__name__) for name, value in settings.items()}
