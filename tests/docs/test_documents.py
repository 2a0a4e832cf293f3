"""Every code block of the documents does what it says: it is run, or checked, or named below with the reason why not.

Python blocks of a section share one namespace, in order. Commands of a document run in one project folder;
`zhiyin serve` is a real service, which the `curl` and Python blocks that follow ask.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")
pytest.importorskip("sqlglot")
pytest.importorskip("lightgbm")
pytest.importorskip("plotly")
pytest.importorskip("cronsim")

import httpx
from typer.testing import CliRunner

import zhiyin as zy
from tests.docs import project
from tests.docs.markdown import Block, blocks_of
from tests.docs.shell import commands
from zhiyin.cli.main import app
from zhiyin.pipeline.model_versions import Bundles

ROOT = Path(__file__).parents[2]
# The translation of the first has its blocks, which is tested; they run once.
TRANSLATION = "README.zh-CN.md"
DOCUMENTS = ("README.md", TRANSLATION, "docs/guide.md", "docs/ads.md", "docs/architecture.md", "docs/benchmarks.md",
             "docs/click_through.md",
             "docs/decisions.md", "docs/dependencies.md", "docs/experiments.md", "docs/flink.md", "docs/off_policy.md",
             "docs/policies.md", "docs/ratings.md", "docs/reviews_and_cold_users.md", "docs/social.md", "docs/spark.md",
             "docs/testing.md",
             "docs/training-processes.md",
             "deploy/README.md")  # fmt: skip
# Those of CONTRIBUTING.md are parts of files: test_contributing.py puts them there.
ELSEWHERE = ("CONTRIBUTING.md",)
# What cannot be run here, by file and first line, and why. A line that no document has any more fails.
NOT_RUN: dict[tuple[str, str], str] = {
    ("docs/architecture.md", "flowchart TB"): "a picture that the page draws: no part of the test environment can",
    (
        "docs/guide.md",
        "SASRec: epoch 1/30  loss 9.0079  valid loss 8.8581  ndcg@10 0.0109  learning rate 0.003  5.8 s  6,284 events/s",  # noqa: E501
    ): "what the command above it prints, as tests/cli/test_watching.py has it",
    (
        "docs/guide.md",
        "SASRec: ending after this step, with a checkpoint; once more ends at once",
    ): "what Ctrl-C prints, as tests/cli/test_watching.py has it",
    ("docs/decisions.md", "from zhiyin.client import Client"): "tests/service/test_decisions.py runs it",
    (
        "docs/off_policy.md",
        "zhiyin whatif new.toml --placement home --from 7d   # [rules], [answers] and [placements] of new.toml",
    ): "it needs the log of a service: tests/service/test_whatif.py runs the command over one",
    ("docs/social.md", "from zhiyin.client import Client"): "tests/service/test_client.py runs these calls",
    (
        "docs/off_policy.md",
        "The log cannot answer:",
    ): "what the command prints, as tests/pipeline/test_whatif.py has it",
    (
        "docs/flink.md",
        "python3.11 -m venv .flink && .flink/bin/pip install apache-flink==2.3.0",
    ): "it installs another environment and needs Java; tests/engines/flink runs the command on a cluster",
    ("docs/flink.md", "flowchart LR"): "a picture that the page draws: no part of the test environment can",
    (
        "docs/flink.md",
        "zhiyin stream start                                    # a local cluster too, where no engine is named",
    ): "it needs a cluster; tests/engines/flink runs these commands on one",
    ("docs/flink.md", "zhiyin stream sql trending > trending.sql"): "it needs a cluster, as the page says",
    ("docs/spark.md", "pip install 'zhiyin[spark]'"): "it needs a cluster; tests/engines runs these commands on one",
    (
        "docs/spark.md",
        "apt install libpostgresql-jdbc-java        # /usr/share/java/postgresql.jar",
    ): "it needs a cluster and a database; tests/engines has both",
    ("docs/spark.md", "spark-submit --master yarn --deploy-mode client \\"): "it needs a cluster, as the page says",
    (
        "docs/training-processes.md",
        "zhiyin data shards shards --shards 8",
    ): "tests/models/neural/test_shards.py starts these processes",
    (
        "docs/training-processes.md",
        "# spark-submit this; it takes as many slots as processes at once",
    ): "it needs a cluster, as the page says",
    (
        "docs/training-processes.md",
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint first-machine:29500 \\",
    ): "it needs two machines, as the page says",
}
# What a test has no time or no name for; the first word of a command is not replaced.
INSTEAD = (("--budget 10m", "--budget 3s --force"),)
PORT = re.compile(r"(?:localhost|127\.0\.0\.1):8000")


class Session:
    """The shell, the interpreter and the service that a reader of a document has before them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""
        # Keys that the first start has shown, by scope.
        self.keys: dict[str, str] = {}
        self.section: tuple[str, str] = ("", "")
        self.names: dict[str, Any] = {}
        self.trained: set[tuple[str, ...]] = set()
        self._service: contextlib.ExitStack | None = None

    def run(self, block: Block) -> None:
        """Run one block. Raises what goes wrong in it."""
        if (block.file, block.section) != self.section:
            self.section, self.names = (block.file, block.section), {}
        kind = {"bash": "sh", "shell": "sh", "console": "sh", "py": "python", "javascript": "js", "yml": "yaml"}
        lang = kind.get(block.lang, block.lang)
        act: Callable[[str], None] | None = getattr(self, f"run_{lang}", None) if lang else None
        if act is None:
            pytest.fail(f"a block in {block.lang!r}: name its language, and say in this test how it is checked")
        act(block.text)

    # -- one method a language ----------------------------------------------------------------------------------------

    def run_python(self, text: str) -> None:
        text = self._here(text)
        used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        for name in used - self.names.keys():  # what a section takes for granted
            if name in GIVEN:
                self.names[name] = GIVEN[name](self)
        exec(compile(text, "block", "exec"), self.names)  # noqa: S102

    def run_sh(self, text: str) -> None:
        for old, new in INSTEAD:
            text = text.replace(old, new)
        for words in commands(self._here(text)):
            words = [word.replace("$KEY", self.keys["admin"]) if "$KEY" in word else word for word in words]
            act = getattr(self, f"_{words[0]}", None)
            if act is None:
                pytest.fail(f"nobody here knows how to check {words[0]!r}: say so in this test, or list the block")
            act(words[1:])

    def run_toml(self, text: str) -> None:
        from zhiyin.data.project_config import load_config

        file = self.folder / "block.toml"
        file.write_text(text)
        load_config(file)

    def run_json(self, text: str) -> None:
        json.loads(text)

    def run_yaml(self, text: str) -> None:
        pytest.importorskip("yaml").safe_load(text)

    def run_html(self, text: str) -> None:
        """Scripts that are named are served, and what is called of them is there."""
        called = set(re.findall(r"\bzhiyin\.(\w+)\(", text))
        script = httpx.get(f"{self.serving()}/zhiyin.js", timeout=30).text
        assert 'src="' in text
        for name in called:
            assert re.search(rf"\b{name}\b", script), f"zhiyin.js has no {name}"

    def run_js(self, text: str) -> None:
        node = shutil.which("node")
        if node is None:
            pytest.skip("Node.js is not installed: no node on the path")
        file = self.folder / "block.mjs"
        file.write_text(text)
        subprocess.run([node, "--check", str(file)], check=True, capture_output=True, timeout=60)

    # -- one method a command -----------------------------------------------------------------------------------------

    def _zhiyin(self, words: list[str]) -> None:
        if words[0] == "serve":
            self.stop()
            self.serving(words[1:])
            return
        if words[0] == "init":
            (self.folder / "zhiyin.toml").unlink(missing_ok=True)
        if words[:2] == ["key", "revoke"]:  # one that the reader made last year
            CliRunner().invoke(app, ["key", "add", words[2], "--scope", "read"])
        if words[0] == "diff":  # between versions that the reader has: there are two at least
            bundles = Bundles(self.folder / "models" / "bundles")
            while len(bundles.versions()) < 2:
                bundles.promote(bundles.write(bundles.get(1).load(), figures={}).version)
        if words[0] == "train" and tuple(words) in self.trained:  # once is enough
            return
        self.trained.add(tuple(words))
        result = CliRunner().invoke(app, words)
        said = f"zhiyin {' '.join(words)}\n{result.output}"
        assert "Traceback" not in result.output, said
        assert result.exit_code == 0, said
        assert result.exception is None or isinstance(result.exception, SystemExit), said

    def _make(self, words: list[str]) -> None:
        if shutil.which("make") is None:
            pytest.skip("make is not installed")
        found = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert found.returncode == 0, found.stderr

    def _pip(self, words: list[str]) -> None:
        """The package and its extras are those of pyproject.toml."""
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert words[0] == "install"
        for word in words[1:]:
            name, _, extras = word.rstrip("]").partition("[")
            assert name == known["name"]
            assert set(filter(None, extras.split(","))) <= known["optional-dependencies"].keys()

    def _curl(self, words: list[str]) -> None:
        headers: dict[str, str] = {}
        method, body, addresses, at = "", None, [], 0
        while at < len(words):
            word, at = words[at], at + 1
            if word in ("-H", "-d", "-X", "--data", "--header", "--request"):
                value, at = words[at], at + 1
                if word in ("-H", "--header"):
                    headers |= dict([value.split(": ", 1)])
                elif word in ("-X", "--request"):
                    method = value
                else:
                    body = value
            elif word not in ("-s", "-i", "-sS", "-f"):
                addresses.append(word if "://" in word else f"http://{word}")
        self.serving()
        answer = httpx.request(method or ("GET" if body is None else "POST"), *addresses, headers=headers,
                               content=body, timeout=60)  # fmt: skip
        assert answer.is_success, f"{answer.status_code} {answer.text}"

    # -- the service --------------------------------------------------------------------------------------------------

    def serving(self, words: list[str] | None = None) -> str:
        """The address of the service, which is started where none runs."""
        if self._service is None:
            self._service = contextlib.ExitStack()
            self.address, keys = self._service.enter_context(served(self.folder, words or []))
            self.keys |= keys
        return self.address

    def stop(self) -> None:
        if self._service is not None:
            self._service.close()
        self._service = None

    def _here(self, text: str) -> str:
        """Without the address that documents write: the service listens where there was room."""
        if PORT.search(text) or re.search(r"\b(?:PAGE_)?KEY\b", text):
            return PORT.sub(self.serving().removeprefix("http://"), text)
        return text


@contextlib.contextmanager
def served(folder: Path, words: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """A service in a process of its own until the end of the block: its address, and the keys that it has shown."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from zhiyin.cli.main import main; main()", "serve", "--port", "0", *words],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        assert process.stderr is not None
        lines, address = [], ""
        for line in process.stderr:
            lines.append(line)
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                address = found[0]
                break
        said = "".join(lines)
        assert address, f"the service did not start:\n{said}"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        assert httpx.get(f"{address}/ready", timeout=60).is_success
        yield address, {key.split("_")[1]: key for key in re.findall(r"\bzy_[a-z]+_[\w-]+", said)}
    finally:
        guard.cancel()
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(30) == 0, "the service did not end in order"
        finally:
            process.kill()


def _data(_: Session) -> Any:
    return zy.read("ratings.csv", items="movies.csv", users="users.csv")


def _sources(session: Session) -> Any:
    data = session.names.setdefault("data", _data(session))
    return {"popular": zy.Popular().fit(data), "itemknn": zy.ItemKNN().fit(data)}


GIVEN: dict[str, Callable[[Session], Any]] = {
    "zy": lambda _: zy, "data": _data, "more_data": _data, "sources": _sources,
    "KEY": lambda session: session.keys["admin"], "PAGE_KEY": lambda session: session.keys["page"],
}  # fmt: skip


def bare(block: Block) -> str:
    """A block without its comments, which a translation may translate."""
    return re.sub(r"\s+#[^\n]*", "", block.text) if block.lang in ("sh", "python") else block.text


BLOCKS = [block for name in DOCUMENTS if (ROOT / name).is_file() for block in blocks_of(ROOT / name, ROOT)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != TRANSLATION])
def test_blocks(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a document, one after the other; of those that fail, each is told."""
    blocks = [block for block in BLOCKS if block.file == document and (document, block.first) not in NOT_RUN]
    if not blocks:
        return
    project.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    session, failed = Session(tmp_path), []
    try:
        for block in blocks:
            try:
                session.run(block)
            except pytest.skip.Exception as why:  # the others are run all the same
                warnings.warn(f"{block} is not checked: {why}", stacklevel=1)
            except (Exception, pytest.fail.Exception):
                failed.append(f"{block} does not do what it says:\n{block.text}\n{traceback.format_exc(limit=-4)}")
    finally:
        session.stop()
    if failed:
        pytest.fail("\n\n".join(failed), pytrace=False)


def test_what_is_not_run_is_still_there() -> None:
    there = {(block.file, block.first) for block in BLOCKS}
    assert set(NOT_RUN) <= there, "listed as not run, and no longer in the documents"


def test_every_document_with_blocks_is_run() -> None:
    """A new document is named here, so that its blocks run."""
    skipped = {"node_modules", ".venv", ".git", "build", "dist"}
    files = [path for path in ROOT.rglob("*.md") if not skipped & set(path.relative_to(ROOT).parts)]
    with_blocks = {str(path.relative_to(ROOT)) for path in files if blocks_of(path, ROOT)}
    assert with_blocks <= {*DOCUMENTS, *ELSEWHERE}
    assert "docs/guide.md" in with_blocks


def test_translated_blocks_are_the_same() -> None:
    english, chinese = ([bare(block) for block in BLOCKS if block.file == name] for name in ("README.md", TRANSLATION))
    assert english == chinese


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")))
def test_every_module_that_a_page_names_is_there(page: str) -> None:
    rooms = "|".join(path.name for path in (ROOT / "src/zhiyin").iterdir() if path.is_dir())
    named = set(re.findall(rf"`((?:{rooms})/[\w/]+\.py)", (ROOT / page).read_text()))
    assert not [name for name in sorted(named) if not (ROOT / "src/zhiyin" / name).is_file()]
