"""Errors a person can act on: each says where it happened and what to do about it."""

from __future__ import annotations


class ZhiyinError(Exception):
    """Base of every error raised on purpose.

    Parameters
    ----------
    message: what is wrong, in one sentence.
    file, row, column: where, as far as known. `row` is the line of the file, counted from 1.
    remedy: what to do about it.

    `silent`: whether another process of the same work prints it.
    """

    silent: bool = False

    def __init__(
        self,
        message: str,
        *,
        file: object = None,
        row: int | None = None,
        column: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.message, self.file, self.row, self.column, self.remedy = message, file, row, column, remedy
        super().__init__(message)

    def __str__(self) -> str:
        parts = [
            str(self.file) if self.file is not None else "",
            f"line {self.row}" if self.row is not None else "",
            f"column {self.column!r}" if self.column is not None else "",
        ]
        where = ", ".join(part for part in parts if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}\n  What to do: {self.remedy}" if self.remedy else text


def in_one_line(error: BaseException) -> str:
    """The text of an error, with its remedy where it has one, for a line of a log."""
    return str(error).replace("\n  What to do: ", "; ")


class DataError(ZhiyinError):
    """The events, items or users cannot be read."""


class ConfigError(ZhiyinError):
    """A setting or hyperparameter is unknown or out of its range."""


class NotFittedError(ZhiyinError):
    """A model was used before it was fitted."""


class EngineError(ZhiyinError):
    """A cluster cannot be reached, or a job on it failed."""


class UnknownItemError(ZhiyinError):
    """An item was requested that the model does not know."""


class MissingExtraError(ZhiyinError):
    """An optional dependency is needed that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed", remedy=f"pip install 'zhiyin[{extra}]'")


def closest_name(word: str, names: list[str]) -> str | None:
    """The known name that a mistyped one is most likely to be; None where none is near."""
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def suggest(word: str, names: list[str]) -> str:
    """A remedy for a mistyped name: the nearest known one, or all of them when none is near."""
    name = closest_name(word, names)
    return f"did you mean {name!r}?" if name else "known: " + ", ".join(names)
