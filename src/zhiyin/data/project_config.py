"""`zhiyin.toml`: what a project reads, trains and judges by. Every key is described here, once.

The file that `write_config` writes, the checks that `load_config` makes and the words of its errors read the
same fields. An unknown key is an error that names the nearest known one; a missing key takes its default.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from zhiyin.core.atomic_files import write_whole
from zhiyin.core.durations import is_duration, microseconds
from zhiyin.core.errors import ConfigError, nearest
from zhiyin.core.params import Param
from zhiyin.data.catalogue_schema import CatalogueSchema
from zhiyin.data.dataset import Dataset
from zhiyin.data.event_schema import LARGEST_WEIGHT
from zhiyin.data.sql_query import QueryLimit
from zhiyin.data.store_log import Heard
from zhiyin.data.type_names import parse_type

FILE_NAME = "zhiyin.toml"
# Sections whose keys are names: of kinds, models, rules, placements.
_FREE = ("weights", "models", "rules", "placements")


class Section(BaseModel):
    """A table of the file. A key nobody reads is an error, and a number written as text is no number.

    Every number declares both ends of its range.
    """

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=False, allow_inf_nan=False)


def key(default: Any, help: str, right: str, example: Any = None, **limits: Any) -> Any:
    """A key of the file: default, one line of help, what would be right, an example for a default of None."""
    factory = {"default_factory": lambda: default.copy()} if isinstance(default, list | dict) else {"default": default}
    examples = None if example is None else [example]
    return Field(**factory, description=help, title=right, examples=examples, **limits)


class DataSection(Section):
    """Where the events, items and users are. Paths are taken from the folder of this file."""

    source: str | list[str] | dict[str, str | list[str]] | None = key(
        None,
        "the event log: a file, a folder, a list of files, { kind = file }, or a database, ${DATABASE_URL}",
        "a text, a list of texts, or a table from event kind to file",
        "ratings.csv",
    )
    items: str | None = key(None, "what is known of items; in a folder it is found by itself", "a text", "movies.csv")
    users: str | None = key(None, "what is known of users; in a folder it is found by itself", "a text", "users.csv")
    links: str | None = key(None, "who follows or befriends whom, two columns of users", "a text", "friends.csv")
    query: str | None = key(
        None,
        "the SQL query that gives the events of a database",
        "a text",
        "SELECT user_id, item_id, at FROM events",
    )
    query_timeout: str = key("10m", "how long the query may take", 'a duration such as "10m"')
    query_rows: int = key(100_000_000, "rows that its answer may have", "a whole number above 0", ge=1, le=10**12)
    strict: bool = key(False, "stop at the first bad row instead of setting bad rows aside", "true or false")

    @field_validator("query_timeout")
    @classmethod
    def _timeout(cls, timeout: str) -> str:
        if not is_duration(timeout):
            raise ValueError
        return timeout


class ColumnsSection(Section):
    """Which column plays which role. What is left out is guessed from names and contents, and said."""

    user: str | None = key(None, "who acted", "a text", "user_id")
    item: str | None = key(None, "on what", "a text", "item_id")
    time: str | None = key(None, "when: seconds, milliseconds or ISO 8601", "a text", "timestamp")
    rating: str | None = key(None, "how much: a rating, a quantity, a duration", "a text", "rating")
    kind: str | None = key(None, "what was done: view, cart, purchase, ...", "a text", "event")
    item_id: str | None = key(None, "key column of the items table", "a text", "id")
    user_id: str | None = key(None, "key column of the users table", "a text", "id")
    link_user: str | None = key(None, "column of the links: who", "a text", "user_id")
    link_other: str | None = key(None, "column of the links: whom", "a text", "friend_id")
    link_weight: str | None = key(None, "column of the links: how much, above 0", "a text", "weight")
    item_columns: list[str] = key([], "columns of the log that describe the item", "a list of texts")
    user_columns: list[str] = key([], "columns of the log that describe the user", "a list of texts")


class ReadSection(Section):
    """How the sources are written, where their content leaves it open. What zhiyin assumed stands here."""

    encoding: str | None = key(None, "encoding of text files", 'a text such as "gb18030"', "gb18030")
    separator: str | None = key(None, "between the fields of text files", 'one or two characters such as ";"', ";")
    header: int | None = key(
        None, "line of the header, from 1; 0 for none", "a whole number from 0 to 100", 1, ge=0, le=100
    )
    decimal: Literal[".", ","] | None = key(None, "whether 1,234 is 1.234 or 1234", '"." or ","', ",")
    day_first: bool | None = key(None, "whether 03/04/2024 is 3 April or 4 March", "true or false", True)
    zone: str | None = key(None, "where times without a zone are from; else UTC", "a zone", "Europe/Berlin")
    missing: list[str] | None = key(None, "words that stand for a missing value", "a list of texts", ["NA", "-"])
    text: list[str] | None = key(None, "columns that stay text, though of numbers", "a list of texts", ["zip"])


class SplitSection(Section):
    """What is held back to judge by."""

    by: Literal["auto", "time", "last", "ratio", "cold-users", "cold-items", "rolling"] = key(
        "auto",
        "time, last, ratio, cold-users, cold-items, rolling; auto chooses time or ratio",
        'one of "auto", "time", "last", "ratio", "cold-users", "cold-items", "rolling"',
    )
    test: str | Annotated[float, Field(ge=0.0001, le=0.9999)] | None = key(
        None,
        "how much is test: a duration or a share; left out, the last 20 % of events",
        'a duration such as "7d" or a share between 0 and 1, from 0.0001 to 0.9999, such as 0.2',
        "7d",
    )
    folds: int = key(3, "time windows of a rolling split", "a whole number from 1 to 100", ge=1, le=100)

    @field_validator("test")
    @classmethod
    def _test(cls, test: str | float | None) -> str | float | None:
        if isinstance(test, str) and not is_duration(test):
            raise ValueError
        return test


class TrainSection(Section):
    """Which models to learn, and where to keep them."""

    models: list[str] = key(["EASE", "ALS"], "models by name", "a list of texts")
    output: str = key("models", "folder of the trained models", "a text")
    margin: float = key(
        0.02,
        "share of the metric of what is in use that a version of --budget may lose",
        "a number from 0 to 0.5",
        ge=0,
        le=0.5,
    )


class EvaluateSection(Section):
    """How lists are judged. The whole catalogue is ranked; Random and Popular are always shown beside."""

    k: list[Annotated[int, Field(ge=1, le=10_000)]] = key(
        [10, 20],
        "lengths of the lists",
        "a list of whole numbers from 1 to 10000, at most 20",
        min_length=1,
        max_length=20,
    )
    bootstrap: int = key(
        1000, "draws of users for the 95 % intervals; 0 for none", "a whole number from 0 to 20000", ge=0, le=20_000
    )
    exclude_seen: bool = key(True, "do not recommend what the user already had", "true or false")


class TuneSection(Section):
    """How hyperparameters are searched, on a window before the test part."""

    trials: int = key(30, "settings to try of each model", "a whole number from 1 to 100000", ge=1, le=100_000)
    metric: str = key("ndcg@10", "what is to become best", 'a metric and a length such as "ndcg@10"')
    timeout: str | None = key(None, "stop after this long", 'a duration such as "30m"', "30m")

    @field_validator("metric")
    @classmethod
    def _metric(cls, metric: str) -> str:
        if not re.fullmatch(r"[a-z][a-z_-]*(@[1-9]\d*)?", metric):
            raise ValueError
        return metric

    @field_validator("timeout")
    @classmethod
    def _timeout(cls, timeout: str | None) -> str | None:
        if timeout is not None and not is_duration(timeout):
            raise ValueError
        return timeout


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


class SchemaSection(Section):
    """Types of columns of the catalogue, where they are to be others than those its contents show."""

    items: dict[str, str] = key({}, "types by column of items", '{ price = "number", tags = "texts" }')
    users: dict[str, str] = key({}, "types by column of users", '{ joined = "date" }')

    @field_validator("items", "users")
    @classmethod
    def _types(cls, types: dict[str, str]) -> dict[str, str]:
        try:
            return {name: parse_type(type, name) for name, type in types.items()}
        except ConfigError:
            raise ValueError from None

    @property
    def types(self) -> CatalogueSchema:
        return CatalogueSchema(self.items, self.users)


class ServiceSection(Section):
    """How `zhiyin serve` keeps, answers and trains. Secrets may be written as ${NAME}, from the environment."""

    store: str = key("store.db", "where events are kept", "a path, or postgresql://user@host/name")
    redis: str | None = key(
        None, "live state of several machines; left out, in memory", "redis://host:6379/0", "redis://localhost:6379/0"
    )
    workers: int = key(1, "processes that answer", "a whole number of 1 to 64", ge=1, le=64)
    retrain: str | None = key(
        None, "when to train anew: a duration, or minute hour day month weekday", '"6h" or "0 3 * * *"', "0 3 * * *"
    )
    train_budget: str = key("30m", "how long a training may look for the best", 'a duration such as "30m"')
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

    @field_validator("proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for one in value:
            ip_network(one, strict=False)  # raises ValueError
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


class RunSection(Section):
    """What changes the work but not what is learned, the seed apart."""

    seed: int = key(0, "every random draw descends from it", "a whole number from 0 to 2^63 - 1", ge=0, le=2**63 - 1)
    threads: int | None = key(
        None, "worker threads; left out, all cores", "a whole number from 1 to 4096", 4, ge=1, le=4_096
    )
    device: str = key(
        "auto", "where networks are trained: auto takes a GPU where there is one", '"auto", "cpu" or "cuda"'
    )


with warnings.catch_warnings():
    # [schema] has the name of a method that pydantic keeps for programs of its first version.
    warnings.filterwarnings("ignore", 'Field name "schema"', UserWarning)

    class Config(Section):
        """The whole file."""

        data: DataSection = Field(default_factory=DataSection)
        columns: ColumnsSection = Field(default_factory=ColumnsSection)
        read: ReadSection = Field(default_factory=ReadSection)
        weights: dict[str, Annotated[float, Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)]] = Field(
            default_factory=dict,
            title="a number from -1000000 to 1000000 for each kind or condition",
            description="What events are worth; the first rule that matches decides, else they are worth 0.",
        )
        split: SplitSection = Field(default_factory=SplitSection)
        train: TrainSection = Field(default_factory=TrainSection)
        models: dict[str, dict[str, Any]] = Field(
            default_factory=dict,
            title="a table of hyperparameters, [models.NAME]",
            description="Hyperparameters by model. They are checked against the model when it is made.",
        )
        evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
        tune: TuneSection = Field(default_factory=TuneSection)
        answers: AnswersSection = Field(default_factory=AnswersSection)
        schema: SchemaSection = Field(default_factory=SchemaSection)  # type: ignore[assignment]
        rules: dict[str, Any] = Field(
            default_factory=dict,
            title="a table of rules",
            description="What may be shown, what is pushed, and who gets which slot. Checked when lists are made.",
        )
        placements: dict[str, dict[str, Any]] = Field(
            default_factory=dict,
            title="a table of settings, [placements.NAME]",
            description="Settings of lists by the place they are shown at; a running service takes up changes.",
        )
        service: ServiceSection = Field(default_factory=ServiceSection)
        run: RunSection = Field(default_factory=RunSection)


_EXAMPLE_WEIGHTS = {"view": 1, "cart": 3, "purchase": 5, "dislike": -1, "rating >= 4": 1}

_EXAMPLE_RULES = [
    '# filter = "price < 50 AND NOT adult"',
    '# stock = "in_stock"',
    '# dedupe = "variant_of"',
    '# bought = { purchase = "never", view = "7d" }',
    '# boosts = [{ when = "margin > 0.3", multiply = 1.2 }]',
    '# caps = [{ per = "seller", at_most = 2 }]',
]


def load_config(path: str | Path) -> Config:
    """Read a configuration file.

    Raises ConfigError that names file, line, key and what would be right, for an unknown key the nearest.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("there is no such configuration file", file=path, remedy="write one: zhiyin init")
    text = read_text(path)
    raw = _parsed(text, path)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        place = _place(error)
        raise _explain(error, place, raw, path, text) from None


def read_text(path: Path) -> str:
    """The text of a configuration file. Raises ConfigError where it cannot be read or is not UTF-8."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"the file cannot be read: {error.strerror}", file=path, remedy="see its permissions: ls -l"
        ) from None
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise ConfigError("the file is not UTF-8", file=path, row=row, remedy="save it as UTF-8") from None


def parse_usable(text: str, path: str | Path) -> tuple[Config, dict[tuple[str, ...], ConfigError]]:
    """What of the text of a configuration file can be used; and by place what cannot, and why.

    Of what cannot be used keys take their defaults, entries of tables are left out. A place is a section and a key, and
    of tables of names (`[schema]`, `[answers] context`) the name too; of a section that is no table, and of one that
    there is not, the section alone. Raises ConfigError for a text that is no TOML.
    """
    path = Path(path)
    raw = _parsed(text, path)
    wrong: dict[tuple[str, ...], ConfigError] = {}
    while True:
        try:
            return Config.model_validate(raw), wrong
        except ValidationError as error:
            place = _place(error)
            reason = _explain(error, place, raw, path, text)
            for one in _bad_entries(raw, place):
                wrong[tuple(one)] = reason
                del _dig(raw, one[:-1])[one[-1]]


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        row = re.search(r"at line (\d+)", str(error))
        last = max(1, len(text.splitlines())) if "end of document" in str(error) else None
        why = error if isinstance(error, tomllib.TOMLDecodeError) else "a value is too long or too deep"
        raise ConfigError(
            f"this is not TOML: {why}",
            file=path,
            row=int(row[1]) if row else last,
            remedy='texts stand in "quotes", lists in [brackets], sections begin with [name]',
        ) from None


def _place(error: ValidationError) -> list[str]:
    """The section and, where it is a key of it that is wrong, the key."""
    return [str(part) for part in error.errors()[0]["loc"]][:2]


def _bad_entries(raw: dict[str, Any], place: list[str]) -> list[list[str]]:
    """Of a key that holds a table the entries that are wrong by themselves, else the key."""
    value = _dig(raw, place)
    if len(place) < 2 or not isinstance(value, dict) or place[0] in _FREE:
        return [place]
    bad = []
    for name, entry in value.items():
        try:
            Config.model_validate({place[0]: {place[1]: {name: entry}}})
        except ValidationError:
            bad.append([*place, name])
    return bad or [place]


def _explain(error: ValidationError, place: list[str], raw: dict[str, Any], path: Path, text: str) -> ConfigError:
    """What is wrong with the first key that is wrong, in the words of its field."""
    first = error.errors()[0]
    section = Config.model_fields.get(place[0])
    if first["type"] == "extra_forbidden":
        inner = _keys(place[0]) if len(place) > 1 else {}
        known = list(inner) if len(place) > 1 else list(Config.model_fields)
        elsewhere = [name for name in Config.model_fields if name != place[0] and place[-1] in _keys(name)]
        remedy = nearest(place[-1], known)
        if elsewhere and not remedy.startswith("did you"):
            remedy = f"it belongs under [{elsewhere[0]}]"
        what = f"[{place[0]}] has no key {place[-1]!r}" if len(place) > 1 else f"there is no section {place[0]!r}"
        return ConfigError(what, file=path, row=row_of(text, place), remedy=remedy)
    free = place[0] in _FREE
    field = section if free or len(place) == 1 else _keys(place[0]).get(place[1])
    right = (field.title if field else None) or "a section of keys"
    value = repr(_dig(raw, place))
    return ConfigError(
        f"{'.'.join(place)} = {value if len(value) <= 80 else value[:77] + '...'} is not right",
        file=path,
        row=row_of(text, place),
        remedy=f"write {right}" + (f" ({field.description})" if field and field.description and not free else ""),
    )


def _keys(section: str) -> dict[str, FieldInfo]:
    """The keys of a section; none for the free tables."""
    field = Config.model_fields.get(section)
    kind = field.annotation if field else None
    return dict(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else {}


def _dig(value: Any, place: list[str]) -> Any:
    for part in place:
        value = value[part] if isinstance(value, dict) and part in value else value
    return value


def row_of(text: str, place: Sequence[str]) -> int | None:
    """The line a key stands on, as far as a look at the text can tell."""
    section = ""
    for row, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
        if head:
            section = head[1].replace('"', "")
            if section == ".".join(place):
                return row
            continue
        name = re.match(r"""\s*(["']?)(.+?)\1\s*=""", line)
        if name and [*section.split("."), name[2]][-len(place) :] == list(place) and not line.lstrip().startswith("#"):
            return row
    return None


def write_config(
    path: str | Path, config: Config | None = None, known: Mapping[str, Mapping[str, Param]] | None = None
) -> Path:
    """Write a configuration file in which every key is described and shows its default.

    What `config` does not set stands there as a comment, so that the file also says what could be set.

    Parameters
    ----------
    known: hyperparameters by model, as `params_of` gives them; their tables are written out too.
    """
    config = config or Config()
    lines = [
        "# Settings of a Zhiyin project. A line with # shows a default or an example: uncomment it to set it",
        "# Paths are taken from the folder of this file.",
    ]
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if name == "weights":
            lines += ["", f"# {field.description}", f"[{name}]"]
            lines += [f"{_name(text)} = {_toml(weight)}" for text, weight in value.items()]
            lines += [] if value else [f"# {_name(text)} = {worth}" for text, worth in _EXAMPLE_WEIGHTS.items()]
        elif name == "rules":
            lines += ["", f"# {field.description}", "[rules]"]
            lines += [f"{_name(text)} = {_toml(rule)}" for text, rule in value.items()]
            lines += [] if value else _EXAMPLE_RULES
        elif name == "placements":
            lines += ["", f"# {field.description}"]
            if not value:
                lines += ["# [placements.basket]", '# filter = "price < 20"', '# diversity = "mmr"']
            for place, settings in value.items():
                lines += ["", f"[placements.{_name(place)}]"]
                lines += [f"{_name(text)} = {_toml(setting)}" for text, setting in settings.items()]
        elif name == "models":
            lines += _model_tables(value, known or {}, field.description or "")
        else:
            lines += ["", f"# {(type(value).__doc__ or '').strip()}", f"[{name}]"]
            lines += _section_lines(value)
    path = Path(path)
    write_whole(path, "\n".join(lines) + "\n")
    return path


def _section_lines(section: Section) -> list[str]:
    lines = []
    for name, field in type(section).model_fields.items():
        value, default = getattr(section, name), field.get_default(call_default_factory=True)
        lines.append(f"# {field.description} (default: {'none' if default is None else _toml(default)})")
        if value is not None and (value != default or name in section.model_fields_set):
            lines.append(f"{name} = {_toml(value)}")
        else:
            example = field.examples[0] if default is None and field.examples else default
            lines.append(f"# {name} = {_toml(example)}")
    return lines


def _model_tables(
    models: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, Param]], description: str
) -> list[str]:
    lines = ["", f"# {description}"]
    if not models and not known:
        lines += ["# [models.EASE]", "# reg = 250.0"]
    for model in dict.fromkeys([*models, *known]):
        given = dict(models.get(model, {}))
        lines += ["", f"[models.{_name(model)}]"]
        for name, declared in known.get(model, {}).items():
            lines.append(f"# {declared.describe().removeprefix(f'{name}: ')}")
            if name in given:
                lines.append(f"{name} = {_toml(given.pop(name))}")
            else:
                lines.append(f"# {name} = {'...' if declared.default is None else _toml(declared.default)}")
        lines += [f"{_name(name)} = {_toml(value)}" for name, value in given.items()]
    return lines


def _name(text: str) -> str:
    """A key as TOML writes it: bare where it may be."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _toml(text)


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_name(str(name))} = {_toml(part)}" for name, part in value.items()) + " }"
    if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def read_data(
    config: Config, base_dir: str | Path = ".", strict: bool | None = None, heard: Heard | None = None
) -> Dataset:
    """The data a configuration names.

    Parameters
    ----------
    base_dir: the folder of the configuration file, from which its paths are taken. `${NAME}` in a path or
        address stands for an environment variable, so that no password need stand in the file.
    strict: overrules the file's own `strict`.
    heard: what the service has heard; with it no file need be named.
    """
    from zhiyin.data.reading import read

    base, data = Path(base_dir), config.data
    if data.source is None and heard is None:
        raise ConfigError(
            "no event log is named",
            file=base / FILE_NAME,
            remedy='name it under [data]: source = "ratings.csv", or begin anew: zhiyin init ratings.csv',
        )
    given = config.columns.model_fields_set  # an empty list that was written means none; left out, a guess
    columns = {n: v for n, v in config.columns.model_dump().items() if v or (n in given and v is not None)}
    return read(
        resolved(data.source, base),
        items=resolved(data.items, base),
        users=resolved(data.users, base),
        links=resolved(data.links, base),
        columns=columns or None,
        weights=config.weights or None,
        query=data.query,
        query_limit=QueryLimit(microseconds(data.query_timeout) / 1e6, data.query_rows),
        strict=data.strict if strict is None else strict,
        heard=heard,
        assume=config.read.model_dump(),
        types=config.schema.types,
    )


def store_address(config: Config, base_dir: str | Path = ".") -> str:
    """Where the project's events are kept: a path or "postgresql://...", with variables filled in."""
    return str(resolved(config.service.store, Path(base_dir)))


def resolved(source: Any, base: Path) -> Any:
    """A source with variables filled in and paths taken from `base`."""
    if isinstance(source, dict):
        return {kind: resolved(part, base) for kind, part in source.items()}
    if isinstance(source, list):
        return [resolved(part, base) for part in source]
    if source is None:
        return None
    address = re.sub(r"\$\{(\w+)\}", lambda match: _variable(match[1], base), source)
    if address.startswith("sqlite:///") and not address.startswith("sqlite:////"):
        return f"sqlite:///{(base / address.removeprefix('sqlite:///')).resolve()}"
    return address if "://" in address else str(base / Path(address).expanduser())


def _variable(name: str, base: Path) -> str:
    if name not in os.environ:
        raise ConfigError(
            f"the environment variable {name} is not set", file=base / FILE_NAME, remedy=f"export {name}=..."
        )
    return os.environ[name]
