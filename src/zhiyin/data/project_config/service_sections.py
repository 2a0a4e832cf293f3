"""Sections of lists and of the service."""

from __future__ import annotations

import re
from ipaddress import ip_network

from pydantic import field_validator

from zhiyin.core.durations import is_duration
from zhiyin.core.limits import MAX_KIND_CHARS
from zhiyin.data.project_config.section import Section, key

# What streams compute; see `zhiyin.store.stream_definitions`.
STREAM_JOBS = ("trending", "covisits", "histories", "sessions", "rewards")
_STREAM_STATES = ("redis://", "rediss://", "unix://", "postgresql://", "sqlite:///", "${")


class AnswersSection(Section):
    """What lists are made like where a request does not say."""

    variety: str = key("none", "lists whose items are not all alike", '"none", "mmr", "dpp" or "calibrate"')
    balance: float = key(0.7, "between variety alone (0) and score alone (1)", "a number from 0 to 1", ge=0, le=1)
    categories: str = key("", "the column that variety is judged by; empty: as models see likeness", "a text")
    context: dict[str, str] = key(
        {}, "types of what requests bring, that filters may speak of", '{ device = "text", hour = "number" }'
    )

    @field_validator("variety")
    @classmethod
    def _variety(cls, variety: str) -> str:
        if variety not in ("none", "mmr", "dpp", "calibrate"):
            raise ValueError
        return variety

    @field_validator("context")
    @classmethod
    def _context(cls, context: dict[str, str]) -> dict[str, str]:
        if set(context.values()) - {"text", "number", "bool"}:
            raise ValueError
        return context


class ServiceSection(Section):
    """How `zhiyin serve` keeps, answers and trains. Secrets may be written as ${NAME}, from the environment."""

    store: str = key("store.db", "where events are kept", "a path, or postgresql://user@host/name")
    redis: str | None = key(
        None, "live state of several machines; left out, in memory", "redis://host:6379/0", "redis://localhost:6379/0"
    )
    streams: str | None = key(
        None,
        "where the service reads what streams compute; left out, it computes that itself",
        "redis://host:6379/0, postgresql://user@host/name or sqlite:///streams.db",
        "redis://127.0.0.1:6379/0",
    )
    workers: int = key(1, "processes that answer", "a whole number of 1 to 64", ge=1, le=64)
    retrain: str | None = key(
        None, "when to train anew: a duration, or minute hour day month weekday", '"6h" or "0 3 * * *"', "0 3 * * *"
    )
    train_budget: str = key("30m", "how long a training may look for the best", 'a duration such as "30m"')
    train_share: float = key(
        0.8,
        "share of the time that a training beside the service runs at most; less while answers wait for the processor",
        "a number from 0.05 to 1",
        ge=0.05,
        le=1,
    )
    budget: int = key(
        500,
        "milliseconds an answer may take before stages are left out",
        "a whole number from 1 to 60000",
        ge=1,
        le=60_000,
    )
    keep: str | None = key(None, "forget events older than this; left out, never", 'a duration such as "730d"', "730d")
    lists_size: int = key(
        10_240,
        "MiB that traces of lists may take in all; beyond it the oldest go",
        "a whole number from 1 to 1000000000",
        ge=1,
        le=1_000_000_000,
    )
    keep_lists: str = key("30d", "forget traces of lists older than this", 'a duration such as "30d"')
    log_features: float = key(
        0.01,
        "share of ranked lists whose features are kept, for zhiyin check --serving",
        "a number from 0 to 1",
        ge=0,
        le=1,
    )
    log_features_rate: int = key(
        10, "such lists a second at most, in each process", "a whole number from 0 to 1000000", ge=0, le=1_000_000
    )
    origins: list[str] = key(
        [], "web sites whose pages may call, for browsers", 'a list such as ["https://shop.example"]'
    )
    rate: int = key(
        1_000,
        "requests a second that one key may make in each process; 0: as many as can be",
        "a whole number from 0 to 1000000",
        ge=0,
        le=1_000_000,
    )
    connections: int = key(
        1_024,
        "connections that one address may have, proxies apart",
        "a whole number from 1 to 1000000",
        ge=1,
        le=1_000_000,
    )
    proxies: list[str] = key(
        [], "addresses or networks of proxies in front, whose X-Forwarded-For is believed",
        'a list such as ["10.0.0.0/8"]',
    )  # fmt: skip
    root_path: str = key("", "path under which a proxy serves it", 'a path such as "/recommend"')
    metrics_open: bool = key(False, "whether /metrics needs no key", "true or false")
    otlp: str | None = key(
        None, "where OpenTelemetry traces go; left out, nowhere", "an address", "http://localhost:4318"
    )

    @field_validator("streams")
    @classmethod
    def _streams(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(_STREAM_STATES):
            raise ValueError
        return value

    @field_validator("proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for network in value:
            ip_network(network, strict=False)  # raises ValueError
        return value

    @field_validator("root_path")
    @classmethod
    def _path(cls, value: str) -> str:
        if value and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
            raise ValueError
        return value

    @field_validator("train_budget", "keep", "keep_lists")
    @classmethod
    def _durations(cls, value: str | None) -> str | None:
        if value is not None and not is_duration(value):
            raise ValueError
        return value


class AdsSection(Section):
    """How ads are sold, where a request does not say."""

    clicks: list[str] = key(["click"], "kinds of events that are clicks", 'a list such as ["click"]')
    purchases: list[str] = key(["purchase"], "kinds of events that are purchases", 'a list such as ["purchase"]')
    pricing: str = key("second", "whether a winner pays the least winning bid, or its own", '"second" or "first"')
    reserve: int = key(
        0, "least price, in millionths of a unit", "a whole number from 0 to 1000000000000000", ge=0, le=10**15
    )
    quality_floor: float = key(0.0, "least probability of what is paid for", "a number from 0 to 1", ge=0, le=1)
    candidates: int = key(
        500, "ads whose probability is computed for a request; the highest bids first",
        "a whole number from 1 to 10000", ge=1, le=10_000,
    )  # fmt: skip
    exploration: float = key(
        5.0,
        "how much the model is believed before an ad has been displayed, in events; the fewer, the more ads are tried. "
        "0: as the model says, nothing is tried",
        "a number from 0 to 1000000",
        ge=0,
        le=1_000_000,
    )
    window: str = key("1d", "an event this long after its display is not charged", 'a duration such as "1d"')
    reservation: str = key("10m", "how long displays hold what they are expected to cost", 'a duration such as "10m"')

    @field_validator("pricing")
    @classmethod
    def _pricing(cls, value: str) -> str:
        if value not in ("second", "first"):
            raise ValueError
        return value

    @field_validator("clicks", "purchases")
    @classmethod
    def _kinds(cls, value: list[str]) -> list[str]:
        if not 1 <= len(value) <= 20 or not all(0 < len(kind) <= MAX_KIND_CHARS for kind in value):
            raise ValueError
        return value

    @field_validator("window", "reservation")
    @classmethod
    def _durations(cls, value: str) -> str:
        if not is_duration(value):
            raise ValueError
        return value


class StreamsSection(Section):
    """How events are streamed through Apache Flink: `zhiyin stream`, `zhiyin store stream`."""

    folder: str = key("streams", "where events, results and checkpoints of streams are kept", "a path")
    jobs: list[str] = key(
        list(STREAM_JOBS), "what streams compute", f"a list of {', '.join(STREAM_JOBS)}, each at most once"
    )
    engine: str | None = key(
        None,
        "where the jobs run; left out, in a small cluster on this machine",
        '"local" or flink://host:8081',
        "flink://localhost:8081",
    )
    checkpoint: str = key("5s", "time between two checkpoints of a job", 'a duration such as "5s"')
    every: str = key("1s", "time between two exports of new events", 'a duration such as "1s"')
    keep: str = key("7d", "delete exported events and their results this long after", 'a duration such as "7d"')
    python: str = key(".flink/bin/python", "the Python that Flink is installed in, an environment of its own", "a path")
    source: str = key("files", "what the jobs read", '"files", or a topic of Kafka: kafka://host:9092/topic')

    @field_validator("jobs")
    @classmethod
    def _jobs(cls, value: list[str]) -> list[str]:
        if not value or set(value) - set(STREAM_JOBS) or len(set(value)) != len(value):
            raise ValueError
        return value

    @field_validator("engine")
    @classmethod
    def _engine(cls, value: str | None) -> str | None:
        if value not in (None, "local") and not _is_address(value, "flink"):
            raise ValueError
        return value

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        if value != "files" and not _is_address(value, "kafka", r"/[A-Za-z0-9._-]{1,249}"):
            raise ValueError
        return value

    @field_validator("folder", "python")
    @classmethod
    def _paths(cls, value: str) -> str:
        if not value.strip() or "\0" in value:
            raise ValueError
        return value

    @field_validator("checkpoint", "every", "keep")
    @classmethod
    def _durations(cls, value: str) -> str:
        if not is_duration(value):
            raise ValueError
        return value


def _is_address(value: str | None, scheme: str, path: str = "") -> bool:
    """Whether a text is scheme://host:port and a path that matches the pattern."""
    match = re.fullmatch(rf"{scheme}://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):(\d{{1,5}}){path}", value or "")
    return match is not None and 0 < int(match[1]) < 65_536
