"""`zhiyin data`: public data sets, fetched from their publishers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zhiyin.cli.options import Json

app = typer.Typer(help="Public data sets, fetched from their publishers.", no_args_is_help=True, rich_markup_mode=None)


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
