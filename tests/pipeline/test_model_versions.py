"""Versions on disk: sealed, promoted, rolled back, compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.models.neighbors import ItemKNN
from zhiyin.models.popularity import Popular
from zhiyin.pipeline.model_versions import Bundle, Bundles, checksum, manifest_difference
from zhiyin.testing.recommender import shop


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    kept = Bundles(tmp_path / "bundles")
    for half_life in ("7d", "30d"):
        kept.write(Popular(half_life=half_life).fit(shop()), figures={"ndcg@10": 0.5}, report={"why": half_life})
    return kept


def test_a_version_is_what_was_fitted(bundles: Bundles) -> None:
    model = bundles.get(2).load()
    expected = Popular(half_life="30d").fit(shop()).recommend(["u1", "u2"], 5)
    assert model.recommend(["u1", "u2"], 5).equals(expected)
    assert bundles.versions() == [1, 2]
    assert bundles.get(2).report() == {"why": "30d"}
    manifest = bundles.get(1).manifest
    assert manifest["data"]["events"] == 720
    assert manifest["settings"] == {"half_life": "7d"}
    assert set(manifest["code"]) >= {"zhiyin", "python", "numpy"}


def test_nothing_is_in_use_before_it_is_promoted(bundles: Bundles) -> None:
    assert bundles.current is None
    bundles.promote(1, "first")
    assert _used(bundles).version == 1
    bundles.promote(2)
    assert _used(bundles).version == 2
    assert bundles.rollback().version == 1
    assert _used(bundles).version == 1
    with pytest.raises(DataError, match="nothing was in use before"):
        bundles.rollback()
    assert [line["version"] for line in bundles.promotions()] == [1, 2, 1]


def test_rolling_back_twice_goes_two_back(bundles: Bundles) -> None:
    bundles.write(Popular().fit(shop()), figures={})
    for version in (1, 2, 3):
        bundles.promote(version)
    assert bundles.rollback().version == 2
    assert bundles.rollback().version == 1


@pytest.mark.parametrize("file", ["bundle.json", "model/model.json"])
def test_a_rollback_to_a_damaged_version_names_one_that_is_whole(bundles: Bundles, file: str) -> None:
    bundles.write(Popular().fit(shop()), figures={})
    bundles.promote(2)
    bundles.promote(3)
    (bundles.folder / "0002" / file).write_text("{")
    with pytest.raises(DataError, match="version 2, which was in use before") as caught:
        bundles.rollback()
    assert caught.value.remedy == "zhiyin promote 1"
    (bundles.folder / "0001" / file).write_text("{")
    with pytest.raises(DataError) as caught:
        bundles.rollback()
    assert caught.value.remedy == "zhiyin train --budget 10m"
    assert _used(bundles).version == 3


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_damaged_version_is_not_put_in_use(bundles: Bundles, how: str) -> None:
    bundles.promote(1)
    file = next((bundles.folder / "0002" / "model").glob("*.npy"))
    if how == "gone":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    with pytest.raises(DataError, match=file.name):
        bundles.promote(2)
    assert _used(bundles).version == 1


def _reseal(folder: Path) -> None:
    """Write checksums of the files as they are: what a tampered version would bring with it."""
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"] = {
        str(file.relative_to(folder)): checksum(file)
        for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "bundle.json"
    }  # fmt: skip
    (folder / "bundle.json").write_text(json.dumps(manifest))


def _manifest(folder: Path, **said: object) -> None:
    (folder / "bundle.json").write_text(json.dumps(json.loads((folder / "bundle.json").read_text()) | said))


TAMPERED: dict[str, Callable[[Path], object]] = {
    "a file more": lambda folder: (folder / "model" / "more.py").write_text("import os"),
    "a hidden file": lambda folder: (folder / ".more").write_text(""),
    "no files": lambda folder: _manifest(folder, files={}),
    "no time": lambda folder: _manifest(folder, made="x"),
    "a link": lambda folder: (folder / "report.json").unlink() or (folder / "report.json").symlink_to("/etc/hostname"),
    "a linked folder": lambda folder: (
        (folder / "model").rename(folder.parent / "aside") and (folder / "model").symlink_to(folder.parent / "aside")
    ),
    "a file elsewhere": lambda folder: _manifest(
        folder, files={"model/model.json": "", "../0001/bundle.json": checksum(folder.parent / "0001" / "bundle.json")}
    ),
}


@pytest.mark.parametrize("how", list(TAMPERED))
def test_a_version_holds_what_its_manifest_says_and_nothing_else(bundles: Bundles, how: str) -> None:
    bundles.promote(1)
    TAMPERED[how](bundles.folder / "0002")
    with pytest.raises(DataError, match=r"written|no model"):
        bundles.promote(2)
    assert _used(bundles).version == 1


@pytest.mark.parametrize(("name", "change"), [
    ("history.items", lambda a: np.full_like(a, 10**9)), ("history.items", lambda a: np.full_like(a, -1)),
    ("history.users", lambda a: a + 10**6), ("history.offsets", lambda a: a * 1_000),
    ("history.offsets", lambda a: a[::-1]), ("history.weights", lambda a: a[:3]), ("history.now", lambda a: a[:3]),
    ("known.popularity", lambda a: a[:3]), ("history.items", lambda a: a.astype(np.float64)),
    ("similarities_.indices", lambda a: np.full_like(a, 10**6)), ("similarities_.indices", lambda a: a - 10),
    ("similarities_.indptr", lambda a: a * 3), ("similarities_.data", lambda a: a[:3]),
])  # fmt: skip
def test_codes_that_lead_nowhere_are_refused(bundles: Bundles, name: str, change: Callable[[Any], Any]) -> None:
    """Even where the checksums are right: kernels follow codes without a look."""
    folder = bundles.write(ItemKNN().fit(shop()), figures={}).folder
    file = folder / "model" / f"{name}.npy"
    np.save(file, change(np.load(file)))
    _reseal(folder)
    bundles.get(3).verify()
    bundles.promote(1)
    with pytest.raises(DataError, match="missing or damaged"):
        bundles.promote(3, load=True)  # as the command line does it
    assert _used(bundles).version == 1
    with pytest.raises(DataError, match="missing or damaged"):
        bundles.get(3).load()


def test_a_version_that_is_not_there_says_which_are(bundles: Bundles) -> None:
    with pytest.raises(DataError, match="there are 1, 2"):
        bundles.get(7)
    (bundles.folder / "0002" / "bundle.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        bundles.get(2)


def test_difference_names_what_differs(bundles: Bundles) -> None:
    found = manifest_difference(bundles.get(1), bundles.get(2))
    assert found["settings.half_life"] == ("7d", "30d")
    assert "data.fingerprint" not in found
    assert manifest_difference(bundles.get(1), bundles.get(1)) == {}


def test_no_file_of_a_version_can_run(bundles: Bundles) -> None:
    kinds = {file.suffix for file in (bundles.folder / "0001").rglob("*") if file.is_file()}
    assert kinds <= {".json", ".npy", ".arrow", ".safetensors"}
    json.loads((bundles.folder / "0001" / "bundle.json").read_text())


def _used(bundles: Bundles) -> Bundle:
    used = bundles.current
    assert used is not None
    return used
