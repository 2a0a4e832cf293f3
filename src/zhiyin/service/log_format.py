"""Logs of the service: a line each, as JSON or as text, and nobody's data in them.

No ids of users or items, no keys, addresses or bodies: what an exception says may hold any of these, so a log tells its
kind and where it was raised, not its message. So may the lines of libraries: of those a log tells who wrote it, and
where. What is wrong with a setting is told in full, by who passes it on as a text: who runs the service wrote it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import traceback
from typing import Any

from zhiyin.core.errors import ConfigError

KINDS = ("json", "text")
# Innermost frames that are written of one exception.
MAX_FRAMES = 12
# Whose lines are known to hold nobody's data: our own, and what the web server says of its own start and end.
OURS, SERVER = "zhiyin", "uvicorn"
# The logger of Python's warnings; and the categories that are about code, whose texts hold no values.
WARNINGS = "py.warnings"
CODE_WARNINGS = frozenset({
    "DeprecationWarning", "PendingDeprecationWarning", "FutureWarning", "SyntaxWarning", "ImportWarning",
    "EncodingWarning",
})  # fmt: skip
access_log = logging.getLogger("zhiyin.access")
access_log.setLevel(logging.WARNING)  # until `configure` says otherwise: not for a service inside of another command
log = logging.getLogger("zhiyin")


def configure(kind: str = "text", access: bool = False) -> None:
    """Write the logs of this process to stderr. access: a line for each request, too.

    Raises ConfigError for a kind that is none. Give uvicorn `log_config=None, access_log=False`: its own lines hold
    addresses.
    """
    if kind not in KINDS:
        raise ConfigError(f"there are no logs of kind {kind!r}", remedy=f"one of {', '.join(KINDS)}")
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if kind == "json" else Text())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, Json):  # of a configuration before this one
            root.removeHandler(old)
    root.addHandler(handler)
    ours = logging.getLogger("zhiyin")
    for old in ours.handlers[:]:  # the command line's, which would say all that an error holds
        ours.removeHandler(old)
    ours.propagate = True
    ours.setLevel(logging.INFO)
    access_log.setLevel(logging.INFO if access else logging.WARNING)
    # Python itself would write the whole of an exception that nobody caught, past all logs.
    threading.excepthook = _thread_failed
    logging.captureWarnings(True)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None and not isinstance(failure.exc_value, SystemExit):
        log.error("service: a thread ended: %s", stack_of(failure.exc_value))


def loop_failed(_: Any, context: dict[str, Any]) -> None:
    """For `loop.set_exception_handler`: asyncio would write whole tasks and futures, with what they hold."""
    error = context.get("exception")
    log.error("service: an error in the background: %s", "no exception" if error is None else stack_of(error))


class Json(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(record_fields(record), ensure_ascii=False, separators=(",", ":"), default=str)


class Text(Json):
    """A record as a line for people."""

    def format(self, record: logging.LogRecord) -> str:
        fields = record_fields(record)
        head = f"{fields.pop('time')} {fields.pop('level')} {fields.pop('message')}"
        return " ".join([head, *(f"{name}={value}" for name, value in fields.items())])


def record_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a log tells of a record."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
    more = getattr(record, "zhiyin", None)
    fields = {"time": when, "level": record.levelname.lower(), "message": _message(record).replace("\n", " ")}
    if more is not None:
        fields |= more
    if record.exc_info and record.exc_info[1] is not None:
        fields["error"] = stack_of(record.exc_info[1])
    return fields


def _message(record: logging.LogRecord) -> str:
    """The message, with the kinds of exceptions in the places of what they say; of libraries only where it is from."""
    owner = record.name.partition(".")[0]
    if record.name == WARNINGS:
        return _warning_message(record)
    if owner not in (OURS, SERVER):
        return f"{record.name} at {record.filename}:{record.lineno} {record.funcName}"
    if isinstance(record.msg, BaseException):
        return type(record.msg).__name__
    if not record.args:
        return str(record.msg)
    if not isinstance(record.args, tuple):
        return record.getMessage() if owner == OURS else str(record.msg)
    args = tuple(type(part).__name__ if isinstance(part, BaseException) else part for part in record.args)
    if owner == SERVER and not all(isinstance(part, int | float) for part in args):
        return str(record.msg)
    try:
        return str(record.msg) % args
    except (TypeError, ValueError):
        return str(record.msg)


def _warning_message(record: logging.LogRecord) -> str:
    """A warning of Python: its category and where it is from; its text where the category is about code, not data."""
    said = str(record.args[0]) if isinstance(record.args, tuple) and record.args else str(record.msg)
    parts = re.match(r"(.*?):(\d+): (\w+): (.*)", said)
    if parts is None:
        return "a warning"
    path, line, category, text = parts.groups()
    what = f"{category} at {os.path.basename(path)}:{line}"
    return f"{what}: {text}" if category in CODE_WARNINGS else what


def stack_of(error: BaseException) -> str:
    """Kind and place of an exception and of what led to it, in a line, without what they say."""
    parts, known = [], set[int]()
    at: BaseException | None = error
    while at is not None and id(at) not in known:
        known.add(id(at))
        frames = traceback.extract_tb(at.__traceback__)[-MAX_FRAMES:]
        places = (f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        parts.append(f"{type(at).__name__} at {' < '.join(places)}")
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return "; after ".join(parts)
