"""`zhiyin demo`: the main job from data to a report, on data of one's own or on a simulated film shop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.options import Seed, Threads

if TYPE_CHECKING:
    from zhiyin.cli.project import Project
    from zhiyin.data.dataset import Dataset


def demo(
    data: Annotated[
        Path | None, typer.Option("--data", help="A file or folder; default a cached public set, else a film shop.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where everything is written.")] = Path("demo"),
    seed: Seed = None,
    threads: Threads = None,
) -> None:
    """From data to a report, saved models and recommendations, in a minute or two. Needs no network.

    \b
    Examples:
      zhiyin demo
      zhiyin demo --data ratings.csv --output try
    """
    from zhiyin.cli.judging import judge, publish
    from zhiyin.cli.project import SHELF, project_of, settle, short
    from zhiyin.cli.show import duration, say
    from zhiyin.data.doctor import examine

    begun = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    _step("1. Data")
    config = settle(str(data or _ready() or _shop(output / "film-shop", seed or 0)), None, None)
    project = project_of(config, output, seed, threads)
    log = project.data()
    _step("2. What the data doctor says (zhiyin check)")
    for line in short(examine(log), ("error", "warning", "info")):
        say(line)
    _step("3. Six models, judged on events they have not seen (zhiyin compare)")
    publish(judge(project, project.models(SHELF), log), output)
    _step("4. Models of all events (zhiyin train), what they recommend, and what is similar")
    _answers(project, log, output / "models")
    _settings(project, output)
    say(f"\ndone in {duration(time.perf_counter() - begun)}; open {output / 'report.html'} in a browser")
    say(f"next, with data of your own: zhiyin init ratings.csv; or go on here: cd {output} && zhiyin recommend --all")


def _step(title: str) -> None:
    typer.echo(typer.style(f"\n{title}", bold=True), err=True)


def _ready() -> Path | None:
    """The folder of a small public set that was fetched before."""
    from zhiyin.data.public import cached

    return next((folder for name in ("movielens-100k", "movielens-small") if (folder := _cached(name, cached))), None)


def _cached(name: str, cached: Any) -> Path | None:
    from zhiyin.core.errors import DataError

    try:
        found = cached(name)
    except DataError:
        return None
    return found if isinstance(found, Path) else None


def _shop(folder: Path, seed: int) -> Path:
    """The simulated film shop as files, so that the demo reads what a newcomer would bring."""
    from zhiyin.cli.show import say
    from zhiyin.policies.simulator import FilmShop

    FilmShop(seed=seed).write(folder)
    say(f"a simulated film shop (seed {seed}) in {folder}: events.csv, items.csv, users.csv")
    return folder


def _answers(project: Project, log: Dataset, folder: Path) -> None:
    """Fit and save EASE and ALS; lists for three users of middling activity, and one of similar items."""
    import numpy as np

    from zhiyin.cli.show import say, table
    from zhiyin.data.catalogue import Catalogue, with_titles

    catalogue = Catalogue.of(log)
    titles = catalogue.titles
    fitted = {}
    for model in project.models(["EASE", "ALS"]):
        name = type(model).__name__
        fitted[name] = model.fit(log, project.run)
        model.save(folder / name.lower())
        say(f"{name}: saved in {folder / name.lower()}")
    catalogue.save(folder)
    activity = np.bincount(log.events["user"].to_numpy(), minlength=log.n_users)
    middling = np.argsort(activity, kind="stable")[[log.n_users // 4, log.n_users // 2, 3 * log.n_users // 4]]
    lists = fitted["EASE"].recommend(log.user_ids.decode(middling), 5, run=project.run)
    shown = with_titles(lists, "item", titles)
    table(shown.columns, shown.rows(), "EASE recommends")
    popular = int(np.argmax(np.bincount(log.events["item"].to_numpy(), minlength=log.n_items)))
    item = log.item_ids.values[popular]
    near = with_titles(fitted["ALS"].similar([item], 5, run=project.run), "similar", titles)
    typer.echo()
    table(near.columns, near.rows(), f"ALS: similar to {item}")


def _settings(project: Project, output: Path) -> None:
    """A settings file, so that every other command works in the demo's folder."""
    from zhiyin.cli.project import make_relative
    from zhiyin.data.config import write_config
    from zhiyin.models.catalog import hyperparameters

    make_relative(project.config, output)
    write_config(output / "zhiyin.toml", project.config, hyperparameters())
