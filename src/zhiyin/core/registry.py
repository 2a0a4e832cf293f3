"""Classes by name, for the command line, the configuration and saved manifests.

A name is never an import path: a text can name only the classes in the table of a registry and those that the caller
has registered.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from zhiyin.core.errors import ConfigError, MissingExtraError, suggest
from zhiyin.core.params import Param, check_settings, params_of, settings_of

T = TypeVar("T")

# Packages that the module of a class may import, and the extra that installs each.
_EXTRAS = {"torch": "deep", "lightgbm": "rank"}
_COMMA_OUTSIDE_BRACKETS = re.compile(r",\s*(?![^\[\]]*\])")


class Registry(Generic[T]):
    """Classes with hyperparameters, by name. Modules are imported when a class is first used.

    Parameters
    ----------
    kind: what the classes are, as error messages call one: "model".
    modules: the module of each class, below `zhiyin`: {"ALS": "models.als"}. It is read at each use.
    example: a specification that the error message of a malformed one shows: "als:factors=128".
    """

    def __init__(self, kind: str, modules: Mapping[str, str], example: str) -> None:
        self.kind, self.example = kind, example
        self._modules = modules
        self._registered: dict[str, type[T]] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Add a class of the caller's own under its name; usable as a decorator."""
        self._registered[cls.__name__] = cls
        return cls

    def names(self) -> list[str]:
        """Names of all classes: those of the table, then the registered ones."""
        return [*self._modules, *self._registered]

    def class_of(self, name: str) -> type[T]:
        """The class with this name, in any case.

        Raises ConfigError with the nearest name where there is none, MissingExtraError where its module needs a package
        that is not installed.
        """
        canonical = {names.lower(): names for names in self.names()}.get(name.lower())
        if canonical is None:
            raise ConfigError(f"there is no {self.kind} {name!r}", remedy=suggest(name, self.names()))
        if canonical in self._registered:
            return self._registered[canonical]
        try:
            return getattr(importlib.import_module(f"zhiyin.{self._modules[canonical]}"), canonical)
        except ModuleNotFoundError as error:
            if error.name in _EXTRAS:
                raise MissingExtraError(error.name, _EXTRAS[error.name], canonical) from None
            raise

    def make(self, name: str, settings: dict[str, Any] | None = None) -> T:
        """An instance by class name. Raises ConfigError for an unknown or invalid setting."""
        cls = self.class_of(name)
        return cls(**check_settings(cls, settings or {}))

    def parse(self, text: str, settings: dict[str, Any] | None = None) -> T:
        """An instance from its specification: "als", "als:factors=128,reg=0.1". The text overrules `settings`.

        A value that contains commas is written in brackets: "pipeline:sources=[als:factors=64,reg=1; itemknn]".

        Raises ConfigError for an unknown class or hyperparameter, or a value out of its range.
        """
        name, _, rest = text.partition(":")
        cls = self.class_of(name.strip())
        params, chosen = params_of(cls), dict(settings or {})
        for part in filter(None, _COMMA_OUTSIDE_BRACKETS.split(rest)):
            key, equals, value = part.partition("=")
            if not equals:
                remedy = f"write name=value, such as {self.example}"
                raise ConfigError(f"cannot read {part!r} in {text!r}", remedy=remedy)
            key, value = key.strip(), value.strip()
            if value.startswith("[") and value.endswith("]"):
                value = value[1:-1]
            if key not in params:
                remedy = suggest(key, list(params) or ["none"])
                raise ConfigError(f"{cls.__name__} has no hyperparameter {key!r}", remedy=remedy)
            chosen[key] = params[key].parse(value.strip(), cls.__name__)
        return cls(**check_settings(cls, chosen))

    def hyperparameters(self) -> dict[str, dict[str, Param]]:
        """Hyperparameters by class name, of every class whose packages are installed."""
        result = {}
        for name in self.names():
            with contextlib.suppress(MissingExtraError):
                result[name] = params_of(self.class_of(name))
        return result


def label(instance: Any) -> str:
    """The class name and the settings that are not the defaults, for tables and messages: "ALS(factors=128)"."""
    changed = [
        f"{name}=[{value}]" if "," in str(value) else f"{name}={value}"
        for name, value in _changed_settings(instance).items()
    ]
    return type(instance).__name__ + (f"({', '.join(changed)})" if changed else "")


def specification(instance: Any) -> str:
    """The text from which `Registry.parse` makes an equal instance: "als:factors=128"."""
    changed = [f"{name}={_value_text(value)}" for name, value in _changed_settings(instance).items()]
    return type(instance).__name__.lower() + (f":{','.join(changed)}" if changed else "")


def _changed_settings(instance: Any) -> dict[str, Any]:
    params = params_of(type(instance))
    return {name: value for name, value in settings_of(instance).items() if value != params[name].default}


def _value_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"[{value}]" if "," in str(value) else str(value)
