"""Jobs of a process whose output is mixed with that of the JVM. Without Java."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zhiyin.core.errors import EngineError
from zhiyin.engines.flink.local_jobs import LocalJobs

REQUEST = {"address": None, "settings": {}, "jobs": [{"name": "trending", "statements": []}]}


def python_that(folder: Path, lines: str) -> Path:
    """A program in place of Flink's Python: it reads the request, then runs these lines."""
    program = folder / "python"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.readline()\n{lines}\n")
    program.chmod(0o755)
    return program


def test_lines_of_the_jvm_are_logged_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    python = python_that(tmp_path, """
sys.stdout.buffer.write(b"Picked up JAVA_TOOL_OPTIONS: -Xmx1g \\xff\\n\\n[1, 2]\\n{not JSON}\\n")
print('{"job": "trending", "id": "ab"}', flush=True)
sys.stdin.read()
""")  # fmt: skip
    with caplog.at_level("INFO"), LocalJobs(python, REQUEST, tmp_path / "logs", seconds=60) as jobs:
        assert jobs.ids == {"trending": "ab"}
        jobs.check()
    assert "Picked up JAVA_TOOL_OPTIONS: -Xmx1g" in caplog.text


def test_a_process_that_ends_is_an_error_each_time(tmp_path: Path) -> None:
    python = python_that(
        tmp_path,
        """print('{"job": "trending", "id": "ab"}', flush=True)
sys.exit("no memory")""",
    )
    with LocalJobs(python, REQUEST, tmp_path / "logs", seconds=60) as jobs:
        jobs.process.wait(60)
        for _ in range(2):  # the second would wait for a line that never comes
            with pytest.raises(EngineError, match="has ended: no memory"):
                jobs.wait(60)


def test_output_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(line: str) -> None:
        raise RecursionError(f"{len(line)} characters")

    monkeypatch.setattr("zhiyin.engines.flink.local_jobs.json_object", fail)
    python = python_that(tmp_path, "print('[', flush=True)\nsys.stdin.read()")
    with pytest.raises(EngineError, match="cannot be read: 2 characters"):
        LocalJobs(python, REQUEST, tmp_path / "logs", seconds=60)
