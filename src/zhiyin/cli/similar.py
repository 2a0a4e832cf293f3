"""`zhiyin similar`: the items most similar to an item."""

from __future__ import annotations

from typing import Annotated

import typer

from zhiyin.cli.list_output import Length, Model, Output
from zhiyin.cli.options import CONFIG, ConfigFile, Json, Threads


def similar(
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Items by id.")],
    k: Length = 10,
    model: Model = None,
    output: Output = None,
    config: ConfigFile = CONFIG,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """The items most similar to each item.

    \b
    Examples:
      zhiyin similar 50
      zhiyin similar 50 181 -k 5 --model models/als --json
    """
    from zhiyin.cli.list_output import find_model, write_list
    from zhiyin.core.run import Run
    from zhiyin.models.loading import load

    folder = find_model(model, config)
    write_list(load(folder).similar(items, k, run=Run(threads=threads)), "similar", folder, output, json)
