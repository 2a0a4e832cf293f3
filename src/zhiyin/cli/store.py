"""`zhiyin store`: the content of the project's store, its export and import as Parquet, backup and restore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.options import CONFIG, ConfigFile, Json, checked_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zhiyin.core.errors import DataError
    from zhiyin.service.import_validation import InvalidRow
    from zhiyin.store.store import Store

# Rows that are named where many do not fit.
MAX_LISTED_ROWS = 20
app = typer.Typer(
    help="The store of events, items, users and lists.", no_args_is_help=True, rich_markup_mode=None
)  # fmt: skip


@app.command()
def info(config: ConfigFile = CONFIG, json: Json = False) -> None:
    """How much the store holds. Counting a large one takes a while.

    \b
    Examples:
      zhiyin store info
      zhiyin store info --json
    """
    from zhiyin.cli.output import print_json, print_table
    from zhiyin.cli.project import open_project, opened_store

    with opened_store(open_project(config)) as store:
        facts: dict[str, Any] = {"store": store.address, **store.info()}
        if store.path is not None:
            facts["megabytes"] = round(store.path.stat().st_size / 1e6, 1)
    for name in ("first event", "last event"):
        facts[name] = _utc_text(facts[name])
    print_json(facts) if json else print_table(("what", "value"), list(facts.items()))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A folder to write; one that is there is replaced.")],
    config: ConfigFile = CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that is there.")] = False,
    shards: Annotated[
        int | None, typer.Option(help="Split the events by user into as many folders, for training in processes.")
    ] = None,
) -> None:
    """Write everything as Parquet, for other programs or another store.

    With --shards several processes can train on it, each on its own shards: see docs/training-processes.md.

    \b
    Examples:
      zhiyin store export backup-2026-05
      zhiyin store export shards --shards 8
    """
    from zhiyin.cli.output import say
    from zhiyin.cli.project import open_project, opened_store
    from zhiyin.core.errors import DataError

    project = open_project(config)
    if folder.exists() and not force:
        raise DataError("there is something already", file=folder, remedy="name another folder, or give --force")
    with opened_store(project) as store:
        store.export(folder, project.run, shards=shards, types=project.config.schema.types)
        say(f"everything is in {folder}" + ("" if shards is None else f", the events in {shards} shards"))


@app.command()
def load(
    folder: Annotated[Path, typer.Argument(help="What zhiyin store export wrote.")],
    skip: Annotated[bool, typer.Option("--skip", help="Leave out rows that do not fit, and name them.")] = False,
    config: ConfigFile = CONFIG,
) -> None:
    """Load what `export` wrote. Rows that the store has stay as they are; what was forgotten stays forgotten.

    Items and users are checked against the types of their columns, as writes over HTTP are: values are converted where
    nothing is lost. Where one does not fit nothing is loaded, but with --skip.

    \b
    Examples:
      zhiyin store load backup-2026-05
      zhiyin store load backup-2026-05 --skip
    """
    from zhiyin.cli.output import say
    from zhiyin.cli.project import open_project, opened_store
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.service.import_validation import learned_types, validate_import

    project = open_project(config)
    learned = learned_types(Bundles(project.home / project.config.train.output / "bundles"))
    with opened_store(project, create=True) as store:
        checked = validate_import(store, folder, learned, project.config.schema.types)
        if checked.invalid_rows and not skip:
            file = folder / f"{checked.invalid_rows[0].table}.parquet"
            raise _misfit_error(checked.invalid_rows, file, "leave such rows out: --skip")
        new = checked.load(store, folder, project.run)
        _list_rows("left out", checked.invalid_rows)
        say(f"{new:,} new events")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="A file to write.")], config: ConfigFile = CONFIG
) -> None:  # fmt: skip
    """Copy an SQLite store while it is in use. PostgreSQL has pg_dump for this.

    \b
    Examples:
      zhiyin store backup monday.db
    """
    from zhiyin.cli.output import say
    from zhiyin.cli.project import open_project, opened_store

    with opened_store(open_project(config)) as store:
        say(f"the store is copied to {store.backup(file)}")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What zhiyin store backup wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Restore also rows that do not fit, and name them.")] = False,
    config: ConfigFile = CONFIG,
) -> None:
    """Put a backup in the place of the store, which nobody may use meanwhile. The old file is kept beside it.

    Items and users are checked against the types of their columns, as writes over HTTP are. Where one does not fit
    nothing is restored, but with --force: the service then sets aside the values that do not fit.

    Who was forgotten since the backup was made is forgotten again. The old file still holds what it held: delete it
    when it is no longer needed.

    \b
    Examples:
      zhiyin store restore monday.db
      zhiyin store restore monday.db --force
    """
    from zhiyin.cli.output import say
    from zhiyin.cli.project import open_project
    from zhiyin.core.errors import ConfigError
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.service.import_validation import invalid_rows_of, learned_types
    from zhiyin.store.restore import restore as restore_backup

    project = open_project(config)
    address = project.store_address
    if "://" in address and not address.startswith("sqlite:///"):
        raise ConfigError("a PostgreSQL store is restored by pg_restore", remedy="or load an export: zhiyin store load")
    learned = learned_types(Bundles(project.home / project.config.train.output / "bundles"))
    invalid_rows: list[InvalidRow] = []

    def validate(copy: Store) -> None:
        invalid_rows.extend(invalid_rows_of(copy, learned, project.config.schema.types))
        if invalid_rows and not force:
            raise _misfit_error(invalid_rows, file, "restore them as they are: --force")

    aside, n_forgotten = restore_backup(address.removeprefix("sqlite:///"), file, project.run, validate)
    say(f"the store is as it was in {file}")
    _list_rows("does not fit", invalid_rows)
    if aside is not None:
        say(f"the store before is kept in {aside}")
    if n_forgotten:
        say(f"{n_forgotten} users who were forgotten since were forgotten again")


@app.command()
def drop(
    before: Annotated[
        str,
        typer.Option("--before", callback=checked_duration, help="How old what is dropped is at least, such as 365d."),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = CONFIG,
) -> None:
    """Forget events, lists and impressions that are older than a duration. It cannot be taken back.

    \b
    Examples:
      zhiyin store drop --before 365d
      zhiyin store drop --before 2y --yes
    """
    import time

    from zhiyin.cli.forget import confirm_removal
    from zhiyin.cli.output import say
    from zhiyin.cli.project import open_project, opened_store
    from zhiyin.core.durations import microseconds

    oldest = time.time_ns() // 1000 - microseconds(before)
    project = open_project(config)
    with opened_store(project) as store:
        if not yes:
            confirm_removal(f"Remove what is from before {_utc_text(oldest)} from {store.address}?")
        n_dropped = {}
        for table, batches in (
            ("events", store.drop_events_in_batches(oldest)),
            ("lists", store.drop_lists_in_batches(oldest)),
        ):
            n_dropped[table] = 0
            with project.run.bar(f"Dropping {table}", None) as advance:
                for n_rows in batches:
                    n_dropped[table] += n_rows
                    advance(n_rows)
        say(f"{n_dropped['events']:,} events and {n_dropped['lists']:,} lists were dropped")


@app.command()
def stream(
    folder: Annotated[
        Path | None, typer.Argument(help="The folder of streams; left out, [streams] folder.", show_default=False)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Export what is new, then end.")] = False,
    every: Annotated[
        str | None, typer.Option("--every", callback=checked_duration, help="Pause between two exports, such as 1s.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", callback=checked_duration, help="Delete segments older than this, such as 7d."),
    ] = None,
    config: ConfigFile = CONFIG,
) -> None:
    """Export events and lists again and again, as files that streaming jobs read. Ctrl-C ends it.

    Each event is written once, in the order of arrival, however often this is stopped and started.
    With [service] streams, zhiyin serve exports by itself.

    \b
    Examples:
      zhiyin store stream
      zhiyin store stream streams --once
      zhiyin store stream streams --every 5s --keep 2d
    """
    from zhiyin.cli.output import say
    from zhiyin.cli.project import open_project, opened_store
    from zhiyin.cli.streams import applied_mark, event_schema_in_use, stop_on_signals
    from zhiyin.core.durations import SECOND, microseconds
    from zhiyin.data.project_config import streams_folder
    from zhiyin.store.segment_export import SegmentExporter

    project = open_project(config)
    settings = project.config.streams
    pause, age = microseconds(every or settings.every) / SECOND, microseconds(keep or settings.keep) / SECOND
    target = streams_folder(project.config, project.home) if folder is None else folder
    with (
        opened_store(project) as store,
        SegmentExporter(
            store, target, lambda: event_schema_in_use(project), age, applied_mark(project, store)
        ) as exporter,
        stop_on_signals() as stop,
        project.run.bar("Exporting", max(0, store.highest_seq - exporter.exported) if once else None) as advance,
    ):
        if once:
            n_rows = exporter.export(advance, stop)
            say(f"{n_rows:,} new rows in {target}; events up to number {exporter.exported:,}")
        else:
            say(f"exporting to {target} every {pause:g} s; Ctrl-C ends it")
            exporter.run(stop, pause, advance)
            say(f"events up to number {exporter.exported:,} are exported")


def _misfit_error(rows: Sequence[InvalidRow], file: Path, remedy: str) -> DataError:
    """The error that names the first of some rows that do not fit the types of their columns."""
    from zhiyin.core.errors import DataError

    return DataError(
        f"{len(rows):,} rows do not fit the types of their columns; "
        f"the first, {rows[0].table} {rows[0].key!r}: {rows[0].reason}",
        file=file,
        remedy=f"declare another type: PUT /v1/schema or [schema], or {remedy}",
    )


def _list_rows(outcome: str, rows: Sequence[InvalidRow]) -> None:
    """Print what became of some rows, by name up to MAX_LISTED_ROWS."""
    from zhiyin.cli.output import say

    for row in rows[:MAX_LISTED_ROWS]:
        say(f"{outcome}: {row.table} {row.key!r}: {row.reason}")
    if len(rows) > MAX_LISTED_ROWS:
        say(f"{outcome}: {len(rows) - MAX_LISTED_ROWS:,} more rows")


def _utc_text(time: int | None) -> str | None:
    from datetime import UTC, datetime

    return None if time is None else datetime.fromtimestamp(time / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
