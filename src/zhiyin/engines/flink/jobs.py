"""The jobs that Flink runs: their SQL, rendered for a project's folder and source, and the options of Flink.

    options = JobOptions(folder=Path("streams"))
    rendered_sql("trending", options)               # as text: what `zhiyin stream sql trending` prints
    submission(["trending"], options, address="127.0.0.1:8081")     # the request that submit.py takes

A job is one file of SQL in `sql/`. What depends on the project stands there as `${name}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zhiyin.core.errors import ConfigError
from zhiyin.store import stream_definitions as definitions

SQL_FOLDER = Path(__file__).parent / "sql"
JOBS = definitions.JOBS
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<quoted>'(?:[^']|'')*'|`(?:[^`]|``)*`)|(?P<end>;)|(?P<text>[^-'`;]+|.)", re.DOTALL
)
_KAFKA_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,240}")


@dataclass(frozen=True)
class JobOptions:
    """What jobs of Flink depend on.

    Parameters
    ----------
    folder: the folder of streams: segments in, output, checkpoints and savepoints. Flink's processes must see it, under
        this path.
    source: "files", the segments in the folder, or "kafka://host:port/topic": events of that topic, impressions of
        TOPIC-impressions, as JSON with the columns of segments.
    checkpoint: seconds between checkpoints; output is visible after the one that follows it. At least 0.1.
    state_days: days that jobs remember items of a user and day, impressions, and events of lists, 1 to 99: what comes
        later than that does not meet them.
    bounded: whether jobs end after the segments that are there now. Windows that are open then are not written.
    parallelism: parallel tasks of each operator; None: the default of the cluster.
    settings: further options of Flink, for all jobs; these win.
    """

    folder: Path
    source: str = "files"
    checkpoint: float = 5.0
    state_days: int = 3
    bounded: bool = False
    parallelism: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).absolute())
        if re.search(r"[\\\x00-\x1f\x7f]", str(self.folder)):
            raise ConfigError(
                f"the folder {str(self.folder)!r} has a backslash or a control character, which Flink changes",
                remedy="give streams a folder without them",
            )
        if not 0.1 <= self.checkpoint <= 86400:
            raise ConfigError(f"a checkpoint every {self.checkpoint:g} s is not between 0.1 s and a day")
        if not 1 <= self.state_days <= 99:
            raise ConfigError(f"a state of {self.state_days} days is not between 1 and 99")
        if self.parallelism is not None and self.parallelism < 1:
            raise ConfigError(f"{self.parallelism} parallel tasks are less than one")
        if self.source != "files":
            kafka_topic(self.source)


def kafka_topic(source: str) -> tuple[str, str]:
    """Bootstrap servers and topic of "kafka://host:port[,host:port...]/topic". Raises ConfigError."""
    parts = urlsplit(source)
    servers, topic = parts.netloc, parts.path.removeprefix("/")
    valid = all(
        re.fullmatch(r"[A-Za-z0-9_.-]+:\d{1,5}|\[[0-9A-Fa-f:.]+\]:\d{1,5}", part) for part in servers.split(",")
    )
    if parts.scheme != "kafka" or not valid or not _KAFKA_TOPIC.fullmatch(topic) or parts.query or parts.fragment:
        raise ConfigError(f"{source!r} is no source of streams", remedy='write "files" or "kafka://host:9092/topic"')
    return servers, topic


def sql_text(value: object) -> str:
    """A literal of SQL: text in quotes, with quotes in it doubled."""
    return "'" + str(value).replace("'", "''") + "'"


def rendered_sql(job: str, options: JobOptions) -> str:
    """The SQL of a job with its settings before it: what Flink's own client could run as it stands."""
    lines = [f"SET {sql_text(key)} = {sql_text(value)};" for key, value in flink_settings(options).items()]
    return "\n".join([*lines, "", _rendered(job, options)])


def statements(job: str, options: JobOptions) -> list[str]:
    """The statements of a job, without comments and semicolons, without the settings common to all."""
    return list(split_statements(_rendered(job, options)))


def flink_settings(options: JobOptions) -> dict[str, str]:
    """Options of Flink that hold for each job."""
    folder = options.folder.as_posix()
    settings = {
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.interval": _duration(options.checkpoint),
        "execution.checkpointing.dir": f"file://{folder}/checkpoints",
        "execution.checkpointing.savepoint-dir": f"file://{folder}/savepoints",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.tolerable-failed-checkpoints": "10",
        "state.backend.type": "hashmap",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "10 s",
        "restart-strategy.exponential-delay.backoff-multiplier": "1.5",
        # A job that has run so long begins again with the initial backoff; Flink's own default is an hour.
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
        "pipeline.object-reuse": "true",
        "table.local-time-zone": "UTC",
    }
    if options.parallelism is not None:
        settings["parallelism.default"] = str(options.parallelism)
    return settings | dict(options.settings)


def submission(
    jobs: Sequence[str],
    options: JobOptions,
    address: str | None,
    savepoints: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The request of `submit.py`: these jobs to the cluster at `address`, "host:port"; None: one inside its process.

    Parameters
    ----------
    savepoints: by job the path of the savepoint from which it goes on; others begin at the first segment.
    """
    return {
        "address": address,
        "settings": flink_settings(options),
        "jobs": [
            {"name": job, "statements": statements(job, options), "savepoint": (savepoints or {}).get(job)}
            for job in jobs
        ],
    }


def json_object(line: str) -> dict[str, Any] | None:
    """The JSON object of a line of `submit.py`'s output; None for any other line, such as a message of the JVM."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _rendered(job: str, options: JobOptions) -> str:
    if job not in JOBS:
        raise ConfigError(f"there is no job {job!r}", remedy=f"jobs are {', '.join(JOBS)}")
    values: dict[str, str] = {
        "half_life": _bigint(definitions.TRENDING_HALF_LIFE),
        "gap": _bigint(definitions.SESSION_GAP),
        "day": _bigint(definitions.COVISIT_PERIOD),
        "max_items": str(definitions.MAX_COVISIT_ITEMS),
        "reward_window": _bigint(definitions.REWARD_WINDOW),
        "state_days": str(options.state_days),
    }
    values |= {f"{name}_source": _connector(_source(name, job, options)) for name in definitions.SEGMENTS}
    values |= {f"{name}_sink": _connector(_sink(name, options)) for name in definitions.OUTPUTS}
    text = (SQL_FOLDER / f"{job}.sql").read_text("utf-8")
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _source(name: str, job: str, options: JobOptions) -> dict[str, str]:
    if options.source == "files":
        files = {
            "connector": "filesystem",
            "path": f"file://{options.folder.as_posix()}/{name}",
            "source.monitor-interval": "1 s",
            "format": "json",
            "json.fail-on-missing-field": "true",
        }
        if options.bounded:
            del files["source.monitor-interval"]
        return files
    servers, topic = kafka_topic(options.source)
    kafka = {
        "connector": "kafka",
        "topic": topic if name == "events" else f"{topic}-{name}",
        "properties.bootstrap.servers": servers,
        "properties.group.id": f"zhiyin-{job}",
        "properties.isolation.level": "read_committed",
        "scan.startup.mode": "earliest-offset",
        "format": "json",
    }
    if options.bounded:
        kafka["scan.bounded.mode"] = "latest-offset"
    return kafka


def _sink(name: str, options: JobOptions) -> dict[str, str]:
    # A file of rows does not end with a checkpoint, only by age; the checkpoint after that commits it.
    age = min(max(options.checkpoint / 2, 0.1), 60.0)
    return {
        "connector": "filesystem",
        "path": f"file://{options.folder.as_posix()}/output/{name}",
        "format": "json",
        "sink.rolling-policy.file-size": "64MB",
        "sink.rolling-policy.rollover-interval": _duration(age),
        "sink.rolling-policy.check-interval": _duration(min(age, 1.0)),
    }


def _connector(options: Mapping[str, str]) -> str:
    """Options of a table, a line each, for the parentheses of WITH."""
    lines = ",".join(f"\n  {sql_text(key)} = {sql_text(value)}" for key, value in options.items())
    return f"{lines}\n"


def _bigint(value: int) -> str:
    """A literal of 64 bits. Plain digits are of 32 where they fit, and so are MOD and sums of them, which overflow."""
    return f"CAST({value} AS BIGINT)"


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)} ms"


def split_statements(text: str) -> Iterator[str]:
    """The statements of a text of SQL. Quotes and comments may hold semicolons."""
    parts: list[str] = []
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "comment":
            continue
        if token.lastgroup != "end":
            parts.append(token[0])
            continue
        if statement := "".join(parts).strip():
            yield statement
        parts.clear()
    if statement := "".join(parts).strip():
        yield statement
