"""Hyperparameters, declared once.

A hyperparameter is a dataclass field made by `param`. The constructor, the configuration file, the command line, the
tuner, the docs and the saved manifest all read that one field:

    @dataclass
    class EASE(Recommender):
        reg: float = param(250.0, "L2 penalty; more for sparser data", at_least=0, tune=(10, 5000), log=True)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from typing import Any, Self, get_type_hints

import numpy as np

from zhiyin.core.booleans import to_boolean
from zhiyin.core.durations import is_duration, microseconds
from zhiyin.core.errors import ConfigError, suggest

# Bounds of hyperparameters that declare none: kernels compute with int32 codes and float32 numbers.
MAX_INT, MAX_FLOAT = 2**31 - 1, float(np.finfo(np.float32).max)


def whole_number(value: Any, name: str = "value", *, at_least: int | None = 1, at_most: int | None = None) -> int:
    """A whole number as a Python int: an int, a NumPy integer, a 0-d array of one, or a float without a fraction.

    Raises ConfigError that names `name` and the range for anything else: True, 1.5, NaN, texts, arrays, None.

    >>> whole_number(np.int64(5), "k")
    5
    """
    number = _number(value)
    if number is None or (isinstance(number, float) and not number.is_integer()):  # so are infinity and NaN
        raise ConfigError(f"{name} = {shortened(value)} is not a whole number", remedy=_whole_range(at_least, at_most))
    number = int(number)
    if (at_least is not None and number < at_least) or (at_most is not None and number > at_most):
        raise ConfigError(f"{name} = {shortened(value)} is out of range", remedy=_whole_range(at_least, at_most))
    return number


def list_length(k: Any, name: str = "k") -> int:
    """The number of items, users or places that is asked for: a whole number of at least 1. Raises ConfigError."""
    return k if type(k) is int and k >= 1 else whole_number(k, name)


def _whole_range(at_least: int | None, at_most: int | None) -> str:
    if at_least is not None and at_most is not None:
        return f"a whole number from {at_least:,} to {at_most:,}"
    if at_least is not None:
        return f"a whole number of at least {at_least:,}"
    return "a whole number" if at_most is None else f"a whole number of at most {at_most:,}"


def _number(value: Any) -> int | float | None:
    """The Python number that a value is, NumPy scalars and 0-d arrays unpacked; None for what is not one number."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.item() if value.ndim == 0 and value.dtype.kind in "iuf" else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def shortened(value: Any) -> str:
    """How a message shows a value: its `repr`, cut after 40 characters."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= 40 else text[:37] + "..."


@dataclasses.dataclass(frozen=True)
class Param:
    """One hyperparameter: `kind` is int, float, bool, str or duration; `tune` the range a tuner searches.

    A number without a declared upper bound may be at most MAX_INT or MAX_FLOAT; infinity and NaN are never numbers.
    """

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
        if isinstance(value, np.generic | np.ndarray) and value.ndim == 0 and value.dtype.kind in "biufU":
            value = value.item()
        text = f"{owner}: {self.name} = {shortened(value)}"
        try:
            if isinstance(value, bool) != (self.kind == "bool"):
                raise ValueError
            if self.kind == "int":
                value = _whole(value)
            elif self.kind == "float":
                value = _real(value)
            elif self.kind == "duration":
                microseconds(str(value))
            elif self.kind == "str":
                value = str(value)
        except (TypeError, ValueError, ConfigError):
            raise ConfigError(f"{text} is not {_A[self.kind]}", remedy=self.describe()) from None
        low, high = self.range
        too_low = low is not None and value < low
        too_high = high is not None and value > high
        if too_low or too_high or (self.choices and value not in self.choices):
            ends = f", from {low:.10g} to {high:.10g}" if low is not None and high is not None else ""
            raise ConfigError(f"{text} is out of range{ends}", remedy=self.describe())
        return float(value) if self.kind == "float" else value

    @property
    def range(self) -> tuple[float | None, float | None]:
        """The least and the largest value that a number may have; None: no such bound, or no number."""
        low, high = self.at_least, self.at_most
        if self.kind == "float":
            return (-MAX_FLOAT if low is None else low), (MAX_FLOAT if high is None else high)
        if self.kind == "int":
            return (-MAX_INT if low is None else low), (MAX_INT if high is None else high)
        return low, high

    def parse(self, text: str, owner: str) -> Any:
        """The value of this hyperparameter written as text on a command line."""
        if self.optional and text.lower() in ("none", "null", ""):
            return None
        value: Any = text
        if self.kind == "bool":
            with contextlib.suppress(ValueError):
                value = to_boolean(text)
        elif self.kind in ("int", "float"):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):  # not JSON, or more digits than Python reads
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
    """A whole number, also of a text such as "64" or "64.0". Raises ValueError or ConfigError."""
    if isinstance(value, str):
        value = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
    return whole_number(value, at_least=None)


def _real(value: Any) -> int | float:
    """A finite number, also of a text. Raises ValueError or TypeError. Not yet a float: an int may be beyond all."""
    number = _number(float(value) if isinstance(value, str) else value)
    if number is None:
        raise TypeError
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError
    return number


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
    params = {}
    for field in dataclasses.fields(owner):
        if "param" not in field.metadata:
            continue
        hint = str(hints[field.name])
        kind = hints[field.name].__name__ if isinstance(hints[field.name], type) else hint.split(" |")[0]
        declared = field.metadata["param"]
        if kind == "str" and is_duration(declared["tune"][-1] if declared["tune"] else field.default):
            kind = "duration"
        params[field.name] = Param(field.name, kind, "None" in hint, field.default, **declared)
    return params


class Parameterized:
    """scikit-learn's interface to the hyperparameters of a dataclass, as `sklearn.base.clone` uses it."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Hyperparameters by name. `deep` is there for scikit-learn: no hyperparameter holds another model."""
        return settings_of(self)

    def set_params(self, **params: Any) -> Self:
        """Set hyperparameters; returns self. `fit` checks their values, as those of the constructor.

        Raises ConfigError for an unknown name, with the nearest known one.
        """
        names = list(params_of(type(self)))
        for name in params:
            if name not in names:
                remedy = suggest(name, names or ["none"])
                raise ConfigError(f"{type(self).__name__} has no hyperparameter {name!r}", remedy=remedy)
        for name, value in params.items():
            setattr(self, name, value)
        return self


def settings_of(model: Any) -> dict[str, Any]:
    """The values of a model's hyperparameters, by name."""
    return {name: getattr(model, name) for name in params_of(type(model))}


def check_settings(owner: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings checked and in their own types. Raises ConfigError for an unknown name, with the nearest known one."""
    params = params_of(owner)
    for name in settings:
        if name not in params:
            raise ConfigError(
                f"{owner.__name__} has no hyperparameter {name!r}", remedy=suggest(name, list(params) or ["none"])
            )
    return {name: params[name].check(value, owner.__name__) for name, value in settings.items()}
