"""Pictures: what is read, what is refused, and that it is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("PIL")

from PIL import Image

from zhiyin.core.errors import DataError
from zhiyin.core.run import Run
from zhiyin.features.images import Images


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 20)) -> None:
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "covers"
    place.mkdir()
    paint(place / "red.png", (255, 0, 0))
    paint(place / "blue.jpg", (0, 0, 255), (300, 500))
    Image.new("L", (10, 30), 100).save(place / "grey.gif")
    (place / "broken.png").write_bytes((place / "red.png").read_bytes()[:60])
    (place / "text.png").write_text("no picture")
    paint(place / "huge.png", (1, 2, 3), (2000, 1000))
    paint(tmp_path / "secret.png", (9, 9, 9))
    return place


@pytest.mark.parametrize("threads", [1, 2])
def test_pictures_are_read_and_bad_ones_are_said(folder: Path, threads: int) -> None:
    names = ["red.png", "blue.jpg", "grey.gif", "broken.png", "text.png", "huge.png", "../secret.png", "no.png", None]
    images = Images(pl.Series(names), folder, size=16, max_pixels=1_000_000)
    pictures, there, said = images.read(np.arange(9), Run(threads=threads))
    assert pictures.shape == (9, 16, 16, 3)
    assert pictures.dtype == np.uint8
    assert there.tolist() == [True] * 3 + [False] * 6
    assert (pictures[0] == (255, 0, 0)).all()
    assert np.abs(pictures[1].astype(int) - (0, 0, 255)).max() < 12
    assert (pictures[2] == 100).all()
    assert not pictures[3:].any()
    assert said == [
        "1 are not there",
        "2 cannot be read",
        "1 have more than 1,000,000 pixels",
        "1 have no picture",
        "1 lie outside the folder",
    ]


def test_large_files_are_not_opened(folder: Path) -> None:
    small = Images(pl.Series(["red.png"]), folder, max_bytes=10)
    assert not small.read(np.arange(1))[1].any()


def test_the_middle_of_the_picture(folder: Path) -> None:
    picture = np.zeros((20, 60, 3), dtype=np.uint8)
    picture[:, 20:40] = 255
    Image.fromarray(picture).save(folder / "middle.png")
    found, _, _ = Images(pl.Series(["middle.png"]), folder, size=16).read(np.arange(1))
    assert found.min() > 200


def test_pictures_named_by_id_and_in_batches(folder: Path) -> None:
    images = Images.of_folder(folder, pl.Series(["blue", "none", "red"]), size=16)
    batches = list(images.batches(2))
    assert [rows.tolist() for rows, *_ in batches] == [[0, 1], [2]]
    assert np.concatenate([there for _, _, there, _ in batches]).tolist() == [True, False, True]
    with pytest.raises(DataError, match="no such folder"):
        Images.of_folder(folder / "nowhere", pl.Series(["a"]))
