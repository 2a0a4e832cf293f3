"""`zhiyin demo`: from data to a report and a service, on given data or on a simulated film shop."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.options import Assume, Seed, Threads

if TYPE_CHECKING:
    import socket

    from zhiyin.cli.project import Project
    from zhiyin.data.dataset import Dataset
    from zhiyin.service.key_cache import Keys

# Sources of the version that is served: fitted in seconds, and each can explain its recommendations.
PIPELINE_SOURCES = "popular:half_life=7d; itemknn; ease"
# Ports of which the first free one is taken.
PORTS = range(8000, 8100)


def demo(
    data: Annotated[
        Path | None, typer.Option("--data", help="A file or folder; default a cached public set, else a film shop.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where everything is written.")] = Path("demo"),
    assume: Assume = None,
    serve: Annotated[bool, typer.Option(help="At the end answer over HTTP, until Ctrl-C.")] = True,
    seed: Seed = None,
    threads: Threads = None,
) -> None:
    """From data to a report, saved models, recommendations and a service to click in, in a minute or two. Needs no
    network.

    \b
    Examples:
      zhiyin demo
      zhiyin demo --no-serve
      zhiyin demo --data ratings.csv --output try
    """
    from zhiyin.cli.evaluation_output import evaluate_models, write_evaluation
    from zhiyin.cli.output import duration, say
    from zhiyin.cli.project import DEFAULT_MODELS, config_of_sources, finding_lines, project_of, record_assumed
    from zhiyin.data.checks import examine

    begun = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    _print_step("1. Data")
    source = str(data or _cached_dataset() or _write_film_shop(output / "film-shop", seed or 0))
    config = config_of_sources(source, None, None, assume=assume)
    project = project_of(config, output, seed, threads)
    log = project.data()
    record_assumed(config, log)
    _print_step("2. What the checks of the data find (zhiyin check)")
    for line in finding_lines(examine(log), ("error", "warning", "info")):
        say(line)
    _print_step("3. Six models, judged on events they have not seen (zhiyin compare)")
    write_evaluation(evaluate_models(project, project.models(DEFAULT_MODELS), log), output)
    _print_step("4. Models of all events (zhiyin train), what they recommend, and what is similar")
    example_ids = _show_models(project, log, output / "models")
    _print_step("5. A version to serve: three sources, joined by what did best on days not learned from")
    _write_version(project, log, output / "models")
    _write_settings(project, output)
    if data is None:  # simulated visitors know no other shop
        _print_step("6. A film shop with a static list, and with one that learns (zhiyin simulate)")
        _learn(output, seed or 0)
    say(f"\ndone in {duration(time.perf_counter() - begun)}; open {output / 'report.html'} in a browser")
    say(f"next, with data of your own: zhiyin init ratings.csv; or go on here: cd {output} && zhiyin recommend --all")
    if serve:
        _print_step(f"{6 if data is not None else 7}. The service (zhiyin serve)")
        _serve(output, example_ids)


@dataclasses.dataclass(frozen=True)
class ExampleIds:
    """Ids for the example requests."""

    users: list[str]
    items: list[str]


def _print_step(title: str) -> None:
    typer.echo(typer.style(f"\n{title}", bold=True), err=True)


def _cached_dataset() -> Path | None:
    """The folder of a small public data set that was fetched before; None where there is none."""
    from zhiyin.data.public_datasets import cached

    return next(
        (folder for name in ("movielens-100k", "movielens-small") if (folder := _cached_folder(name, cached))), None
    )


def _cached_folder(name: str, cached: Any) -> Path | None:
    from zhiyin.core.errors import DataError

    try:
        path = cached(name)
    except DataError:
        return None
    return path if isinstance(path, Path) else None


def _write_film_shop(folder: Path, seed: int) -> Path:
    """Write the simulated film shop as files, which the demo then reads as it would read any data."""
    from zhiyin.cli.output import say
    from zhiyin.policies.simulators.film_shop import FilmShop

    FilmShop(seed=seed).write(folder)
    say(f"a simulated film shop (seed {seed}) in {folder}: events.csv, items.csv, users.csv")
    return folder


def _show_models(project: Project, log: Dataset, folder: Path) -> ExampleIds:
    """Fit and save EASE and ALS; print lists for three users of medium activity, and a list of similar items."""
    import numpy as np

    from zhiyin.cli.output import print_table, say
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
    titled = with_titles(lists, "item", titles)
    print_table(titled.columns, titled.rows(), "EASE recommends")
    popular = int(np.argmax(np.bincount(log.events["item"].to_numpy(), minlength=log.n_items)))
    item = log.item_ids.values[popular]
    near = with_titles(fitted["ALS"].similar([item], 5, run=project.run), "similar", titles)
    typer.echo()
    print_table(near.columns, near.rows(), f"ALS: similar to {item}")
    return ExampleIds(
        [str(user) for user in lists["user"].unique(maintain_order=True)], [str(item), str(near["similar"][0])]
    )


def _write_version(project: Project, log: Dataset, folder: Path) -> None:
    """Fit a pipeline on all events, save it as a version and put it in use."""
    from zhiyin.cli.output import say
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.pipeline.model_versions import Bundles
    from zhiyin.pipeline.pipeline import Pipeline

    bundles = Bundles(folder / "bundles")
    with bundles.training():
        pipeline = Pipeline(sources=PIPELINE_SOURCES, ranker="none", windows=1).fit(log, project.run)
        version = bundles.write(pipeline, figures={}, catalogue=Catalogue.of(log)).version
        bundles.promote(version, "made by zhiyin demo")
    chosen = ", ".join(f"{users}: {method}" for users, method in pipeline.choices_.items())
    say(f"version {version} is in use ({chosen}). to look for a better one: zhiyin train --budget 5m")


def _write_settings(project: Project, output: Path) -> None:
    """Write a settings file, so that every other command works in the demo's folder."""
    from zhiyin.cli.project import make_relative
    from zhiyin.data.project_config import write_config
    from zhiyin.models.registry import hyperparameters

    make_relative(project.config, output)
    write_config(output / "zhiyin.toml", project.config, hyperparameters())


def _learn(output: Path, seed: int) -> None:
    """Have simulated visitors click in a shop whose list is static, and in one whose list learns."""
    from zhiyin.cli.output import say

    if missing := _missing("starlette", "sqlalchemy", "httpx"):
        say(f"for visitors over HTTP {missing} is missing: pip install 'zhiyin[client,serve]'")
        return
    from zhiyin.cli.learning_scene import play_learning_scene

    play_learning_scene(output, seed)


def _missing(*packages: str) -> str:
    """Those that are not installed."""
    from importlib.util import find_spec

    return ", ".join(name for name in packages if find_spec(name) is None)


def _serve(output: Path, example_ids: ExampleIds) -> None:
    """Serve HTTP until Ctrl-C; print keys, example requests and the address of a page to try."""
    from zhiyin.cli.output import say

    if missing := _missing("starlette", "sqlalchemy", "uvicorn"):
        say(f"to answer over HTTP {missing} is missing: pip install 'zhiyin[serve,rules]'")
        say(f"then: cd {output} && zhiyin serve")
        return
    import uvicorn

    from zhiyin.service.app import create_app
    from zhiyin.service.tenant import Tenant

    with _listen_on_free_port() as listener:
        shop, keys = Tenant.open(output / "zhiyin.toml")
        try:
            keys = keys or _keys_for_today(shop.keys)
            app = create_app([shop])
            for line in _usage_lines(f"http://127.0.0.1:{listener.getsockname()[1]}", keys, example_ids):
                say(line)
            settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
            uvicorn.Server(settings).run(sockets=[listener])
        except KeyboardInterrupt:  # the usual end; what was acknowledged is on the disk
            pass
        finally:
            shop.close()
    say(f"stopped. to go on: cd {output} && zhiyin serve")


def _keys_for_today(keys: Keys) -> dict[str, str]:
    """New keys by scope, for a day: of those of an earlier demo only the hashes are stored."""
    from zhiyin.service.key_cache import SCOPES

    present = {key.name for key in keys.all()}
    keys_by_scope = {}
    for scope in SCOPES:
        if f"demo-{scope}" in present:
            keys.revoke(f"demo-{scope}", last_admin=True)
        keys_by_scope[scope] = keys.add(f"demo-{scope}", [scope], "1d")[1]
    return keys_by_scope


def _listen_on_free_port() -> socket.socket:
    """A socket that listens on the first free port. Connections wait until the service answers."""
    import errno
    import socket

    for port in (*PORTS, 0):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise AssertionError("unreachable: port 0 is any that is free")


def _usage_lines(url: str, keys: dict[str, str], example_ids: ExampleIds) -> list[str]:
    """Lines with the keys, example requests for a shell with existing items, and the address of the page to try."""
    import json
    import shlex
    from urllib.parse import quote, urlencode

    from zhiyin.service.server import spoken

    def curl(path: str, key: str, body: Any = None) -> str:
        data_option = "" if body is None else f" -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        return f"  curl -s {shlex.quote(url + path)} -H 'Authorization: Bearer {keys[key]}'{data_option}"

    clicks = [{"user": "visitor", "item": item, "kind": "view"} for item in example_ids.items]
    fragment = urlencode({"key": keys["page"], "users": ",".join(example_ids.users)})
    return [
        *(f"{spoken(scope)}: {key}" for scope, key in keys.items()),
        "two clicks of a new visitor, the list that follows from them with reasons, and what is similar:",
        curl("/v1/events", "events", {"events": clicks}),
        curl("/v1/recommendations", "read", {"user": "visitor", "k": 5, "explain": True}),
        curl(f"/v1/items/{quote(example_ids.items[0], safe='')}/similar?k=5", "read"),
        f"every call: {url}/docs",
        "click in your browser (the address holds the key for pages: it changes nothing but what visitors did):",
        f"  {url}/try#{fragment}",
        "Ctrl-C ends it",
    ]
