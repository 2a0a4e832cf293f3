"""The rankers the house knows by name, for the command line, the configuration and saved manifests.

Nothing is looked up by an arbitrary path: a manifest can name only what stands here or what the caller has registered.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from zhiyin.core.errors import ConfigError, MissingExtraError, nearest
from zhiyin.core.params import check_settings, params_of

if TYPE_CHECKING:
    from zhiyin.ranking.ranker import Ranker

_WHERE = {
    "Trees": "trees",
    "FM": "fm",
    "DeepFM": "deepfm",
    "DCNv2": "dcn",
    "DIN": "din",
    "MultiTask": "multitask",
}
_DEEP = ("FM", "DeepFM", "DCNv2", "DIN", "MultiTask")
_registered: dict[str, type[Ranker]] = {}


def register(ranker: type[Ranker]) -> type[Ranker]:
    """Make a ranker of your own known by its name; use it as a decorator."""
    _registered[ranker.__name__] = ranker
    return ranker


def names() -> list[str]:
    """Names of all known rankers."""
    return [*_WHERE, *_registered]


def ranker_class(name: str) -> type[Ranker]:
    """The class of a ranker, by its name in any case. Raises ConfigError with the nearest known name."""
    known = {known.lower(): known for known in names()}
    found = known.get(name.lower())
    if found is None:
        raise ConfigError(f"there is no ranker {name!r}", remedy=nearest(name, names()))
    if found in _registered:
        return _registered[found]
    try:
        return getattr(importlib.import_module(f"zhiyin.ranking.{_WHERE[found]}"), found)
    except ModuleNotFoundError as error:
        if found in _DEEP and error.name == "torch":
            raise MissingExtraError("torch", "deep", found) from None
        raise


def make(name: str, settings: dict[str, Any] | None = None) -> Ranker:
    """A ranker by name, with checked settings."""
    owner = ranker_class(name)
    return owner(**check_settings(owner, settings or {}))


def parse(text: str, settings: dict[str, Any] | None = None) -> Ranker:
    """A ranker written on a command line: "trees", "deepfm:factors=8,epochs=3". `settings` are overruled by the text.

    Raises ConfigError for an unknown ranker or hyperparameter, or a value out of its range.
    """
    name, _, rest = text.partition(":")
    owner = ranker_class(name.strip())
    known, chosen = params_of(owner), dict(settings or {})
    for part in filter(None, re.split(r",\s*", rest)):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"cannot read {part!r} in {text!r}", remedy="write name=value, such as trees:leaves=63")
        key = key.strip()
        if key not in known:
            raise ConfigError(f"{owner.__name__} has no hyperparameter {key!r}", remedy=nearest(key, list(known)))
        chosen[key] = known[key].parse(value.strip(), owner.__name__)
    return owner(**check_settings(owner, chosen))


def load(path: Any, *, mmap: bool = True) -> Ranker:
    """Read a ranker from the folder that its `save` wrote."""
    from zhiyin.ranking.ranker import load as read

    return read(path, mmap=mmap)


def label(ranker: Ranker) -> str:
    """Name of a ranker with the settings that are not its defaults: "Trees(leaves=63)"."""
    changed = [f"{p.name}={getattr(ranker, p.name)}" for p in params_of(type(ranker)).values()
               if getattr(ranker, p.name) != p.default]  # fmt: skip
    return type(ranker).__name__ + (f"({', '.join(changed)})" if changed else "")
