"""Failures of jobs as one line: the job, and the first cause in Python or Java."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

from zhiyin.core import errors
from zhiyin.core.errors import EngineError, ZhiyinError

SEE_LOG = "see the log of the workers"
_MARK, _END = "zhiyin-error:", ":end-of-zhiyin-error"
_FIELDS = ("message", "file", "row", "column", "remedy")
_RAISED = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Warning)): (.+)$", re.M)
_JAVA_CAUSE = re.compile(r"^Caused by: (?:[\w.$]+\.)?([\w$]+): (.+)$", re.M)


class TaskError(RuntimeError):
    """A `ZhiyinError` on its way from a task to the driver, as text that survives Spark's own wrapping."""

    def __init__(self, error: ZhiyinError) -> None:
        fields = {name: getattr(error, name) for name in _FIELDS}
        fields["file"] = None if error.file is None else str(error.file)
        super().__init__(_MARK + json.dumps({"type": type(error).__name__, **fields}) + _END)


def job_error(error: BaseException, job: str) -> ZhiyinError:
    """The `ZhiyinError` that a task raised, or an EngineError that names the job and the first cause."""
    text = str(error)
    start = text.find(_MARK)
    if start >= 0:
        try:
            fields = json.loads(text[start + len(_MARK) : text.index(_END, start)])
            kind = getattr(errors, fields.pop("type"), EngineError)
            return kind(**fields)
        except (ValueError, TypeError):
            pass
    return EngineError(f"{job}: {first_cause(error)}", remedy=SEE_LOG)


@contextlib.contextmanager
def job_errors(job: str) -> Iterator[None]:
    """Turn errors of Spark, of which a driver that was killed is one, into those of `job_error`."""
    try:
        yield
    except Exception as error:
        if not is_of_spark(error):
            raise
        raise job_error(error, job) from None


def is_of_spark(error: BaseException) -> bool:
    """Whether an error was raised by Spark, or on the way to it."""
    from pyspark.errors import PySparkException

    return isinstance(error, PySparkException) or type(error).__module__.partition(".")[0] in ("py4j", "grpc")


def first_cause(error: BaseException) -> str:
    """The first cause of an error of Spark, in one line."""
    text = str(error)
    raised = _RAISED.findall(text.replace("\\n", "\n"))
    python = [f"{name}: {message}" for name, message in raised if not name.startswith(("Spark", "Py4J", "Job"))]
    if "Traceback" in text and python:
        return python[0][:300]
    caused = _JAVA_CAUSE.findall(text)
    if caused:
        return f"{caused[-1][0]}: {caused[-1][1]}"[:300]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # The first line of Py4J says only that a call failed; the second has the exception.
    if len(lines) > 1 and lines[0].startswith("An error occurred while calling"):
        lines = lines[1:]
    return (lines[0] if lines else type(error).__name__).removeprefix(": ")[:300]


def cause_of_java_output(text: str) -> str:
    """The first cause in what a Java process wrote before it ended, in one line; "" where it wrote none."""
    caused = _JAVA_CAUSE.findall(text)
    if caused:
        return f"{caused[-1][0]}: {caused[-1][1]}"[:300]
    lines = (line.strip() for line in text.splitlines())
    noise = ("WARNING", "Picked up ", "Error occurred during initialization", "NOTE: ")
    cause = next((line for line in lines if line and not line.startswith(noise)), "")
    return cause.removeprefix('Exception in thread "main" ')[:300]
