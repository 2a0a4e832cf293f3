"""Shared by `recommend` and `similar`: options, the choice of the model, and the output of lists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zhiyin.cli.options import CONFIG
from zhiyin.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="Folder of a saved model; default the version in use.")
]
Length = Annotated[int, typer.Option("--k", "-k", min=1, help="Items in a list.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write a .csv or .parquet file.")]


def find_model(model: Path | None, config: Path = CONFIG) -> Path:
    """The folder of a model: the given one, else the version in use, else the first of the settings, else any."""
    if model is not None:
        return model
    folder, preferred = config.parent / "models", ["ease"]
    if config.is_file():
        from zhiyin.cli.project import open_project

        project = open_project(config)
        folder = project.home / project.config.train.output
        preferred = [name.partition(":")[0].lower() for name in project.config.train.models]
    from zhiyin.pipeline.model_versions import Bundles

    in_use = Bundles(folder / "bundles").current
    if in_use is not None:
        return in_use.model_folder
    present = sorted(path.parent.name for path in folder.glob("*/model.json"))
    for name in (*preferred, *present):
        if name in present:
            return folder / name
    raise DataError("there is no trained model", file=folder, remedy="train one: zhiyin train; or name it: --model")


def forgotten_since(users: Sequence[str], folder: Path, config: Path) -> set[str]:
    """Which of these users were forgotten after the model in `folder` was trained."""
    from importlib.util import find_spec

    if not users or not config.is_file() or not (find_spec("sqlalchemy") and (folder / "model.json").is_file()):
        return set()
    from zhiyin.cli.project import open_project, opened_store, sqlite_path
    from zhiyin.pipeline.model_versions import Bundles

    project = open_project(config)
    path = sqlite_path(project.store_address)
    if path is not None and not path.is_file():
        return set()
    if (folder.parent / "bundle.json").is_file():
        created = Bundles(folder.parent.parent).get(int(folder.parent.name)).made_at
    else:
        created = int((folder / "model.json").stat().st_mtime * 1e6)
    with opened_store(project) as store:
        return {user for user, time in zip(users, store.forgotten_at_each(users)) if time >= created}


def write_list(frame: pl.DataFrame, column: str, folder: Path, output: Path | None, json: bool) -> None:
    """Print a list with titles, print it as JSON, or write it to a file."""
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.core.atomic_files import whole_file
    from zhiyin.data.catalogue import Catalogue, with_titles

    catalogue = Catalogue.load(folder.parent)
    frame = with_titles(frame, column, None if catalogue is None else catalogue.titles)
    if output is not None:
        if output.suffix not in (".csv", ".parquet"):
            raise ConfigError(f"cannot write {output.name}", remedy="name a file that ends in .csv or .parquet")
        with whole_file(output) as draft:
            frame.write_csv(draft) if output.suffix == ".csv" else frame.write_parquet(draft)
        say(f"wrote {len(frame):,} rows to {output}")
    elif json:
        print_json(frame.to_dicts())
    else:
        print_table(frame.columns, frame.rows())


def split_ids(text: str | None) -> list[str] | None:
    """The ids of a text such as "a,b,c"."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
