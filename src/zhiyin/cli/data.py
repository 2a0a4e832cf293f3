"""`zhiyin data`: public data sets, fetched from their publishers; and a project's data as shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zhiyin.cli.options import CONFIG, Assume, ConfigFile, Engine, EngineFolder, EngineOptions, Json, NoStore

app = typer.Typer(
    help="Public data sets, fetched from their publishers; and a project's data as shards.",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip


@app.command("list")
def list_sets(json: Json = False) -> None:
    """The public sets by name, with licence and size.

    \b
    Examples:
      zhiyin data list
      zhiyin data list --json
    """
    from zhiyin.cli.output import print_json, print_table
    from zhiyin.data.public_datasets import cached, listed

    rows = []
    for data_set in listed():
        here = cached(data_set.name) is not None if "CATEGORY" not in data_set.name else False
        rows.append((data_set.name, data_set.shape, data_set.licence, data_set.page, "yes" if here else "no"))
    headers = ("name", "shape", "licence", "page", "here")
    if json:
        print_json([dict(zip(headers, row)) for row in rows])
    else:
        print_table(headers, rows)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name that `zhiyin data list` shows.")],
    from_path: Annotated[
        Path | None, typer.Option("--from", help="A file, zip or folder fetched by other means.")
    ] = None,
    json: Json = False,
) -> None:
    """Fetch a public set, or take it from a path, and say where it is.

    \b
    Examples:
      zhiyin data get movielens-100k
      zhiyin data get goodbooks-10k --from ~/Downloads/goodbooks
    """
    from zhiyin.cli.output import print_json, say
    from zhiyin.data.public_datasets import find
    from zhiyin.data.public_datasets import get as fetch

    folder, chosen = fetch(name, from_path=from_path), find(name)
    if json:
        print_json({"name": chosen.name, "folder": str(folder), "licence": chosen.licence, "page": chosen.page})
        return
    typer.echo(str(folder))
    extra = f" --items {folder / chosen.items}" if chosen.items else ""
    say(f"next: zhiyin init {folder / chosen.events}{extra}")


@app.command()
def shards(
    folder: Annotated[Path, typer.Argument(help="A folder to write.")],
    shards: Annotated[int, typer.Option(help="How many: at least as many as processes will train.")],
    force: Annotated[bool, typer.Option("--force", help="Replace shards that are there.")] = False,
    assume: Assume = None,
    no_store: NoStore = False,
    config: ConfigFile = CONFIG,
    engine: Engine = None,
    engine_folder: EngineFolder = None,
    engine_option: EngineOptions = None,
) -> None:
    """Write the project's data, its files and its store, split by user, for training in several processes.

    The store alone is written without holding its events in memory by zhiyin store export FOLDER --shards N.

    \b
    Examples:
      zhiyin data shards shards --shards 8
      zhiyin data shards shards --shards 64 --engine spark://host:7077
    """
    from zhiyin.cli.engine import opened_work
    from zhiyin.cli.output import say
    from zhiyin.cli.project import open_project
    from zhiyin.core.errors import DataError
    from zhiyin.data.shard_files import checked_shards, write_shards

    project = open_project(config, assume=assume)
    checked_shards(shards)
    if folder.exists() and not force:
        raise DataError("there is something already", file=folder, remedy="name another folder, or give --force")
    with opened_work(engine, engine_folder, engine_option, project.home) as work:
        if work is None:
            write_shards(project.data(store=not no_store), folder, shards, project.run)
        else:
            work.write_shards(project.data(store=not no_store, read=work.read), folder, shards, project.run)
    say(f"{folder} holds {shards} shards")
    say(f"next: torchrun --nproc-per-node 2 -m zhiyin train sasrec --shards {folder}")
