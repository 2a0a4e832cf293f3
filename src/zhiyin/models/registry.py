"""The models the house knows by name, for the command line, the configuration and saved manifests.

Nothing is looked up by an arbitrary path: a manifest can name only what stands here or what the caller has registered.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from typing import TYPE_CHECKING, Any

from zhiyin.core.errors import ConfigError, MissingExtraError, nearest
from zhiyin.core.params import Param, check_settings, params_of, settings_of

if TYPE_CHECKING:
    from zhiyin.models.recommender import Recommender

_WHERE = {
    "Random": "random",
    "Popular": "popularity",
    "ItemKNN": "neighbors",
    "UserKNN": "neighbors",
    "RP3beta": "random_walk",
    "Transitions": "transitions",
    "EASE": "linear",
    "SLIM": "slim",
    "GraphFilter": "spectral",
    "ALS": "factorization",
    "BPR": "bpr",
    "BiasedMF": "ratings.biased_mf",
    "SVDpp": "ratings.svdpp",
    "TimeSVDpp": "ratings.timesvdpp",
    "BayesianFM": "ratings.bayesian_fm",
    "PureSVD": "svd",
    "Content": "content",
    "PopularInCategory": "content",
    "Hybrid": "hybrid",
    "Friends": "social",
    "SASRec": "sequence.sasrec",
    "HSTU": "sequence.hstu",
    "GRU4Rec": "sequence.gru4rec",
    "NARM": "sequence.narm",
    "Caser": "sequence.caser",
    "NeuMF": "neumf",
    "MultVAE": "autoencoder",
    "LightGCN": "graph",
    "UltraGCN": "ultragcn",
    "TwoTower": "two_tower",
}
# The one recommender of a floor above; named here so that it is made and loaded like all others.
_ABOVE = {"Pipeline": "zhiyin.pipeline.pipeline"}
_DEEP = ("SASRec", "HSTU", "GRU4Rec", "NARM", "Caser", "NeuMF", "MultVAE", "LightGCN", "UltraGCN", "TwoTower")
_registered: dict[str, type[Recommender]] = {}


def register(model: type[Recommender]) -> type[Recommender]:
    """Make a model of your own known by its name; use it as a decorator."""
    _registered[model.__name__] = model
    return model


def names() -> list[str]:
    """Names of all known models."""
    return [*_WHERE, *_ABOVE, *_registered]


def model_class(name: str) -> type[Recommender]:
    """The class of a model, by its name in any case. Raises ConfigError with the nearest known name."""
    known = {known.lower(): known for known in names()}
    found = known.get(name.lower())
    if found is None:
        raise ConfigError(f"there is no model {name!r}", remedy=nearest(name, names()))
    if found in _registered:
        return _registered[found]
    try:
        return getattr(importlib.import_module(_ABOVE.get(found) or f"zhiyin.models.{_WHERE[found]}"), found)
    except ModuleNotFoundError as error:
        if found in _DEEP and error.name == "torch":
            raise MissingExtraError("torch", "deep", found) from None
        raise


def make(name: str, settings: dict[str, Any] | None = None) -> Recommender:
    """A model by name, with checked settings."""
    owner = model_class(name)
    return owner(**check_settings(owner, settings or {}))


def parse(text: str, settings: dict[str, Any] | None = None) -> Recommender:
    """A model written on a command line: "als", "als:factors=128,reg=0.1". `settings` are overruled by the text.

    A value with commas in it stands in brackets: "pipeline:sources=[als:factors=64,reg=1; itemknn]".

    Raises ConfigError for an unknown model or hyperparameter, or a value out of its range.
    """
    name, _, rest = text.partition(":")
    owner = model_class(name.strip())
    known, chosen = params_of(owner), dict(settings or {})
    for part in filter(None, _BETWEEN.split(rest)):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"cannot read {part!r} in {text!r}", remedy="write name=value, such as als:factors=128")
        key, value = key.strip(), value.strip()
        if value.startswith("[") and value.endswith("]"):
            value = value[1:-1]
        if key not in known:
            raise ConfigError(
                f"{owner.__name__} has no hyperparameter {key!r}", remedy=nearest(key, list(known) or ["none"])
            )
        chosen[key] = known[key].parse(value.strip(), owner.__name__)
    return owner(**check_settings(owner, chosen))


# Commas outside of brackets.
_BETWEEN = re.compile(r",\s*(?![^\[\]]*\])")


def hyperparameters() -> dict[str, dict[str, Param]]:
    """Of every model that can be made here: networks need an extra that may not be installed."""
    found = {}
    for name in names():
        with contextlib.suppress(MissingExtraError):
            found[name] = params_of(model_class(name))
    return found


def label(model: Recommender) -> str:
    """Name of a model with the settings that are not its defaults: "ALS(factors=128)"."""
    values = {p.name: getattr(model, p.name) for p in params_of(type(model)).values()
              if getattr(model, p.name) != p.default}  # fmt: skip
    changed = [f"{name}=[{value}]" if "," in str(value) else f"{name}={value}" for name, value in values.items()]
    return type(model).__name__ + (f"({', '.join(changed)})" if changed else "")


def written(model: Any) -> str:
    """A model as it is written on a command line: name and the settings that are not its defaults."""
    declared = params_of(type(model))
    changed = [
        f"{name}={_text(value)}" for name, value in settings_of(model).items() if value != declared[name].default
    ]
    return type(model).__name__.lower() + (f":{','.join(changed)}" if changed else "")


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"[{value}]" if "," in str(value) else str(value)
