"""`zhiyin predict`: the ratings that users would give to items."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.list_output import Model
from zhiyin.cli.options import CONFIG, ConfigFile, Json, Threads
from zhiyin.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import polars as pl

# Pairs predicted at once, from one file; a line is shorter than this many bytes.
BATCH_PAIRS = 1_000_000
_USER, _ITEM = ("user", "user_id", "userid", "uid"), ("item", "item_id", "itemid", "movieid", "iid")


def predict(
    user: Annotated[str | None, typer.Argument(help="A user by id.")] = None,
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="Items by id.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="A file of pairs: columns user and item, or the first two.")
    ] = None,
    model: Model = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a .csv or .parquet file.")] = None,
    config: ConfigFile = CONFIG,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """The ratings that a user would give to items, as the service answers them without events of its store.

    Needs a version of `zhiyin train --goal rating`, or a model of ratings. An unknown user gets the rating of a mean
    user, an unknown item that of a mean item; both are marked.

    \b
    Examples:
      zhiyin predict alice "item 7" "item 9"
      zhiyin predict 196 242 --model models/biasedmf
      zhiyin predict --pairs pairs.csv -o ratings.csv
    """
    import polars as pl

    from zhiyin.cli.list_output import find_model, forgotten_since
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.core.run import Run
    from zhiyin.models.loading import load

    if (user is not None) == (pairs is not None) or (user is not None and not items):
        raise ConfigError(
            "name a user with items, or a file of pairs", remedy="zhiyin predict USER ITEM..., or --pairs pairs.csv"
        )
    if output is not None and output.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"cannot write {output.name}", remedy="name a file that ends in .csv or .parquet")
    asked = _pairs(pairs) if pairs is not None else pl.DataFrame({"user": [user] * len(items or []), "item": items})
    folder = find_model(model, config)
    loaded, run = load(folder), Run(threads=threads)
    forgotten = forgotten_since([str(one) for one in asked["user"].unique().to_list()], folder, config)
    if forgotten:
        say(f"forgotten since the model was made: {len(forgotten):,} users; they get the ratings of a new user")
    frame = predicted(loaded, asked, run, forgotten)
    unknown = (
        frame.filter(~pl.col("known_user"))["user"].n_unique(),
        frame.filter(~pl.col("known_item"))["item"].n_unique(),
    )
    for what, number in zip(("user", "item"), unknown):
        if number:
            say(f"{number:,} {what}s are not known: they get the rating of a mean {what}")
    if output is not None:
        _write(frame, output)
        say(f"wrote {len(frame):,} ratings to {output}")
    elif json:
        print_json(frame.to_dicts())
    else:
        print_table(frame.columns, frame.rows())


def predicted(model: Any, asked: pl.DataFrame, run: Any, forgotten: set[str] | None = None) -> pl.DataFrame:
    """Frame `user`, `item`, `rating`, `known_user`, `known_item`, and `low` and `high` where they were measured.

    asked: `user` and `item`, raw ids. forgotten: users of whom nothing may be known.
    """
    import numpy as np
    import polars as pl

    from zhiyin.data.time_policy import wall_clock
    from zhiyin.pipeline.rating_predictions import predict_ratings, rating_model_of

    rating_model, context, now = rating_model_of(model), model._context(), wall_clock()
    parts = []
    for start in range(0, max(1, len(asked)), BATCH_PAIRS):
        part = asked.slice(start, BATCH_PAIRS)
        rows = context.user_ids.encode(part["user"]).astype(np.int64)
        if forgotten:
            rows[part["user"].cast(pl.String).is_in(list(forgotten)).to_numpy()] = -1
        codes = context.item_ids.encode(part["item"])
        found = predict_ratings(rating_model, context.histories, rows, codes, now, run)
        columns: dict[str, Any] = {"rating": found.ratings}
        if found.low is not None:
            columns |= {"low": found.low, "high": found.high}
        columns |= {"known_user": found.known_users, "known_item": found.known_items}
        parts.append(part.with_columns(**{name: pl.Series(name, values) for name, values in columns.items()}))
    return pl.concat(parts)


def _pairs(path: Path) -> pl.DataFrame:
    """`user` and `item` of a CSV or Parquet file, as texts: columns of these names, or the first two.

    Raises DataError where it cannot be read, has one column, or a row without an id, which is named.
    """
    import polars as pl

    if not path.is_file():
        raise DataError("there is no such file", file=path, remedy="check the path of the pairs")
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except Exception as error:  # of a damaged file each reader raises what it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"the pairs cannot be read ({reason})", file=path, remedy="a CSV file: user,item") from None
    if frame.width < 2:
        raise DataError("the file has one column", file=path, remedy="two columns: user,item")
    lower = {name.strip().lower(): name for name in reversed(frame.columns)}
    user = next((lower[name] for name in _USER if name in lower), frame.columns[0])
    item = next((lower[name] for name in _ITEM if name in lower), frame.columns[1])
    if user == item:
        raise DataError(f"column {user!r} would be user and item", file=path, remedy="name the columns user and item")
    frame = frame.select(user=pl.col(user).cast(pl.String), item=pl.col(item).cast(pl.String))
    missing = frame.select(pl.any_horizontal(pl.all().is_null() | (pl.all() == ""))).to_series()
    if missing.any():
        raise DataError("a user or an item is missing", file=path, row=int(missing.arg_max() or 0) + 2,
                        remedy="an id in both columns of each row")  # fmt: skip
    return frame


def _write(frame: pl.DataFrame, output: Path) -> None:
    from zhiyin.core.atomic_files import whole_file

    with whole_file(output) as draft:
        frame.write_csv(draft) if output.suffix == ".csv" else frame.write_parquet(draft)
