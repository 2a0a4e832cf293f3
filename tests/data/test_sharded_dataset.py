"""Shards: what is written is read back, also by several processes, whose splits are those of one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from tests.data.thread_group import in_threads

import zhiyin as zy
from zhiyin.core.errors import ConfigError, DataError, ZhiyinError
from zhiyin.data import draws, shard_files, sharded_dataset
from zhiyin.data.dataset import Dataset
from zhiyin.data.process_group import ProcessGroup
from zhiyin.data.shard_files import MANIFEST, ShardManifest, shard_folder, shard_numbers, write_shards
from zhiyin.data.sharded_dataset import ShardedDataset, gathered_histories, read_shards
from zhiyin.data.splits import split
from zhiyin.models.als import ALS

DAY = 86_400_000_000


def log_of(seed: int, n_users: int = 30, n_events: int = 400, ids: str = "text") -> Dataset:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, n_users, n_events)
    frame = pl.DataFrame(
        {
            "user": users if ids == "numbers" else [f"ü{n}" for n in users],
            "item": rng.integers(0, 25, n_events),
            "time": 1_700_000_000_000_000 + rng.integers(0, 90, n_events) * DAY,  # many equal times
            "kind": rng.choice(["view", "buy", "dislike"], n_events),
            "rating": rng.choice([None, 1.5, -2.0], n_events).astype(float),
        }
    )
    items = pl.DataFrame({"id": np.arange(27), "price": np.arange(27) * 1.5})
    data = zy.read(frame, items=items, columns={"rating": "rating"})
    data.candidates[3] = False
    return data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    data = log_of(1)
    return data, write_shards(data, tmp_path_factory.mktemp("shards") / "x", 5)


@given(seed=st.integers(0, 1000), n_shards=st.integers(1, 9), ids=st.sampled_from(["text", "numbers"]))
@settings(max_examples=10, deadline=None)
def test_one_process_reads_the_log_as_it_was(
    seed: int, n_shards: int, ids: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = log_of(seed, ids=ids)
    folder = write_shards(data, tmp_path_factory.mktemp("log") / "x", n_shards)
    back = zy.read_shards(folder)
    assert type(back) is Dataset
    assert back.fingerprint == data.fingerprint
    assert back.events.equals(data.events)
    assert back.items.equals(data.items)
    assert back.users.equals(data.users)
    assert back.candidates.tolist() == data.candidates.tolist()
    assert (back.schema, back.window, back.has_times) == (data.schema, data.window, data.has_times)


def test_it_is_a_log_for_read_too(written: tuple[Dataset, Path]) -> None:
    data, folder = written
    back = zy.read(folder, columns={"rating": "value"})
    assert back.user_ids.values.equals(data.user_ids.values)
    assert back.events.equals(data.events)
    assert back.items.equals(data.items)


def test_a_log_without_times_keeps_its_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = Dataset.build(pl.DataFrame({"user": rng.integers(0, 9, 200), "item": rng.integers(0, 50, 200)}))
    back = read_shards(write_shards(data, tmp_path / "x", 3))
    assert not back.has_times
    assert back.events.equals(data.events)
    assert back.fingerprint == data.fingerprint


@pytest.mark.parametrize("world", [2, 5])
def test_processes_hold_parts_of_one_log(world: int, written: tuple[Dataset, Path]) -> None:
    data, folder = written

    def read(group: ProcessGroup) -> Dataset:
        return read_shards(folder, group=group)

    parts = in_threads(world, read)
    shards = shard_numbers(data.user_ids.values, 5)
    for rank, part in enumerate(parts):
        own = shards[data.events["user"].to_numpy()] % world == rank
        assert isinstance(part, ShardedDataset)
        assert part.events.equals(data.events.filter(pl.Series(own)))
        assert (part.window, part.n_all_events) == (data.window, data.n_events)
        assert part.fingerprint == parts[0].fingerprint
        assert str(data.n_events) in repr(part)
        expected = data.histories.take(np.where(shards % world == rank, np.arange(data.n_users), -1))
        assert part.histories.lengths.tolist() == expected.lengths.tolist()
        assert part.histories.items.tolist() == expected.items.tolist()


def test_other_weights_have_another_fingerprint(written: tuple[Dataset, Path]) -> None:
    _, folder = written
    usual, other = (
        in_threads(2, lambda group, weights=weights: read_shards(folder, weights=weights, group=group))
        for weights in (None, {"buy": 2, "value > 1": 0.5})
    )
    assert usual[0].fingerprint != other[0].fingerprint
    weights = {*other[0].events["weight"].unique(), *other[1].events["weight"].unique()}
    assert weights == {0.0, 0.5, 2.0}


@pytest.mark.parametrize("by", ["last", "ratio", "time", "cold-users", "cold-items"])
@pytest.mark.parametrize("world", [2, 3, 9])  # of nine processes some hold nothing
def test_a_split_is_that_of_one_process(
    by: str, world: int, written: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, folder = written
    monkeypatch.setattr(draws, "DRAWS_PER_CHUNK", 37)
    if world == 9:
        data = log_of(7, n_users=6)
        folder = write_shards(data, tmp_path / "x", 9)
    whole = split(data, by, test=0.1 if by != "time" else None)

    def halves(group: ProcessGroup) -> Any:
        return split(read_shards(folder, group=group), by, test=0.1 if by != "time" else None)

    parts = in_threads(world, halves)
    for name in ("train", "test", "fold_in"):
        expected = getattr(whole, name)
        together = pl.concat([getattr(part, name).events for part in parts]).sort("user", maintain_order=True)
        assert together.equals(expected.events)
        for part in parts:
            assert getattr(part, name).candidates.tolist() == expected.candidates.tolist()
            assert getattr(part, name).window == expected.window
    assert {part.protocol for part in parts} == {whole.protocol}
    assert {part.warnings for part in parts} == {whole.warnings}


@given(times=st.lists(st.integers(0, 60), min_size=2, max_size=60), share=st.floats(0, 1), world=st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_a_quantile_of_times_is_that_of_numpy(times: list[int], share: float, world: int) -> None:
    users = np.arange(len(times)) % 7
    data = Dataset.build(pl.DataFrame({"user": users, "item": users, "time": np.array(times) + DAY}), now=10 * DAY)
    expected = np.quantile(data.events["time"].to_numpy(), share, method="higher")

    def quantile(group: ProcessGroup) -> int:
        own = data.events["user"].to_numpy() % group.world == group.rank
        return draws.time_quantile(ShardedDataset.of(data.subset(own), group, ""), share)

    assert in_threads(world, quantile) == [expected] * world


@pytest.mark.parametrize("world", [2, 4])
def test_the_first_process_gathers_the_histories(
    world: int, written: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = written
    monkeypatch.setattr(sharded_dataset, "EVENTS_PER_MESSAGE", 13)
    gathered = in_threads(world, lambda group: gathered_histories(read_shards(folder, group=group))[0])
    for field in dataclasses.fields(data.histories):
        expected, actual = getattr(data.histories, field.name), getattr(gathered[0], field.name)
        if field.name == "features":
            assert actual is None
        else:
            np.testing.assert_array_equal(actual, expected, err_msg=field.name)
            assert actual.dtype == expected.dtype
    assert len(gathered[1].items) < data.n_events


def test_memory_of_writing_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "ROWS_PER_PART", 20)
    monkeypatch.setattr(shard_files, "MAX_PENDING_ROWS", 50)
    data = log_of(2)
    folder = write_shards(data, tmp_path / "x", 7)
    assert read_shards(folder).events.equals(data.events)
    sizes = [part.rows for shard in ShardManifest.read(folder).shards for part in shard.parts]
    assert sum(sizes) == data.n_events
    assert max(sizes) < 20 + 20  # the rows of one batch more


def test_a_users_shard_never_changes() -> None:
    ids = pl.Series(["", "a", "user 1", "知音", "a"])
    assert shard_numbers(ids, 1000).tolist() == [203, 736, 558, 323, 736]
    numbers = pl.Series([1, 42, -7])
    assert shard_numbers(numbers, 64).tolist() == shard_numbers(numbers.cast(pl.String), 64).tolist()


def test_shards_are_of_about_equal_size() -> None:
    counts = np.bincount(shard_numbers(pl.Series(range(10_000)), 8), minlength=8)
    assert counts.min() > 1_000


def damage_part(folder: Path) -> None:
    next(folder.glob("events/shard-00001-*/part-*")).write_bytes(b"PAR1")


def drop_part(folder: Path) -> None:
    next(folder.glob("events/shard-00001-*/part-*")).unlink()


def shorten_part(folder: Path) -> None:
    part = next(folder.glob("events/shard-00001-*/part-*"))
    pl.read_parquet(part).head(1).write_parquet(part)


def exchange_events(folder: Path) -> None:
    part = next(folder.glob("events/shard-00001-*/part-*"))
    pl.read_parquet(part).with_columns(item=pl.lit(3)).write_parquet(part)


def rename_user(folder: Path) -> None:
    part = next(folder.glob("events/shard-00001-*/part-*"))
    pl.read_parquet(part).with_columns(user=pl.lit("nobody")).write_parquet(part)


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({"format": 1}))


def drop_table(folder: Path) -> None:
    (folder / "shards" / "users.arrow").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_part, "a part cannot be read"),
        (drop_part, "a part cannot be read"),
        (shorten_part, "the part has 1 rows, its manifest says"),
        (exchange_events, "other events than their table of items says"),
        (rename_user, "the part has ids that the tables lack"),
        (damage_manifest, "the manifest is damaged"),
        (drop_table, "a table is damaged"),
    ],
)
def test_damage_is_one_error_in_all_processes(damage: Any, message: str, tmp_path: Path) -> None:
    folder = write_shards(log_of(3), tmp_path / "x", 2)
    damage(folder)
    with pytest.raises(DataError, match=message):
        read_shards(folder)

    def error(group: ProcessGroup) -> tuple[str, bool]:
        with pytest.raises(ZhiyinError) as raised:
            read_shards(folder, group=group)
        return str(raised.value), raised.value.silent

    (first, first_silent), (second, second_silent) = in_threads(2, error)
    assert first == second
    assert message in first
    assert (first_silent, second_silent) == (False, True)


def test_more_processes_than_shards_are_refused(written: tuple[Dataset, Path]) -> None:
    with pytest.raises(ZhiyinError, match="6 processes, but 5 shards"):
        in_threads(6, lambda group: read_shards(written[1], group=group))


def test_models_that_need_all_events_are_refused(written: tuple[Dataset, Path]) -> None:
    with pytest.raises(ConfigError, match="ALS does not train from shards in several processes"):
        in_threads(2, lambda group: ALS().fit(read_shards(written[1], group=group)))


def test_another_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(DataError, match="holds something that is no shards"):
        write_shards(log_of(4), tmp_path, 2)
    assert (tmp_path / "letters.txt").exists()
    with pytest.raises(DataError, match="this folder holds no shards"):
        read_shards(tmp_path)
    for n_shards in (0, 5000):
        with pytest.raises(ConfigError, match="shards"):
            write_shards(log_of(4), tmp_path / "x", n_shards)


def test_an_interrupted_write_leaves_the_old_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(log_of(5), tmp_path / "x", 2)
    before = ShardManifest.read(folder)
    monkeypatch.setattr(shard_files, "finish_folder", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_shards(log_of(6), folder, 3)
    assert ShardManifest.read(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (folder / shard_folder(1, 2)).is_dir()
