"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def checked_duration(option: typer.CallbackParam, text: str | None) -> str | None:
    """The text of an option that holds a duration, such as "7d"; its callback.

    Raises ConfigError that names the option for another text, before the command begins.
    """
    from zhiyin.core.durations import microseconds
    from zhiyin.core.errors import ConfigError

    if text is not None:
        try:
            microseconds(text)
        except ConfigError as error:
            raise ConfigError(f"{option.opts[0]}: {error.message}", remedy=error.remedy) from None
    return text


ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Settings of the project.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Every random draw descends from it.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Worker threads; default all cores.")]
Models = Annotated[
    list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models, such as ease or als:factors=64,reg=0.1.")
]
Settings = Annotated[
    list[str] | None, typer.Option("-p", "--param", metavar="NAME=VALUE", help="A hyperparameter; may be repeated.")
]
Assume = Annotated[
    list[str] | None,
    typer.Option("--assume", metavar="KEY=VALUE", help="What files leave open, as under [read]: day_first=true."),
]
EvaluationGoal = Annotated[
    str | None,
    typer.Option("--goal", help="What is judged first: ranking or rating; default [train] goal, or what models do."),
]
NoStore = Annotated[bool, typer.Option("--no-store", help="Leave out the events of the service's store.")]
Engine = Annotated[
    str | None, typer.Option("--engine", help="Where the work is done: spark://host:7077, sc://host:15002, local[*].")
]
EngineFolder = Annotated[
    Path | None, typer.Option("--engine-folder", help="Folder that the engine's workers see too; default .engine.")
]
EngineOptions = Annotated[
    list[str] | None, typer.Option("--engine-option", metavar="KEY=VALUE", help="Setting of Spark; may be repeated.")
]

CONFIG = Path("zhiyin.toml")

GOALS_OF_EVALUATION = ("ranking", "rating")


def checked_goal(goal: str | None) -> str | None:
    """What `--goal` of an evaluation says. Raises ConfigError for another text."""
    from zhiyin.core.errors import ConfigError

    if goal is not None and goal not in GOALS_OF_EVALUATION:
        raise ConfigError(f"--goal {goal!r} cannot be judged", remedy=f"one of {', '.join(GOALS_OF_EVALUATION)}")
    return goal
