"""Features of actions, slots and contexts as a request gives them: nested JSON, read into named numbers.

`{"genre": "drama", "price": 9.5, "stock": {"new": true}}` is read as `{"genre=drama": 1, "price": 9.5,
"stock.new=true": 1}`. A number is itself, a text or a boolean is a name of its own with the value 1, null is left out,
an object is a namespace, a list of texts holds several categories, a list of numbers is numbered. Named numbers are
features too, and are read as themselves.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

# Features in all; names of one object; values of one list; objects of a list of them; levels of namespaces.
MAX_FEATURES, MAX_FEATURE_NAMES, MAX_FEATURE_VALUES, MAX_FEATURE_OBJECTS, MAX_FEATURE_DEPTH = 200, 100, 100, 20, 4
MAX_FEATURE_NAME_CHARS, MAX_FEATURE_TEXT_CHARS = 128, 512
# Larger numbers are refused: they are mistakes, or want to be texts.
MAX_FEATURE_NUMBER = 1e15
# Between the names of namespaces, and between a name and its text.
NAMESPACE, EQUALS = ".", "="


def named_numbers(features: Any) -> dict[str, float]:
    """Features as numbers by name, sorted by name; numbers of one name are added.

    Raises ValueError for what no feature may be, and for more than MAX_FEATURES.

    >>> named_numbers({"genre": ["drama", "war"], "stock": {"new": True, "left": 3}, "size": [1, 0.5], "x": None})
    {'genre=drama': 1.0, 'genre=war': 1.0, 'size.0': 1.0, 'size.1': 0.5, 'stock.left': 3.0, 'stock.new=true': 1.0}
    """
    numbers: dict[str, float] = {}
    parts = features if isinstance(features, list) else [features]
    if len(parts) > MAX_FEATURE_OBJECTS:
        raise ValueError(f"{len(parts):,} objects: at most {MAX_FEATURE_OBJECTS}")
    for part in parts:
        if not isinstance(part, dict):
            raise ValueError('is an object of features, such as {"genre": "drama", "price": 9.5}, or a list of them')
        _read_object(part, "", 1, numbers)
    return dict(sorted(numbers.items()))


def _read_object(features: dict[Any, Any], prefix: str, depth: int, numbers: dict[str, float]) -> None:
    if depth > MAX_FEATURE_DEPTH:
        raise ValueError(f"namespaces are at most {MAX_FEATURE_DEPTH} deep")
    if len(features) > MAX_FEATURE_NAMES:
        raise ValueError(f"an object has {len(features):,} names: at most {MAX_FEATURE_NAMES}")
    for name, value in features.items():
        if not isinstance(name, str) or not name or len(name) > MAX_FEATURE_NAME_CHARS:
            raise ValueError(f"a name of a feature has 1 to {MAX_FEATURE_NAME_CHARS} characters")
        _check_unicode(name)
        place = prefix + name
        if isinstance(value, dict):
            _read_object(value, place + NAMESPACE, depth + 1, numbers)
        elif isinstance(value, list):
            if len(value) > MAX_FEATURE_VALUES:
                raise ValueError(f"{place[:80]}: a list of {len(value):,} values: at most {MAX_FEATURE_VALUES}")
            for number, one in enumerate(value):
                if isinstance(one, dict | list):
                    raise ValueError(f"{place[:80]}: a list holds texts, numbers and booleans")
                is_number = isinstance(one, int | float) and not isinstance(one, bool)
                _read_value(f"{place}{NAMESPACE}{number}" if is_number else place, one, numbers)
        else:
            _read_value(place, value, numbers)


def _read_value(place: str, value: Any, numbers: dict[str, float]) -> None:
    if value is None:
        return
    number = 1.0
    if isinstance(value, bool):
        place = f"{place}{EQUALS}{str(value).lower()}"
    elif isinstance(value, str):
        if len(value) > MAX_FEATURE_TEXT_CHARS:
            raise ValueError(f"{place[:80]}: a text has at most {MAX_FEATURE_TEXT_CHARS} characters")
        _check_unicode(value)
        place = f"{place}{EQUALS}{value}"
    elif isinstance(value, int | float):
        if not -MAX_FEATURE_NUMBER <= value <= MAX_FEATURE_NUMBER:  # NaN is outside, too
            raise ValueError(f"{place[:80]}: a number is from {-MAX_FEATURE_NUMBER:g} to {MAX_FEATURE_NUMBER:g}")
        number = float(value)
    else:
        raise ValueError(f"{place[:80]}: a value is a number, a text, a boolean, null, a list or an object")
    numbers[place] = numbers.get(place, 0.0) + number
    if len(numbers) > MAX_FEATURES:
        raise ValueError(f"more than {MAX_FEATURES} features")
    if not math.isfinite(numbers[place]):
        raise ValueError(f"{place[:80]}: the numbers of this name are too large")


def _check_unicode(value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half a character") from None


def _checked(features: Any) -> Any:
    named_numbers(features)
    return features


def _object_schema(depth: int) -> dict[str, Any]:
    """JSON Schema of an object of features that has `depth` levels left."""
    number = {"type": "number", "minimum": -MAX_FEATURE_NUMBER, "maximum": MAX_FEATURE_NUMBER}
    text = {"type": "string", "maxLength": MAX_FEATURE_TEXT_CHARS}
    scalars: list[dict[str, Any]] = [number, text, {"type": "boolean"}, {"type": "null"}]
    values = [*scalars, {"type": "array", "maxItems": MAX_FEATURE_VALUES, "items": {"anyOf": scalars}}]
    return {
        "type": "object", "maxProperties": MAX_FEATURE_NAMES,
        "propertyNames": {"minLength": 1, "maxLength": MAX_FEATURE_NAME_CHARS},
        "additionalProperties": {"anyOf": values + ([_object_schema(depth - 1)] if depth > 1 else [])},
    }  # fmt: skip


_SCHEMA = {
    "anyOf": [
        _object_schema(MAX_FEATURE_DEPTH),
        {"type": "array", "maxItems": MAX_FEATURE_OBJECTS, "items": _object_schema(MAX_FEATURE_DEPTH)},
    ],
    "description": "An object of features, or a list of such objects. A value is a number, a text, a boolean, null "
    f"(left out), a list of them, or an object (a namespace). At most {MAX_FEATURES} features in all.",
}

# Features as numbers by name.
Features = Annotated[dict[str, float], PlainValidator(named_numbers), WithJsonSchema(_SCHEMA)]
# Features as they were given, checked.
RawFeatures = Annotated[dict[str, Any] | list[dict[str, Any]], PlainValidator(_checked), WithJsonSchema(_SCHEMA)]
