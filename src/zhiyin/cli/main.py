"""The `zhiyin` command: its subcommands, its log on standard error, and its exit codes."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from zhiyin.cli import (
    campaign,
    check,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    experiment,
    export,
    forget,
    init,
    key,
    policy,
    predict,
    recommend,
    serve,
    sessions,
    similar,
    simulate,
    store,
    stream,
    train,
    tune,
    versions,
    whatif,
)
from zhiyin.cli.command_clock import count_from_start_of_process
from zhiyin.core.errors import ZhiyinError
from zhiyin.core.interrupts import Interrupted, resend_lost_interrupts

EPILOG = """\b
Begin:
  zhiyin demo                  see it work, without data of your own
  zhiyin init ratings.csv      write the settings: what the columns mean
  zhiyin train                 learn from all events
  zhiyin evaluate              evaluate models on what came later

\b
Exit codes:
  0  done
  1  the data, a setting or a model is wrong; the message says what to do
  2  the command was not understood
  3  zhiyin check found errors in the data
  130  interrupted (Ctrl-C)
  143  ended by SIGTERM; zhiyin train keeps a checkpoint
"""


COMMANDS = (
    "init",
    "check",
    "data",
    "train",
    "evaluate",
    "compare",
    "tune",
    "recommend",
    "predict",
    "similar",
    "sessions",
    "versions",
    "promote",
    "rollback",
    "diff",
    "whatif",
    "serve",
    "experiment",
    "campaign",
    "key",
    "policy",
    "forget",
    "store",
    "stream",
    "export",
    "simulate",
    "demo",
    "doctor",
)


class Group(TyperGroup):
    """Commands in the order of a project's life; known errors are printed as one message, without a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if name in self.commands]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["zhiyin.command"] = shlex.join(["zhiyin", *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except ZhiyinError as error:
            if not error.silent:
                typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from None
        except Interrupted as stop:
            typer.echo(f"{stop.message}\ngo on with: {ctx.meta['zhiyin.command']}", err=True)
            raise typer.Exit(128 + stop.number) from None
        except KeyboardInterrupt:
            typer.echo("interrupted, nothing was left half written", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader has closed the pipe: `zhiyin recommend --all | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:  # of the system: a full disk, a folder that cannot be made; others have no text of it
            reason = error.strerror or (str(error) if "os error" in str(error) else None)
            if reason is None:
                raise
            typer.echo(f"Error: {f'{error.filename}: ' if error.filename else ''}{reason}", err=True)
            raise typer.Exit(1) from None


class StandardErrorHandler(logging.Handler):
    """Writes log records, one a line, to the present standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        typer.echo(f"{prefix}{record.getMessage()}", err=True)


app = typer.Typer(
    cls=Group,
    add_completion=False,
    rich_markup_mode=None,  # Rich costs half of the time in which help is to answer
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    epilog=EPILOG,
)


def _print_version(requested: bool) -> None:
    if requested:
        from zhiyin.core.version import __version__

        typer.echo(f"zhiyin {__version__}")
        raise typer.Exit


@app.callback()
def root(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes on standard error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Zhiyin: from a log of events to recommendations you can trust."""
    log = logging.getLogger("zhiyin")
    log.handlers = [StandardErrorHandler()]
    log.propagate = False
    log.setLevel(logging.ERROR if quiet else logging.INFO)


app.command()(init.init)
app.command()(check.check)
app.add_typer(data.app, name="data")
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(tune.tune)
app.command()(recommend.recommend)
app.command()(predict.predict)
app.command()(similar.similar)
app.command()(sessions.sessions)
app.command()(export.export)
app.command()(serve.serve)
app.command()(forget.forget)
app.add_typer(experiment.app, name="experiment")
app.add_typer(campaign.app, name="campaign")
app.add_typer(key.app, name="key")
app.add_typer(policy.app, name="policy")
app.add_typer(store.app, name="store")
app.add_typer(stream.app, name="stream")
app.command()(versions.versions)
app.command()(versions.promote)
app.command()(versions.rollback)
app.command()(versions.diff)
app.command()(whatif.whatif)
app.command()(simulate.simulate)
app.command()(demo.demo)
app.command()(doctor.doctor)


def main() -> None:
    """The entry point of the script `zhiyin`."""
    # Waiting threads must not spin: beside other work that takes ten times as long. Read when OpenMP is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    count_from_start_of_process()
    resend_lost_interrupts()
    app(prog_name="zhiyin")


if __name__ == "__main__":
    main()
