"""A project of the command line: its settings, its data and store, and the models that are named."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from zhiyin.core.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from zhiyin.core.run import Run
    from zhiyin.data.checks import Finding
    from zhiyin.data.dataset import Dataset
    from zhiyin.data.project_config import Config
    from zhiyin.data.splits import Split
    from zhiyin.data.store_snapshot import StoreSnapshot
    from zhiyin.models.recommender import Recommender
    from zhiyin.store.store import Store

# Environment variable with the address of the store, which may hold a password that arguments would show.
STORE_VARIABLE = "ZHIYIN_STORE"
DEFAULT_MODELS = ["Random", "Popular", "ItemKNN", "Transitions", "EASE", "ALS"]


@dataclasses.dataclass(frozen=True)
class Project:
    """Settings, the folder that their paths are relative to, and the run that they configure."""

    config: Config
    home: Path
    run: Run

    def data(
        self, strict: bool | None = None, *, store: bool = False, read: Callable[..., Dataset] | None = None
    ) -> Dataset:
        """The data of the project, read.

        Parameters
        ----------
        store: add the events of the project's store, where there is one, and print their number.
        read: reads in another place than this process; takes the arguments of `zhiyin.read`.
        """
        from zhiyin.data.project_config import read_arguments, read_data
        from zhiyin.features.review_values import review_reader

        snapshot = self.store_snapshot() if store else None
        if snapshot is not None and self.config.data.source is None and snapshot.events.is_empty():
            raise DataError(
                "no event log is named, and the store has heard nothing yet", file=self.home / "zhiyin.toml",
                remedy="send events to POST /v1/events of zhiyin serve, or name a log under [data]: source = ...",
            )  # fmt: skip
        if snapshot is not None and len(snapshot.events):
            say = f"{len(snapshot.events):,} events of the store"
            typer.echo(say if self.config.data.source is None else f"the files and {say}", err=True)
        reviews = review_reader(self.config.features.reviews, self.run)
        if read is not None:
            if reviews is not None:
                raise ConfigError(
                    "reviews are read in this process alone", file=self.home / "zhiyin.toml",
                    remedy="leave --engine out, or column out of [features.reviews]",
                )  # fmt: skip
            return read(**read_arguments(self.config, self.home, strict, snapshot), run=self.run)
        return read_data(self.config, self.home, strict, snapshot, reviews)

    def training_data(self, *, store: bool = False, read: Callable[..., Dataset] | None = None) -> Dataset:
        """As `data`; its size and the findings of the checks of data are printed."""
        from zhiyin.data.checks import examine

        data = self.data(store=store, read=read)
        typer.echo(repr(data), err=True)
        for line in finding_lines(examine(data, self.config.split.test)):
            typer.echo(line, err=True)
        return data

    @property
    def store_address(self) -> str:
        """Address of the store: the environment variable ZHIYIN_STORE, else [service] store of the settings."""
        from zhiyin.data.project_config import store_address

        return os.environ.get(STORE_VARIABLE) or store_address(self.config, self.home)

    def store_snapshot(self) -> StoreSnapshot | None:
        """The content of the project's store; None where there is none. Raises MissingExtraError without its extra."""
        path = sqlite_path(self.store_address)
        if path is not None and not path.is_file():
            return None
        try:
            from zhiyin.store.training_export import read_snapshot
        except MissingExtraError as error:
            error.remedy = f"{error.remedy}, or leave out what the service has heard: --no-store"
            raise

        with opened_store(self) as store:
            return read_snapshot(store, self.run)

    def models(self, texts: Sequence[str] | None, params: Sequence[str] | None = None) -> list[Recommender]:
        """Instances of models as specified on the command line, else in the settings, with their settings checked."""
        from zhiyin.models.registry import model_class, parse

        tables: dict[str, dict[str, Any]] = {}
        for name, settings in self.config.models.items():
            tables[model_class(name).__name__] = settings
        instances = []
        for text in texts or self.config.train.models:
            name, _, rest = text.partition(":")
            rest = ",".join(filter(None, [rest, *(params or [])]))
            own = tables.get(model_class(name.strip()).__name__)
            instances.append(parse(f"{name}:{rest}" if rest else name, own))
        return instances

    def splits(self, data: Dataset) -> Split | list[Split]:
        """Train and test parts of the data, as [split] of the settings says."""
        from zhiyin.data.splits import folds, split

        chosen = self.config.split
        if chosen.by == "rolling":
            if not isinstance(chosen.test, str | None):
                raise ConfigError("rolling windows have a length", remedy='write test = "7d" under [split]')
            return folds(data, chosen.folds, chosen.test or "7d")
        return split(data, chosen.by, test=chosen.test, run=self.run, exclude_seen=self.config.evaluate.exclude_seen)

    def title(self, data: Dataset) -> str:
        """The name of the data and its shape."""
        source = self.config.data.source
        where = Path(source) if isinstance(source, str) and "://" not in source else self.home
        name = where.stem if where.suffix else where.resolve().name
        plain = name.lower() in ("events", "ratings", "u", "interactions", "log")
        name = ((self.home / where).resolve().parent.name or name) if plain else name
        return f"{name}: {data.n_events:,} events, {data.n_users:,} users, {data.n_items:,} items"


def open_project(
    path: Path, seed: int | None = None, threads: int | None = None, assume: Sequence[str] | None = None
) -> Project:
    """The project of a settings file; `seed`, `threads` and `assume` (KEY=VALUE, under [read]) overrule it."""
    from zhiyin.data.project_config import load_config

    config = load_config(path)
    apply_assumptions(config, assume)
    return project_of(config, path.parent, seed, threads)


@contextmanager
def opened_store(project: Project, create: bool = False) -> Iterator[Store]:
    """The store that the settings name, closed at the end. Raises DataError where there is none, unless `create`."""
    from zhiyin.store.store import Store

    path = sqlite_path(project.store_address)
    if not create and path is not None and not path.is_file():
        raise DataError("there is no store yet", file=path, remedy="zhiyin serve makes it, or zhiyin store load FOLDER")
    with closing(Store(project.store_address)) as store:
        yield store


def sqlite_path(address: str) -> Path | None:
    """The file of an SQLite store by its address; None for another database."""
    path = address.removeprefix("sqlite:///")
    return None if "://" in path else Path(path)


def project_of(config: Config, home: Path, seed: int | None = None, threads: int | None = None) -> Project:
    """A project of settings that may not come from a file."""
    from zhiyin.core.run import Run

    seed = config.run.seed if seed is None else seed
    return Project(config, home, Run(seed=seed, threads=threads or config.run.threads, device=config.run.device))


def config_of_sources(
    source: str | None,
    items: str | None,
    users: str | None,
    query: str | None = None,
    links: str | None = None,
    assume: Sequence[str] | None = None,
    images: str | None = None,
) -> Config:
    """Settings for these sources. The files of a folder are discovered; paths become absolute.

    assume: what files leave open, KEY=VALUE, as under [read].
    """
    from zhiyin.data.project_config import Config
    from zhiyin.data.read_assumptions import Dialect
    from zhiyin.data.source_discovery import find_sources

    config = Config()
    apply_assumptions(config, assume)
    events: str | list[str] = source if source is not None else "."
    if "://" not in str(events) and not str(events).startswith("${"):
        place = Path(str(events)).expanduser().resolve()
        if place.is_dir():
            parts = find_sources(place, Dialect.of(config.read.model_dump()))
            for sentence in parts.notes:
                typer.echo(sentence, err=True)
            events = str(parts.events[0]) if len(parts.events) == 1 else [str(path) for path in parts.events]
            items = items or (str(parts.items) if parts.items else None)
            users = users or (str(parts.users) if parts.users else None)
            links = links or (str(parts.links) if parts.links else None)
        elif place.exists():
            events = str(place)
        else:
            raise DataError("there is no such file or folder", file=source, remedy="check the path of the event log")
    config.data.source, config.data.query = events, query
    config.data.items = _absolute(items)
    config.data.users = _absolute(users)
    config.data.links = _absolute(links)
    config.data.images = _absolute(images)
    return config


def apply_assumptions(config: Config, given: Sequence[str] | None) -> None:
    """Set the values of `--assume KEY=VALUE` under [read]. Raises ConfigError for an unknown key or value."""
    from zhiyin.data.read_assumptions import Dialect, parse_assumption

    values = dict(map(parse_assumption, given or ()))
    Dialect.of(values)
    for name, value in values.items():
        setattr(config.read, name, value)


def record_assumed(config: Config, data: Dataset) -> None:
    """Set under [read] what reading has assumed, so that the next reading assumes nothing."""
    for name, value in data.assumed.items():
        setattr(config.read, name, value)


def _absolute(path: str | None) -> str | None:
    return str(Path(path).expanduser().resolve()) if path else None


def make_relative(config: Config, home: Path) -> None:
    """Make paths below the folder of the settings relative to it, so that the folder can be moved."""

    def relative(value: Any) -> Any:
        if isinstance(value, list):
            return [relative(part) for part in value]
        if not isinstance(value, str) or "://" in value or not Path(value).is_absolute():
            return value
        path = os.path.relpath(value, home.resolve())
        return value if path.startswith("..") else path

    config.data.source = relative(config.data.source)
    for part in ("items", "users", "links", "images"):
        setattr(config.data, part, relative(getattr(config.data, part)))


def finding_lines(findings: Sequence[Finding], level: Sequence[str] = ("error", "warning")) -> list[str]:
    """Findings of these severities, a line each."""
    return [
        f"{finding.severity}: {finding.name}: {finding.message}" for finding in findings if finding.severity in level
    ]
