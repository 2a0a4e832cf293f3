"""Options that hold durations: a text that is none is refused with the option's name, before anything is done."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Command

OPTIONS = {
    "--budget": ("train",),
    "--timeout": ("tune", "ease"),
    "--gap": ("sessions", "out.parquet"),
    "--query-timeout": ("init", "sqlite:///shop.db"),
    "--before": ("store", "drop", "--yes"),
    "--every": ("store", "stream", "--once"),
    "--keep": ("store", "stream", "--once"),
    "--expires": ("key", "add", "web", "--scope", "page"),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    ("text", "reason"), [("soon", "'soon' is not a duration"), ("0s", "'0s' is shorter than a microsecond")]
)
def test_the_option_is_named(zhiyin: Command, option: str, text: str, reason: str) -> None:
    error, remedy = zhiyin(*OPTIONS[option], option, text, code=1).stderr.strip().splitlines()
    assert error == f"Error: {option}: {reason}"
    assert '"7d"' in remedy


def test_no_option_takes_a_duration_unchecked() -> None:
    """Options whose default or help is a duration check it, or parse more than one; found among all commands."""
    import re

    import typer

    from zhiyin.cli.main import app

    def options(command: object, path: str) -> list[tuple[str, object]]:
        inner = getattr(command, "commands", None)
        if inner is not None:
            return [one for name, child in inner.items() for one in options(child, f"{path} {name}".strip())]
        return [(path, parameter) for parameter in command.params]  # type: ignore[attr-defined]

    unchecked = {
        f"{path} {parameter.opts[0]}"
        for path, parameter in options(typer.main.get_command(app), "")
        if re.search(r"\b\d+[smhdwy]\b", f"{getattr(parameter, 'help', '')} {parameter.default}")  # type: ignore[attr-defined]
        and parameter.callback is None  # type: ignore[attr-defined]
    }
    # A schedule; moments.
    assert unchecked == {"serve --retrain", "whatif --from"}
