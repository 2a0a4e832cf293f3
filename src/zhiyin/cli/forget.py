"""`zhiyin forget`: delete all of a user from the store, with a proof."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zhiyin.cli.options import CONFIG, ConfigFile, Json

if TYPE_CHECKING:
    from zhiyin.cli.project import Project
    from zhiyin.store.store import Store
    from zhiyin.store.stream_state import StreamStateAwayError


def forget(
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """Remove all that the service knows of a user: events, columns, lists. It cannot be taken back.

    Files that the project reads ([data] source) are not touched; models forget with the next training.

    \b
    Examples:
      zhiyin forget u42
      zhiyin forget u42 --yes --json
    """
    from zhiyin.cli.output import print_json, print_table, say
    from zhiyin.cli.project import open_project, opened_store
    from zhiyin.cli.versions import bundles_of
    from zhiyin.core.errors import DataError
    from zhiyin.data.project_config import streams_address
    from zhiyin.store.forgetting import PLACES

    project = open_project(config)
    with opened_store(project) as store:
        streams_address(project.config, project.home, store.address)  # refused before anything is removed
        if not yes:
            confirm_removal(f"Remove all of user {user!r} from {store.address}?")
        in_use = bundles_of(config).current
        proof = store.forget(user, 0 if in_use is None else in_use.made_at)
        _forget_in_redis(project, store, user)
        away = _forget_in_streams(project, store, user)
    if json:
        print_json({"user": user, "proof": proof})
    else:
        print_table(
            ("what", "removed", "still found"), [(w, proof[f"{w} removed"], proof[f"{w} found"]) for w in PLACES]
        )
    remaining = [place for place in PLACES if proof[f"{place} found"]]
    if remaining:
        raise DataError(f"a search still finds {', '.join(remaining)}", remedy="something writes them: try again")
    if away is not None:
        raise away
    say("models forget with the next training: zhiyin train")


def _forget_in_redis(project: Project, store: Store, user: str) -> None:
    """Remove the user from the Redis that services share; what they hold in memory they remove themselves."""
    if project.config.service.redis is None:
        return
    from zhiyin.cli.output import say
    from zhiyin.data.project_config import resolved
    from zhiyin.store.live_state import state_name
    from zhiyin.store.redis_state import RedisState

    state = RedisState(resolved(project.config.service.redis, project.home), state_name(store.address))
    try:
        state.forget(user, store.forgotten_at(user))
        if state.away:
            say(
                "Redis does not answer: what it holds of the user goes within a quarter of an hour, "
                "showings within a day"
            )
    finally:
        state.close()


def _forget_in_streams(project: Project, store: Store, user: str) -> StreamStateAwayError | None:
    """Remove the user from what streams have computed. Returns the error where that cannot be reached."""
    if project.config.service.streams is None:
        return None
    from zhiyin.cli.streams import opened_stream_state
    from zhiyin.store.stream_state import StreamStateAwayError, forget_streamed

    try:
        with opened_stream_state(project, store) as state:
            forget_streamed(store, state, user)
    except StreamStateAwayError as error:
        error.remedy = "zhiyin forget again, when it can be reached: it holds the user's history still"
        return error
    return None


def confirm_removal(question: str) -> None:
    """Ask before a removal that cannot be undone. Raises ConfigError unless the answer is yes."""
    from zhiyin.core.errors import ConfigError

    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # nobody is there to answer
        typer.echo(err=True)
        agreed = False
    if not agreed:
        raise ConfigError("nothing was removed", remedy="answer y, or give --yes")
