"""`zhiyin recommend`: the best items for users, or for a history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from zhiyin.cli.list_output import Length, Model, Output
from zhiyin.cli.options import CONFIG, ConfigFile, Engine, EngineFolder, EngineOptions, Json, Threads
from zhiyin.core.errors import ConfigError

if TYPE_CHECKING:
    from zhiyin.pipeline.request import Answer


def recommend(
    users: Annotated[list[str] | None, typer.Argument(metavar="[USER]...", help="Users by id.")] = None,
    k: Length = 10,
    model: Model = None,
    history: Annotated[str | None, typer.Option(help="Items a visitor had, oldest first: a,b,c.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every user of the training data.")] = False,
    filter: Annotated[str, typer.Option("--filter", "-f", help="Condition: \"price < 50 AND genre = 'drama'\".")] = "",
    include: Annotated[str | None, typer.Option("--include", help="Choose from these items only: a,b,c.")] = None,
    exclude: Annotated[str | None, typer.Option("--exclude", help="Leave these items out: a,b,c.")] = None,
    pin: Annotated[list[str] | None, typer.Option(help="An item at a slot: 1=a. Can be repeated.")] = None,
    diversity: Annotated[str | None, typer.Option("--diversity", help="none, mmr, dpp or calibrate.")] = None,
    balance: Annotated[float | None, typer.Option(min=0, max=1, help="Diversity alone 0, score alone 1.")] = None,
    context: Annotated[list[str] | None, typer.Option(help="What filters may speak of: device=tv.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, and what was removed.")] = False,
    language: Annotated[str, typer.Option(help="Of the sentences: en or zh.")] = "en",
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Also what the user had.")] = False,
    output: Output = None,
    config: ConfigFile = CONFIG,
    threads: Threads = None,
    json: Json = False,
    engine: Engine = None,
    engine_folder: EngineFolder = None,
    engine_option: EngineOptions = None,
    allow: Annotated[str | None, typer.Option(hidden=True)] = None,
    deny: Annotated[str | None, typer.Option(hidden=True)] = None,
    variety: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """The best items for users. A user who is not known to the model gets the list of a new user, with a note.

    Rules and diversity are taken from [rules] and [answers] of the settings file, if there is one.

    \b
    Examples:
      zhiyin recommend alice bob -k 5
      zhiyin recommend alice --filter "price < 50 AND category IN ('drama', 'comedy')" --explain
      zhiyin recommend --history 'item 7,item 9' --model models/als --diversity mmr
      zhiyin recommend --all --output lists.parquet
      zhiyin recommend --all --engine spark://host:7077 --output lists.parquet
    """
    import polars as pl

    from zhiyin.cli.engine import opened_engine
    from zhiyin.cli.list_output import find_model, forgotten_since, split_ids, write_list
    from zhiyin.cli.output import print_json, say
    from zhiyin.core.run import Run
    from zhiyin.data.catalogue import Catalogue
    from zhiyin.models.loading import load
    from zhiyin.pipeline.answer_settings import load_answer_settings
    from zhiyin.pipeline.answers import Answers
    from zhiyin.pipeline.request import Request

    # The earlier names of options.
    include = _either("include", include, "allow", allow)
    exclude = _either("exclude", exclude, "deny", deny)
    diversity = _either("diversity", diversity, "variety", variety)
    if (bool(users) + (history is not None) + everyone) != 1:
        raise ConfigError(
            "name users, a history or --all: one of the three", remedy="name users, or --history a,b,c, or --all"
        )
    if engine is not None and not everyone:
        raise ConfigError("--engine makes lists for all users", remedy="--all, or leave it out")
    folder = find_model(model, config)
    loaded = load(folder)
    for what, ids, raw_ids in (
        ("user", loaded.context_.user_ids, users),
        ("item", loaded.context_.item_ids, split_ids(history)),
    ):
        unknown = [raw for raw, code in zip(raw_ids or [], ids.encode(raw_ids or [])) if code < 0]
        for raw in unknown[:5]:
            say(f"{what} {raw!r} is not known to the model" + (": the list of a new user" if what == "user" else ""))
    named = [str(user) for user in (loaded.context_.user_ids.values if everyone else users or [])]
    forgotten = forgotten_since(named, folder, config)
    if forgotten:
        say(f"forgotten since the model was made: {len(forgotten):,} users; "
            + ("they get no list" if everyone else "they get the list of a new user"))  # fmt: skip
    catalogue = Catalogue.load(folder.parent)
    context_values, types = _context(context)
    settings = load_answer_settings(config, types)
    answers = Answers(
        loaded,
        None if catalogue is None else catalogue.items,
        None if catalogue is None else catalogue.users,
        kinds=() if catalogue is None else catalogue.kinds,
        links=None if catalogue is None else catalogue.learned_links,
        run=Run(threads=threads),
        **settings,
    )
    exclude_seen = False if include_seen else None
    if everyone:
        if include or exclude or pin or explain or context_values:
            raise ConfigError(
                "--all takes no lists, pins, context or reasons", remedy="name users, or write a --filter"
            )
        recipients = (
            [user for user in loaded.context_.user_ids.values if str(user) not in forgotten] if forgotten else None
        )
        options: dict[str, Any] = {
            "filter": filter,
            "exclude_seen": exclude_seen,
            "diversity": diversity,
            "balance": balance,
        }
        with opened_engine(engine, engine_folder, engine_option, config.parent) as opened:
            if opened is None:
                frame = answers.ask_many(recipients, k, **options)
            else:
                from zhiyin.engines.spark.lists import recommend_all

                some = None if recipients is None else pl.Series(recipients, dtype=loaded.context_.user_ids.dtype)
                frame = recommend_all(
                    opened, folder, k, catalogue=catalogue, settings=settings, users=some, options=options
                )
        write_list(frame, "item", folder, output, json)
        return
    answers_by_user = []
    for user in users or ["visitor"]:
        request = Request(
            user=None if history is not None or user in forgotten else user,
            history=None if history is None else split_ids(history),
            k=k,
            filter=filter,
            include=split_ids(include),
            exclude=split_ids(exclude) or (),
            pins=_pins(pin),
            exclude_seen=exclude_seen,
            diversity=diversity,
            balance=balance,
            context=context_values,
            explain=explain,
        )
        answers_by_user.append((user, answers.ask(request)))
    if explain and output is None:
        titles: dict[Any, str] = {}
        if catalogue is not None and catalogue.titles is not None:
            titles = dict(zip(catalogue.items["id"], catalogue.titles["title"], strict=True))
        if json:
            print_json([_answer_json(user, answer, language, titles) for user, answer in answers_by_user])
        else:
            for user, answer in answers_by_user:
                _show(user, answer, language, titles)
        return
    rows = [(user, item, score, rank) for user, answer in answers_by_user
            for rank, (item, score) in enumerate(zip(answer.items, answer.scores), 1)]  # fmt: skip
    schema: dict[str, Any] = {
        "user": pl.String,
        "item": loaded.context_.item_ids.values.dtype,
        "score": pl.Float32,
        "rank": pl.Int32,
    }
    write_list(pl.DataFrame(rows, schema=schema, orient="row"), "item", folder, output, json)


def _either(name: str, value: str | None, earlier_name: str, earlier_value: str | None) -> str | None:
    """The value of an option that has an earlier name. Raises ConfigError where both are given."""
    if value is not None and earlier_value is not None:
        raise ConfigError(f"--{earlier_name} is the earlier name of --{name}", remedy="give one of them")
    return value if value is not None else earlier_value


def _context(texts: list[str] | None) -> tuple[dict[str, Any], dict[str, type]]:
    """Values and types of texts name=value: numbers where they can be read as numbers."""
    values: dict[str, Any] = {}
    for text in texts or []:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"--context {text!r} is no name and value", remedy="write device=tv")
        try:
            values[name.strip()] = float(value)
        except ValueError:
            values[name.strip()] = value.strip()
    return values, {name: type(value) for name, value in values.items()}


def _pins(texts: list[str] | None) -> dict[int, str]:
    pins = {}
    for text in texts or []:
        slot, sign, item = text.partition("=")
        if not sign or not slot.strip().isdigit() or int(slot) < 1:
            raise ConfigError(f"--pin {text!r} is no slot and item", remedy="write 1=item, slots from 1")
        pins[int(slot)] = item.strip()
    return pins


def _answer_json(user: str, answer: Answer, language: str, titles: dict[Any, str]) -> dict[str, Any]:
    why = [{**reason.to_dict(), "sentence": reason.sentence(language, titles)} for reason in answer.reasons]
    return {
        "user": user,
        "items": [{"rank": rank, "score": score, **reason}
                  for rank, (score, reason) in enumerate(zip(answer.scores, why), 1)],
        "removed": answer.removed, "method": answer.method, "milliseconds":
            {stage: round(1e3 * seconds, 3) for stage, seconds in answer.seconds.items()},
    }  # fmt: skip


def _show(user: str, answer: Answer, language: str, titles: dict[Any, str]) -> None:
    from zhiyin.cli.output import print_table, say

    rows = [[rank, item, titles.get(item, ""), reason.sentence(language, titles)]
            for rank, (item, reason) in enumerate(zip(answer.items, answer.reasons), 1)]  # fmt: skip
    print_table(["rank", "item", "title", "why"], rows, f"for {user}, by {answer.method}")
    for row in answer.removed:
        say(f"{row['item']} {titles.get(row['item'], '')}: removed ({row['rule']})")
