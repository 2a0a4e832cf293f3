"""What CONTRIBUTING.md shows is complete: the model passes the conformance suite, the metric its own example, the
reader reads; and the files that it names are there."""

from __future__ import annotations

import doctest
import gzip
import inspect
import os
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import zhiyin
from tests.docs.markdown import Block, blocks_of
from tests.service.conftest import home, opened, poll_seconds  # noqa: F401
from zhiyin.core import ranking_metrics
from zhiyin.core.errors import DataError
from zhiyin.data import file_formats, source_opening
from zhiyin.data.reading import read
from zhiyin.evaluation.model_evaluation import accuracy, metric_k
from zhiyin.models import MODELS
from zhiyin.testing.recommender import RecommenderConformance

ROOT = Path(__file__).parents[2]
BLOCKS = blocks_of(ROOT / "CONTRIBUTING.md", ROOT)


def block(word: str) -> Block:
    """The one block that holds a word. Fails where there is none, or several: then this file is to follow."""
    found = [one for one in BLOCKS if word in one.text]
    assert len(found) == 1, f"CONTRIBUTING.md has {len(found)} blocks with {word!r}"
    return found[0]


# The blocks that are tested below, each by a word in it.
TESTED = ("class Companions(Recommender)", "class TestCompanions", "def rbp", 'kind == "avro"',
          "KIND_COUNTS = Endpoint", "client.call(KIND_COUNTS", "=KIND", "channel: Annotated",
          "channel: str | None\n", "channel: str | None = None\n")  # fmt: skip


def test_every_block_is_tested() -> None:
    assert [one.first for one in BLOCKS] == [block(word).first for word in TESTED]


def module(name: str, word: str) -> types.ModuleType:
    """The file that a block is, as an importable module."""
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec(compile(block(word).text, f"CONTRIBUTING.md, {word}", "exec"), made.__dict__)  # noqa: S102
    return made


@pytest.fixture(scope="class")
def companions() -> Iterator[Any]:
    """The model of the first block, named in the catalogue as the text says."""
    name = "zhiyin.models.companions"
    made = module(name, "class Companions(Recommender)")
    MODELS["Companions"] = "models.companions"
    assert zhiyin.Companions is made.Companions
    del zhiyin.Companions
    yield made.Companions
    del MODELS["Companions"], sys.modules[name]


@pytest.mark.usefixtures("companions")
class TestCompanions(RecommenderConformance):
    """The suite of the second block."""

    def make(self) -> Any:
        names: dict[str, Any] = {}
        exec(block("class TestCompanions").text, names)  # noqa: S102
        suite = names["TestCompanions"]
        assert issubclass(suite, RecommenderConformance)
        return suite().make()


def test_the_metric_passes_its_own_example(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"np": np, "_first": ranking_metrics._first}
    exec(block("def rbp").text, names)  # noqa: S102
    (example,) = [one for one in doctest.DocTestFinder().find(names["rbp"], "rbp", globs=names) if one.examples]
    assert doctest.DocTestRunner().run(example).failed == 0
    hits = np.random.default_rng(1).random((50, 7)) < 0.4
    expected = [sum(0.2 * 0.8**r for r in range(5) if row[r]) for row in hits]
    np.testing.assert_allclose(names["rbp"](hits, np.full(50, 3), 5), expected)
    # Named in the registry, it is a metric of a window.
    monkeypatch.setitem(ranking_metrics.RANKING, "rbp", names["rbp"])
    np.testing.assert_allclose(accuracy(hits, np.full(50, 3), [5])["rbp@5"], expected)
    assert metric_k("rbp@5") == 5


@pytest.fixture
def reads_avro(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The format, put where the text says."""
    monkeypatch.delitem(file_formats._REFUSED, "avro")
    source = inspect.getsource(source_opening._open)
    fragment = textwrap.indent(textwrap.dedent(block('kind == "avro"').text), "    ")
    place = source.index('    if kind == "sqlite"')
    changed: dict[str, Any] = {}
    exec(compile(source[:place] + fragment + source[place:], "_open", "exec"), vars(source_opening), changed)  # noqa: S102
    monkeypatch.setattr(source_opening, "_open", changed["_open"])
    for module_name, owner in [*sys.modules.items()]:
        if module_name.startswith("zhiyin.data.") and hasattr(owner, "ENDINGS"):
            monkeypatch.setattr(owner, "ENDINGS", (*source_opening.ENDINGS, ".avro"))
    file_formats.UNPACKED.add("avro")
    yield
    file_formats.UNPACKED.remove("avro")


@pytest.mark.usefixtures("reads_avro")
def test_the_reader_reads(tmp_path: Path) -> None:
    """Such a file is read in a folder, renamed and packed, without its bad row; a torn one is an error."""
    frame = pl.DataFrame({"user": ["a", "b", None], "item": ["x", "y", "z"], "time": [10**9, 10**9 + 60, 10**9]})
    (tmp_path / "log").mkdir()
    frame.write_avro(tmp_path / "log" / "events.avro")
    content = (tmp_path / "log" / "events.avro").read_bytes()
    (tmp_path / "renamed.csv").write_bytes(content)
    (tmp_path / "packed.avro.gz").write_bytes(gzip.compress(content))
    for name in ("log", "renamed.csv", "packed.avro.gz"):
        data = read(tmp_path / name)
        assert data.n_events == 2
        assert len(data.quarantine) == 1
    (tmp_path / "torn.avro").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="the file is damaged"):
        read(tmp_path / "torn.avro")


def test_the_endpoint_is_served(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """With its entry and its handler: answered with a key, refused without, described, and called from Python."""
    from tests.service.conftest import client_of
    from tests.service.running import running
    from zhiyin.client import ApiError, Client
    from zhiyin.service import app, endpoint_dispatch

    assert app.HANDLER_MODULES  # their handlers are bound
    monkeypatch.setattr(endpoint_dispatch, "HANDLERS", dict(endpoint_dispatch.HANDLERS))
    names = vars(module("zhiyin.service.kind_counts", "KIND_COUNTS = Endpoint"))
    monkeypatch.delitem(sys.modules, "zhiyin.service.kind_counts")
    service = client_of(opened())
    assert service.get("/v1/users/alice/kinds", headers={"Authorization": ""}).status_code == 401
    assert "/v1/users/{key}/kinds" in service.get("/openapi.json").json()["paths"]
    with running(service.app) as url, Client(url, service.keys["admin"], timeout=10) as client:
        client.events([{"user": "alice", "item": item, "kind": "view"} for item in ("i1", "i2")])
        names["client"] = client
        exec(block("client.call(KIND_COUNTS").text, names)  # noqa: S102
        assert names["counts"] == {"user": "alice", "kinds": {"view": 2}}
        with pytest.raises(ApiError, match="most"):
            client.call(names["KIND_COUNTS"], "alice", query={"most": 0})


# The files that a new field of an event stands in: behind which line of theirs, and in the block with which word.
NEW_FIELD = (
    (
        "store/records.py",
        "    seq: int = dataclasses.field(default=0, compare=False, metadata=INTEGER)\n",
        "metadata=KIND",
    ),
    ("api/requests.py", "    list_id: Id | None = None\n", "channel: Annotated"),
    ("api/responses.py", "class HistoryEvent(ResponseModel):\n", "channel: str | None\n"),
    (
        "client/api_types.py",
        "    list_id: str | None = None\n    text: str | None = None\n",
        "channel: str | None = None\n",
    ),
    ("client/event_calls.py", "    list_id: str | None = None,\n", "channel: str | None = None\n"),
    ("client/event_queue.py", "        list_id: str | None = None,\n", "channel: str | None = None\n"),
)
# What the package with the new field is asked to do, with a store, an export and an entry of Redis of before.
USE_NEW_FIELD = """
import json, sys
from pathlib import Path
import zhiyin
from tests.store import test_event_fields
from zhiyin.api.requests import EventBody
from zhiyin.api.responses import HistoryEvent
from zhiyin.client.api_types import Event as ClientEvent
from zhiyin.client.event_calls import event_json
from zhiyin.core.errors import DataError
from zhiyin.service.event_routes import _read_event
from zhiyin.store.records import events_from_rows, history_json
from zhiyin.store.redis_state import _json
from zhiyin.store.store import Store

package, folder, address, entry = *map(Path, sys.argv[1:3]), *sys.argv[3:]
assert Path(zhiyin.__file__).parent == package
for name, test in vars(test_event_fields).items():
    if name.startswith("test_"):
        test()
store = Store(address)
body = event_json(ClientEvent("alice", "i2", channel="mail"))
EventBody.model_validate(body)
store.append_validated([_read_event(body, store.clock())])
try:
    _read_event({"user": "alice", "item": "i3", "channel": 5}, store.clock())
except DataError as error:
    assert error.column == "channel"
else:
    raise AssertionError("a number is no channel")
events = store.history("alice")
rows = [HistoryEvent.model_validate(history_json(event)) for event in events]
assert [(row.item, row.channel) for row in rows] == [("i1", None), ("i2", "mail")], rows
assert events_from_rows([("alice", *json.loads(_json(event))) for event in events]) == events
(before,) = events_from_rows([("alice", *json.loads(entry))])
assert (before.item, before.seq, before.channel) == ("i1", 1, None)
store.export(folder / "new export")
other = Store(folder / "other.db")
assert (other.load(folder / "new export"), other.load(folder / "old export")) == (2, 0)
assert other.history("alice") == events
another = Store(folder / "another.db")
assert another.load(folder / "old export") == 1
assert another.history("alice") == events[:1]
"""


@pytest.mark.parametrize("dialect", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_the_event_field_is_stored_and_read(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The package with the lines in the named files reads what was stored before, and stores the field."""
    from tests.conftest import own_schema
    from zhiyin.data.time_policy import wall_clock
    from zhiyin.store.records import Event
    from zhiyin.store.redis_state import _json
    from zhiyin.store.store import Store

    package = tmp_path / "with the field" / "zhiyin"
    add_new_field(package)
    address = str(tmp_path / "old.db")
    if dialect == "postgresql":
        address = own_schema(request.getfixturevalue("postgres"))
    store = Store(address)
    store.append([Event("alice", "i1", wall_clock() - 10**9)])
    store.export(tmp_path / "old export")
    (event,) = store.history("alice")
    store.close()
    run_with(package, USE_NEW_FIELD, str(package), str(tmp_path), address, _json(event))


def add_new_field(package: Path) -> None:
    """The package with the lines of the section in copies of the files that it names, and links to all others."""
    original, rooms = ROOT / "src/zhiyin", {name.split("/")[0] for name, _, _ in NEW_FIELD}
    for path in (path for folder in (original, *map(original.joinpath, rooms)) for path in folder.iterdir()):
        link = package / path.relative_to(original)
        link.parent.mkdir(parents=True, exist_ok=True)
        if path.name not in rooms | {"__pycache__"}:
            link.symlink_to(path)
    for name, anchor, word in NEW_FIELD:
        source = (package / name).read_text()
        (package / name).unlink()
        assert source.count(anchor) == 1, name
        assert f"`src/zhiyin/{name}`" in (ROOT / "CONTRIBUTING.md").read_text()
        line = block(word).text
        if anchor.endswith(",\n"):  # a parameter
            line = " " * (len(anchor) - len(anchor.lstrip()) - 4) + line.replace("\n", ",\n")
            call = "id or fresh_id(), list_id, text)"
            assert source.count(call) == 1, name
            source = source.replace(call, "id or fresh_id(), list_id, text, channel)")
        (package / name).write_text(source.replace(anchor, anchor + line))


def run_with(package: Path, script: str, *arguments: str) -> None:
    """Run a script by a Python that imports this package."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package.parent), str(ROOT)])}
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def test_the_files_that_it_names_are_there() -> None:
    made_here = {"src/zhiyin/models/companions.py", "tests/models/test_companions.py"}
    named = set(re.findall(r"`((?:src|tests|docs)/[\w/]+\.\w+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert len(named) > 4
    assert not {name for name in named - made_here if not (ROOT / name).is_file()}
