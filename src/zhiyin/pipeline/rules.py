"""Rules of lists as the settings file has them: which items may be shown, which are boosted, what gets which slot.

    [rules]
    filter = "price < 50 AND NOT adult"
    stock = "in_stock"
    dedupe = "variant_of"
    pins = { 1 = "sku-7" }
    bought = { purchase = "never", view = "7d" }
    boosts = [{ when = "margin > 0.3", multiply = 1.2 }]
    caps = [{ per = "seller", at_most = 2, first = 10 }]
    shares = [{ of = "is_new", at_least = 0.2 }]

A `rulebook.Rulebook` checks them against a catalogue and applies them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from zhiyin.core.durations import microseconds
from zhiyin.core.errors import ConfigError, suggest
from zhiyin.core.limits import MAX_ITEMS
from zhiyin.core.params import param, params_of, shortened

# The longest window of a frequency cap.
MAX_WINDOW_SECONDS = 90 * 86_400.0


@dataclasses.dataclass(frozen=True)
class Boost:
    """More or less score for some items. A factor above 1 always helps, also where scores are negative."""

    when: str = param("", "for which items; empty: for all")
    multiply: str = param("1", "factor above 0: a number or an expression; where it is NULL the score stays")
    add: str = param("0", "added after that: a number or an expression")


@dataclasses.dataclass(frozen=True)
class CapRule:
    """At most so many items of one group."""

    per: str = param("", "column of the group; an item counts for each value of a multi-valued one, for none if NULL")
    at_most: int = param(2, "items of one group", at_least=1)
    first: int = param(0, "look at the first so many slots only; 0: at all", at_least=0)
    strict: bool = param(False, "rather a short list than one more")


@dataclasses.dataclass(frozen=True)
class Share:
    """A part of the slots for some items."""

    of: str = param("", "condition, such as seller = 'small'")
    at_least: float = param(0.2, "share of the slots, rounded up", at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class Frequency:
    """How often an item is shown to the same user."""

    at_most: int = param(3, "times", at_least=1)
    window: str = param("7d", "within this time, from 1s to 90d")

    @property
    def seconds(self) -> float:
        """The window. Raises ConfigError where it is none."""
        seconds = microseconds(self.window) / 1e6
        if not 1 <= seconds <= MAX_WINDOW_SECONDS:
            raise ConfigError(f"window = {self.window!r} is out of range", remedy="a time from 1s to 90d, such as 7d")
        return seconds


@dataclasses.dataclass(frozen=True)
class Rotation:
    """Another order at another visit, the same within one."""

    strength: float = param(0.2, "0: none; place r comes first with weight r^(-1/strength)", at_least=0, at_most=10)
    keep: int = param(0, "first places that stay", at_least=0)
    every: str = param("1d", "a visit, where requests do not number them")


@dataclasses.dataclass(frozen=True)
class Exposure:
    """A part of the exposure for a group, over many lists; see `exposure`."""

    of: str = param("", "condition that tells the group")
    target: float = param(0.1, "share of exposure, at least", at_least=0, at_most=1)
    gain: float = param(1.0, "how hard a deficit pushes, in spreads of score a missing list", at_least=0)
    half_life: str = param("7d", "after this time a list counts half, from 1m to 365d")

    @property
    def seconds(self) -> float:
        """The half-life. Raises ConfigError where it is none."""
        seconds = microseconds(self.half_life) / 1e6
        if not 60 <= seconds <= 365 * 86_400:
            raise ConfigError(f"half_life = {self.half_life!r} is out of range", remedy="from 1m to 365d, such as 7d")
        return seconds


def _restricting(default: Any) -> Any:
    """A field of `Rules` that restricts which items may be listed; the others arrange the list."""
    return dataclasses.field(default=default, metadata={"restricts": True})


_LISTS = {"boosts": Boost, "caps": CapRule, "shares": Share, "exposure": Exposure}
_TABLES = {"frequency": Frequency, "rotation": Rotation}


@dataclasses.dataclass(frozen=True)
class Rules:
    """Rules as they are written, with raw ids. Make one with `from_dict`.

    Parameters
    ----------
    filter: condition that every item must meet. include: where given, nothing else is shown. exclude: never shown.
    pins: raw item id by slot, from 1.
    dedupe: column of the variant; of equal ones the best stays. NULL equals nothing.
    bought: by kind of event: "never" again, or not within a time such as "7d"; "always" or no word: again at once.
    stock: column; items with more than 0, or true, are in stock. NULL is not.
    valid_from, valid_to: columns of dates or times; NULL is open. A date as the end includes the day.
    """

    filter: str = _restricting("")
    include: tuple[Any, ...] | None = _restricting(None)
    exclude: tuple[Any, ...] = _restricting(())
    pins: Mapping[int, Any] = dataclasses.field(default_factory=dict)
    boosts: tuple[Boost, ...] = ()
    caps: tuple[CapRule, ...] = ()
    shares: tuple[Share, ...] = ()
    dedupe: str = ""
    bought: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stock: str = _restricting("")
    valid_from: str = _restricting("")
    valid_to: str = _restricting("")
    frequency: Frequency | None = None
    rotation: Rotation | None = None
    exposure: tuple[Exposure, ...] = ()

    @classmethod
    def restricting(cls) -> list[str]:
        """Names of the rules that restrict which items may be listed."""
        return [field.name for field in dataclasses.fields(cls) if field.metadata.get("restricts")]

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Rules:
        """Rules of a table, such as `[rules]` of a TOML file.

        Raises ConfigError for an unknown key (with the nearest known one) and for a value that cannot be.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        values: dict[str, Any] = {}
        for key, value in table.items():
            place = f"rules.{key}"
            if key not in names:
                raise ConfigError(f"rules has no key {key!r}", remedy=suggest(key, names))
            if key in _LISTS:
                if not isinstance(value, list | tuple):
                    raise ConfigError(f"{place} is no list", remedy=f"write [[{place}]], or {key} = [{{ ... }}]")
                values[key] = tuple(_settings(_LISTS[key], part, f"{place}[{at}]") for at, part in enumerate(value))
                if key == "exposure":
                    _ = [target.seconds for target in values[key]]
            elif key in _TABLES:
                values[key] = _settings(_TABLES[key], value, place)
                if key == "frequency":
                    _ = values[key].seconds
            elif key in ("include", "exclude"):
                if isinstance(value, str) or not isinstance(value, list | tuple):
                    raise ConfigError(f"{place} is no list", remedy='a list of item ids such as ["a", "b"]')
                values[key] = tuple(value)
            elif key == "pins":
                values[key] = _pins(value, place)
            elif key == "bought":
                values[key] = _repeat_rules(value, place)
            elif isinstance(value, str):
                values[key] = value
            else:
                raise ConfigError(f"{place} = {value!r} is no text", remedy="write it in quotes")
        return cls(**values)


def _settings(owner: type, table: Any, place: str) -> Any:
    """One small table, checked."""
    params = params_of(owner)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place} is no table", remedy="keys: " + ", ".join(params))
    for key in table:
        if key not in params:
            raise ConfigError(f"{place} has no key {key!r}", remedy=suggest(str(key), list(params)))
    settings = owner(**{key: params[key].check(value, place) for key, value in table.items()})
    first = next(iter(params))
    if owner in (CapRule, Share, Exposure) and not getattr(settings, first):
        raise ConfigError(f"{place} needs {first!r}", remedy=params[first].describe())
    return settings


def _pins(value: Any, place: str) -> dict[int, Any]:
    try:
        pins = {int(slot): item for slot, item in value.items()}
    except (AttributeError, TypeError, ValueError):
        pins = {0: None}
    if any(not 1 <= slot <= MAX_ITEMS for slot in pins):
        remedy = f'an item by slot, from 1 to {MAX_ITEMS:,}: {{ 1 = "sku-7" }}'
        raise ConfigError(f"{place} = {shortened(value)} cannot be", remedy=remedy)
    if len({repr(item) for item in pins.values()}) < len(pins):
        raise ConfigError(f"{place} pins an item to two slots", remedy="name each item once")
    return pins


def _repeat_rules(value: Any, place: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place} is no table", remedy='write { purchase = "never", view = "7d" }')
    for kind, word in value.items():
        if word not in ("never", "always"):
            try:
                microseconds(str(word))
            except ConfigError:
                raise ConfigError(
                    f"{place}.{kind} = {word!r} cannot be", remedy='"never", "always", or a duration such as "7d"'
                ) from None
    return {str(kind): str(word) for kind, word in value.items()}
