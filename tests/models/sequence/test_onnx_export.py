"""Exports to ONNX: what onnxruntime answers is what the model answers."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from zhiyin.core.errors import ConfigError, DataError, MissingExtraError, NotFittedError, ZhiyinError
from zhiyin.core.run import Run
from zhiyin.data.histories import Histories
from zhiyin.models import registry
from zhiyin.models.neural.batches import serving_sequences
from zhiyin.models.neural.neural_recommender import NeuralRecommender
from zhiyin.models.popularity import Popular
from zhiyin.models.sequence import onnx_export
from zhiyin.models.sequence.onnx_export import export_onnx
from zhiyin.models.sequence.sasrec import SASRec
from zhiyin.testing.recommender import shop

# Imported where they are used: it takes them a second.
MISSING = [package for package in ("onnxscript", "onnxruntime") if find_spec(package) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")
MAX_LEN = 9
SETTINGS: dict[str, dict[str, Any]] = {
    "SASRec": {"heads": 2, "temperature": 0.5},
    "HSTU": {"heads": 2},
    "GRU4Rec": {},
    "Caser": {"window": 4, "horizontal": 3},
}


def fitted(name: str, **settings: Any) -> NeuralRecommender:
    """One epoch of a tiny model. Skips where the module is not there."""
    settings = {"factors": 8, "blocks": 1, "epochs": 1, "max_len": MAX_LEN, "validation": "none"} | settings
    if name in ("GRU4Rec", "Caser"):
        del settings["blocks"]
    return registry.make(name, settings).fit(shop(), Run(threads=1))


def histories(lengths: list[int], n_items: int) -> Histories:
    rng = np.random.default_rng(len(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, n_items, offsets[-1]).astype(np.int32)
    times = np.concatenate([np.cumsum(rng.integers(0, 10**12, n)) for n in lengths])
    return Histories.of(offsets, items, times=times)


def answers(folder: Path, asked: Histories) -> np.ndarray:
    """Vectors as a stack without zhiyin would make them, all rows in one batch."""
    import onnxruntime

    manifest = json.loads((folder / "export.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"), providers=["CPUExecutionProvider"])
    (batch,) = serving_sequences(asked, manifest["max_len"])
    feed = {name: getattr(batch, name).numpy() for name in manifest["inputs"]}
    (vectors,) = session.run(["vector"], feed)
    back = np.empty_like(vectors)
    back[batch.rows.numpy()] = vectors
    return back


class _Off(torch.nn.Module):
    """A network a little beside another one."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.network(*inputs) + 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SETTINGS))
def test_onnxruntime_answers_as_the_model(name: str, tmp_path: Path) -> None:
    model = fitted(name, **SETTINGS[name])
    export_onnx(model, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "encoder.onnx",
        "export.json",
        "item_vectors.npy",
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert manifest["inputs"] == ["items", "lengths", "times"] if name == "HSTU" else ["items", "lengths"]
    assert manifest["items"] == shop().item_ids.values.to_list()
    assert manifest["settings"]["max_len"] == MAX_LEN
    vectors = np.load(tmp_path / "out" / "item_vectors.npy")
    np.testing.assert_array_equal(vectors, model.item_vectors_)
    for lengths in ([1], [5], [30], [1, 1, 1], [2, 9, 4, 1], [3] * 40):
        asked = histories(lengths, len(manifest["items"]))
        found = answers(tmp_path / "out", asked)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, model.encode(asked, Run(threads=1)), rtol=0, atol=1e-4)
        np.testing.assert_allclose(found @ vectors.T, model.score(asked, Run(threads=1)), rtol=1e-3, atol=1e-3)
    off = _Off(onnx_export.Exported(model._net()))
    with pytest.raises(ZhiyinError, match="differ by"):
        onnx_export.verify(
            tmp_path / "out" / "encoder.onnx", off, manifest["inputs"], model._context().candidates.size, 4
        )


@pytest.fixture(scope="module")
def model() -> NeuralRecommender:
    return fitted("SASRec")


def test_a_failed_export_leaves_the_last_one(
    model: NeuralRecommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "export.json").write_text("{}")

    class Full:
        def save(self, file: Path) -> None:
            raise OSError("no space left")

    monkeypatch.setattr(onnx_export, "_program", lambda network, reach: Full())
    with pytest.raises(OSError, match="no space"):
        export_onnx(model, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "export.json").read_text() == "{}"


def test_what_is_refused(model: NeuralRecommender, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        export_onnx(SASRec(), tmp_path / "out")
    with pytest.raises(ConfigError, match="Popular"):
        export_onnx(Popular().fit(shop()), tmp_path / "out")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="no export"):
        export_onnx(model, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_extra(model: NeuralRecommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=package) as raised:
        export_onnx(model, tmp_path / "out")
    assert "zhiyin[onnx]" in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_network_of_fixed_size_is_told(tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, items: torch.Tensor, lengths: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(items), 4) + lengths[:, None]

    with pytest.raises(ZhiyinError, match="fixed shape"):
        onnx_export._program(Fixed(), MAX_LEN)
