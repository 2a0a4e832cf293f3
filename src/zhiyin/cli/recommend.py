"""`zhiyin recommend`: the best items for users, or for a history."""

from __future__ import annotations

from typing import Annotated

import typer

from zhiyin.cli.answers import Length, Model, Output
from zhiyin.cli.options import CONFIG, ConfigFile, Json, Threads
from zhiyin.core.errors import ConfigError


def recommend(
    users: Annotated[list[str] | None, typer.Argument(metavar="[USER]...", help="Users by id.")] = None,
    k: Length = 10,
    model: Model = None,
    history: Annotated[str | None, typer.Option(help="Items a visitor had, oldest first: a,b,c.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every user of the training data.")] = False,
    allow: Annotated[str | None, typer.Option(help="Choose from these items only: a,b,c.")] = None,
    deny: Annotated[str | None, typer.Option(help="Leave these items out: a,b,c.")] = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Also what the user had.")] = False,
    output: Output = None,
    config: ConfigFile = CONFIG,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """The best items for users. One never seen gets what is popular, and that is said.

    \b
    Examples:
      zhiyin recommend alice bob -k 5
      zhiyin recommend --history 'item 7,item 9' --model models/als
      zhiyin recommend --all --output lists.parquet
    """
    from zhiyin.cli.answers import deliver, find_model, listed
    from zhiyin.cli.show import say
    from zhiyin.core.run import Run
    from zhiyin.models.saving import load

    if (bool(users) + (history is not None) + everyone) != 1:
        raise ConfigError("for whom?", remedy="name users, or --history a,b,c, or --all")
    folder = find_model(model, config)
    loaded = load(folder)
    for what, ids, asked in (
        ("user", loaded.known_.user_ids, users),
        ("item", loaded.known_.item_ids, listed(history)),
    ):
        unknown = [raw for raw, code in zip(asked or [], ids.encode(asked or [])) if code < 0]
        for raw in unknown[:5]:
            say(f"{what} {raw!r} is not known to the model" + (": popular items instead" if what == "user" else ""))
    frame = loaded.recommend(
        users or None,
        k,
        histories={"visitor": listed(history)} if history is not None else None,
        exclude_seen=not include_seen,
        allow=listed(allow),
        deny=listed(deny),
        run=Run(threads=threads),
    )
    deliver(frame, "item", folder, output, json)
