"""Models on disk: a folder of NumPy arrays, Arrow frames, tensors (safetensors) and one JSON manifest. Nothing in it
can run.

Arrays are memory-mapped when loaded, so that several processes share them and a large model opens at once. A save is
whole or not at all: it is written beside the target and renamed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from zhiyin.core.atomic_files import read_json
from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import DataError
from zhiyin.core.params import settings_of
from zhiyin.data.event_schema import EventSchema, StorePosition
from zhiyin.data.histories import Histories
from zhiyin.data.ids import Ids
from zhiyin.models.recommender import Recommender, check_finite
from zhiyin.models.registry import make
from zhiyin.models.training_context import Known

FORMAT = 1
_HISTORY = ("offsets", "items", "weights", "times", "kinds", "values", "now", "users")
_KNOWN = ("candidates", "popularity", "priority")
_CSR = ("data", "indices", "indptr")


def save(model: Recommender, path: Any) -> None:
    """Write a fitted model to the folder `path`; see `Recommender.save`."""
    model._known()
    check_finite(model)
    target = Path(path)
    if target.exists() and not (target / "model.json").exists() and any(target.iterdir()):
        raise DataError("the folder holds something that is no model", file=target, remedy="save to another folder")
    with whole_folder(target) as draft:
        write(model, draft)


def write(model: Recommender, folder: Path, knows: Known | None = None) -> None:
    """Write a fitted model into an existing folder. `knows`: what the model that this one is a part of has written of
    the training data; where it is the same, it is not written again."""
    from zhiyin import __version__

    known = model._known()
    learned = {name: value for name, value in vars(model).items() if is_state(name) and name not in model._parts}
    state = {name: write_state(folder, name, value) for name, value in learned.items()}
    shared = knows is not None and knows.fingerprint == known.fingerprint
    if not shared:
        for name in _KNOWN:
            write_state(folder, f"known.{name}", getattr(known, name))
        for name in _HISTORY:
            write_state(folder, f"history.{name}", getattr(known.histories, name))
        if known.stored is not None:
            write_state(folder, "history.stored", known.stored)
        if known.histories.features is not None:
            known.histories.features.write_ipc(folder / "history.features.arrow")
        known.user_ids.values.to_frame("id").write_ipc(folder / "users.arrow")
        known.item_ids.values.to_frame("id").write_ipc(folder / "items.arrow")
    model._write_parts(folder)
    manifest = {
        "format": FORMAT,
        "zhiyin": __version__,
        "model": type(model).__name__,
        "settings": settings_of(model),
        "state": state,
        "fingerprint": known.fingerprint,
        "window": list(known.window),
        "schema": None if known.schema is None else known.schema.state(),
        "position": None if known.position is None else dataclasses.asdict(known.position),
    }
    (folder / "model.json").write_text(json.dumps(manifest, indent=1) + "\n")


def load(path: Any, *, mmap: bool = True, knows: Known | None = None) -> Recommender:
    """Read a model that `save` wrote. Raises DataError when the folder is no model or of a newer format.

    `knows`: what a model written as a part of another takes from that one.
    """
    source = Path(path)
    manifest = read_manifest(source, "model", FORMAT)
    try:
        model = make(manifest["model"], manifest["settings"])
        for name, kind in manifest["state"].items():
            if is_state(name):
                setattr(model, name, read_state(source, name, kind, mmap))
        shared = knows is not None and not (source / "items.arrow").exists()
        model.known_ = knows if shared else _read_known(source, manifest, mmap)  # type: ignore[misc,assignment]
        model._read_parts(source, mmap)
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
        pl.exceptions.PolarsError,
    ) as error:
        raise DataError(
            f"a part of the model is missing or damaged ({error})", file=source, remedy="train and save it again"
        ) from None
    return model


def read_manifest(source: Path, what: str, format: int) -> dict[str, Any]:
    """`model.json`, or of whatever else was saved. Raises DataError: no such folder, damaged, or of a newer format."""
    try:
        manifest = read_json(source / f"{what}.json", "train and save again")
    except (FileNotFoundError, NotADirectoryError):
        remedy = "name a folder written by save or train"
        raise DataError(f"there is no {what} here", file=source, remedy=remedy) from None
    if manifest.get("format") != format:
        raise DataError(
            f"the {what} is of format {manifest.get('format')}, this version reads {format}",
            file=source,
            remedy="use the version of zhiyin that wrote it, or train again",
        )
    return manifest


def _read_known(source: Path, manifest: dict[str, Any], mmap: bool) -> Known:
    features = source / "history.features.arrow"
    histories = {name: read_state(source, f"history.{name}", "array", mmap) for name in _HISTORY}
    known = {name: read_state(source, f"known.{name}", "array", mmap) for name in _KNOWN}
    schema, position = manifest.get("schema"), manifest.get("position")
    stored = (source / "history.stored.npy").exists()
    users, items = (Ids(pl.read_ipc(source / f"{name}.arrow")["id"]) for name in ("users", "items"))
    _check_codes(histories, known, len(users), len(items))
    return Known(
        users,
        items,
        Histories(**histories, features=pl.read_ipc(features) if features.exists() else None),
        **known,
        fingerprint=manifest["fingerprint"],
        window=tuple(manifest["window"]),
        schema=None if schema is None else EventSchema.from_state(schema),
        position=None if position is None else StorePosition(**position),
        stored=read_state(source, "history.stored", "array", mmap) if stored else None,
    )


def _check_codes(histories: dict[str, np.ndarray], known: dict[str, np.ndarray], n_users: int, n_items: int) -> None:
    """Raises ValueError for codes and offsets that lead beyond their arrays: kernels follow them without a look."""
    m, n = len(histories["items"]), len(histories["offsets"]) - 1
    _check_offsets(histories["offsets"], m)
    _check_range("items of histories", histories["items"], 0, n_items)
    _check_range("users of histories", histories["users"], -1, n_users)
    for name in ("weights", "times", "kinds", "values"):
        if histories[name].shape != (m,):
            raise ValueError(f"history.{name} is of another length than history.items")
    if not len(histories["now"]) == len(histories["users"]) == n:
        raise ValueError("history.now and history.users are of another length than history.offsets")
    for name, array in known.items():
        if array.shape != (n_items,):
            raise ValueError(f"known.{name} is not as long as there are items")


def _check_offsets(offsets: np.ndarray, size: int) -> None:
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 0).any():
        raise ValueError("offsets do not lead through their array")


def _check_range(what: str, codes: np.ndarray, low: int, high: int) -> None:
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise ValueError(f"{what} are no codes")
    if len(codes) and not low <= int(codes.min()) <= int(codes.max()) < high:
        raise ValueError(f"{what} are out of range")


def is_state(name: str) -> bool:
    """Whether an attribute is learned; `known_` is kept apart."""
    return name.endswith("_") and not name.startswith("_") and name != "known_" and name.isidentifier()


def write_state(folder: Path, name: str, value: Any) -> Any:
    """Write one piece of state; returns what the manifest says of it."""
    if isinstance(value, np.ndarray):
        np.save(folder / f"{name}.npy", value, allow_pickle=False)
        return "array"
    if sparse.issparse(value):
        for part in _CSR:
            np.save(folder / f"{name}.{part}.npy", getattr(value, part), allow_pickle=False)
        return {"csr": list(value.shape)}
    if isinstance(value, dict) and value and all(isinstance(part, np.ndarray) for part in value.values()):
        save_file({key: np.ascontiguousarray(part) for key, part in value.items()}, folder / f"{name}.safetensors")
        return "tensors"
    return {"value": value.item() if isinstance(value, np.generic) else value}


def read_state(folder: Path, name: str, kind: Any, mmap: bool) -> Any:
    def array(file: str) -> np.ndarray:
        found = np.load(folder / f"{file}.npy", mmap_mode="r" if mmap else None, allow_pickle=False)
        return found.view(np.ndarray) if isinstance(found, np.memmap) else found

    if kind == "array":
        return array(name)
    if kind == "tensors":
        file = folder / f"{name}.safetensors"
        return _mapped(file) if mmap else load_file(file)
    if "csr" in kind:
        parts = tuple(array(f"{name}.{part}") for part in _CSR)
        data, indices, indptr = parts
        rows, columns = kind["csr"]
        if len(indptr) != rows + 1 or data.shape != indices.shape:
            raise ValueError(f"{name} is not of the shape that was said")
        _check_offsets(indptr, len(indices))
        _check_range(f"columns of {name}", indices, 0, columns)
        return sparse.csr_matrix(parts, shape=tuple(kind["csr"]), copy=False)
    return kind["value"]


def _mapped(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, mapped: 8 bytes length of the header, the header in JSON, then the bytes.

    Copy-on-write, so that they are writable arrays, as torch wants them, and the file still cannot change.
    """
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > os.fstat(opened.fileno()).st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(opened.read(length))
    whole = np.memmap(file, dtype=np.uint8, mode="c").view(np.ndarray)[8 + length :]
    found = {}
    for name, said in header.items():
        if name != "__metadata__":
            start, stop = said["data_offsets"]
            found[name] = whole[start:stop].view(_DTYPES[said["dtype"]]).reshape(said["shape"])
    return found


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1", "BOOL": "?"}
