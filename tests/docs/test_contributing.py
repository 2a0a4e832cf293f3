"""What CONTRIBUTING.md shows is complete: the model passes the conformance suite, the metric its own example, the
reader reads; and the files that it names are there."""

from __future__ import annotations

import doctest
import gzip
import inspect
import re
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
          "KIND_COUNTS = Endpoint", "client.call(KIND_COUNTS")  # fmt: skip


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
    from zhiyin.service import app, endpoint_routes

    assert app.HANDLER_MODULES  # their handlers are bound
    monkeypatch.setattr(endpoint_routes, "HANDLERS", dict(endpoint_routes.HANDLERS))
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


def test_the_files_that_it_names_are_there() -> None:
    made_here = {"src/zhiyin/models/companions.py", "tests/models/test_companions.py"}
    named = set(re.findall(r"`((?:src|tests|docs)/[\w/]+\.\w+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert len(named) > 4
    assert not {name for name in named - made_here if not (ROOT / name).is_file()}
