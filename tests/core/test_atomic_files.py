"""Files at rest: replaced whole or not at all, logs of JSON lines that survive any cut, and a kill at every step."""

from __future__ import annotations

import functools
import json
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.core import atomic_files, atomic_folders
from zhiyin.core.atomic_files import (
    append_record,
    mend_last_line,
    read_json,
    read_records,
    sweep,
    whole_file,
    write_json,
    write_whole,
)
from zhiyin.core.atomic_folders import whole_folder
from zhiyin.core.errors import DataError

STEPS = ("replace", "rename", "fsync", "write")


class KilledError(BaseException):
    """What stands for the end of the process: no handler of errors takes it."""


def killing(monkeypatch: pytest.MonkeyPatch, at: int, end: Callable[[], None]) -> list[str]:
    """End at the step of that number among the calls that change the disk. Returns the steps as they come."""
    taken: list[str] = []

    def step(name: str, real: Callable, *given: object, **named: object) -> object:
        taken.append(name)
        if len(taken) > at:
            end()
        return real(*given, **named)

    for name in STEPS:
        monkeypatch.setattr(os, name, functools.partial(step, name, getattr(os, name)))
    return taken


def survives(act: Callable[[], None], check: Callable[[], None]) -> int:
    """Run `act` in a process that ends before each step in turn, and `check` after it. Returns how many steps."""
    for at in range(1_000):
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patch:
                killing(patch, at, lambda: os._exit(9))
                try:
                    act()
                except BaseException:
                    os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), f"step {at}: exit code {code}"
        check()
        if code == 0:
            return at
    raise AssertionError("it never ends")


def test_a_file_is_the_old_one_or_the_new_one_wherever_the_process_ends(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_json(file, {"n": 1})
    steps = survives(lambda: write_json(file, {"n": 2}), lambda: None if read_json(file, "")["n"] in (1, 2) else 1 / 0)
    assert steps >= 3  # sync of the file, rename, sync of the folder
    assert read_json(file, "") == {"n": 2}


@pytest.mark.slow
def test_a_log_loses_at_most_its_last_line_wherever_the_process_ends(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"

    def check() -> None:
        found = [record["n"] for record in read_records(file)]
        assert found == sorted(set(found)), found

    for n in range(3):
        survives(lambda n=n: append_record(file, {"n": n}) if n not in numbers(file) else None, check)
    assert numbers(file) == [0, 1, 2]


def numbers(file: Path) -> list[int]:
    return [record["n"] for record in read_records(file)]


@pytest.mark.parametrize("step", STEPS[:3])
def test_an_error_in_the_middle_leaves_the_old_file_and_no_draft(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = tmp_path / "state", tmp_path / "folder"
    write_whole(file, "old")
    with whole_folder(folder) as draft:
        (draft / "a").write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        patch.setattr(atomic_folders, "_renameat2", lambda: None)
        if step != "rename":
            with pytest.raises(OSError, match="No space"):
                write_whole(file, "new")
        if step != "replace":
            with pytest.raises(OSError, match="No space"), whole_folder(folder) as draft:
                (draft / "a").write_text("new")
    assert file.read_text() == "old"
    assert (folder / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "state"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_whole_at_every_moment(exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    if not exchange:
        monkeypatch.setattr(atomic_folders, "_renameat2", lambda: None)
    elif atomic_folders._renameat2() is None:
        pytest.skip("this system cannot exchange two names")

    def content() -> set[str]:
        return {(folder / name).read_text() for name in ("a", "b")}

    for n in range(3):
        with whole_folder(folder) as draft:
            for name in ("a", "b"):
                (draft / name).write_text(str(n))
    assert content() == {"2"}
    for at in range(100):
        before = content()
        with monkeypatch.context() as patch:

            def end() -> None:
                raise KilledError

            taken = killing(patch, at, end)
            try:
                with whole_folder(folder) as draft:
                    for name in ("a", "b"):
                        (draft / name).write_text(f"try {at}")
            except KilledError:
                pass
            done = len(taken) <= at
        if exchange:  # without it there is no folder between two renames
            assert content() in (before, {f"try {at}"})
        if done:
            break
        if not folder.exists():
            next(tmp_path.glob(".folder.*.old")).rename(folder)
    assert content() == {f"try {at}"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_reader_never_misses_a_folder_while_it_is_replaced(tmp_path: Path) -> None:
    if atomic_folders._renameat2() is None:
        pytest.skip("this system cannot exchange two names")
    folder, missed, done = tmp_path / "folder", [], threading.Event()
    with whole_folder(folder) as draft:
        (draft / "a").write_text("0")

    def read() -> None:
        while not done.is_set():
            missed.extend([] if (folder / "a").exists() else [1])

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(50):
        with whole_folder(folder) as draft:
            (draft / "a").write_text(str(n))
    done.set()
    reader.join()
    assert not missed


def test_many_threads_may_write_one_file_or_folder(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def write(n: int) -> None:
        try:
            for _ in range(5):
                write_json(tmp_path / "state.json", {"n": n})
                append_record(tmp_path / "log.jsonl", {"n": n})
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert read_json(tmp_path / "state.json", "")["n"] in range(6)
    assert sorted(numbers(tmp_path / "log.jsonl")) == sorted([*range(6)] * 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "state.json"]


_RECORDS = st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=3), max_size=5)


@given(_RECORDS, st.data())
def test_a_log_survives_a_cut_at_any_byte(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict], data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("log") / "log.jsonl"
    for record in records:
        append_record(file, record)
    whole = file.read_bytes() if records else b""
    cut = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:cut])
    kept = read_records(file)
    assert kept == records[: len(kept)]
    assert len(kept) >= whole[:cut].count(b"\n")
    append_record(file, {"new": 1})
    assert read_records(file) == [*kept, {"new": 1}]


def test_damage_in_the_middle_costs_only_its_line_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"n": 0}\n\xff\xfe{\n{"n": 1}\n[1]\n\n' + b"[" * 100_000 + b'\n{"n": 2}\r\n{"n": 3')
    with caplog.at_level(logging.WARNING, logger="zhiyin"):
        assert numbers(file) == [0, 1, 2]
    assert [record.args[1] for record in caplog.records] == [2, 4, 6, 8]
    assert "log.jsonl" in caplog.text


def test_a_full_disk_in_the_middle_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "log.jsonl"
    append_record(file, {"n": 0})
    real, calls = os.write, []

    def write(handle: int, content: bytes) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(handle, content[:4])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space"):
            append_record(file, {"n": 1})
    assert numbers(file) == [0]
    append_record(file, {"n": 2})
    assert numbers(file) == [0, 2]


@pytest.mark.parametrize("cut", range(18))
def test_a_last_line_is_finished_or_removed_for_others(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "journal"
    whole = b'{"n":0}\n{"nn":1}\n'
    file.write_bytes(whole[:cut])
    changed = mend_last_line(file)
    mended = file.read_bytes()
    assert mended in (b"", whole[:8], whole)
    assert changed == (mended != whole[:cut])
    assert len(mended) >= 8 * (cut >= 7)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.text())), st.data())
def test_json_cut_at_any_byte_is_an_error_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, value: dict, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("json") / "state.json"
    write_json(file, value, indent=data.draw(st.sampled_from([None, 1])))
    whole = file.read_bytes()
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    with pytest.raises(DataError, match=r"state\.json: the file(?s:.*)make it again"):
        read_json(file, "make it again")
    file.write_bytes(whole[:-1])
    assert read_json(file, "") == value


def test_what_is_no_object_or_lacks_a_name_or_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    for content in ("[]", "3", "null", '"x"', '{"a": 1}'):
        file.write_text(content)
        with pytest.raises(DataError, match=r"state\.json"):
            read_json(file, "", names=("b",))
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none", "")
    for read in (lambda: read_json(tmp_path, ""), lambda: read_records(tmp_path)):
        with pytest.raises(DataError, match="cannot be read"):
            read()
    assert read_records(tmp_path / "none") == []


def _write_text(draft: Path) -> None:
    draft.write_text("new")


def _write_parquet(draft: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(draft)


@pytest.mark.parametrize("write", [_write_text, _write_parquet])
@pytest.mark.parametrize(("path", "kind"), [("no folder/file", FileNotFoundError), ("a file/file", NotADirectoryError)])
def test_an_error_of_the_system_names_the_file_and_not_its_draft(
    write: Callable[[Path], None], path: str, kind: type[OSError], tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(kind) as raised, whole_file(tmp_path / path) as draft:
        write(draft)
    assert raised.value.filename == str(tmp_path / path)
    assert ".draft" not in str(raised.value)


def test_an_error_of_the_system_names_the_folder_and_not_its_draft(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as raised, whole_folder(tmp_path / "file" / "folder"):
        pass
    assert raised.value.filename == str(tmp_path / "file" / "folder")


def test_an_error_of_another_file_is_left_as_it_is(tmp_path: Path) -> None:
    error = FileNotFoundError(2, "No such file", "another")
    with pytest.raises(FileNotFoundError) as raised, whole_file(tmp_path / "file"):
        raise error
    assert raised.value is error


def test_permissions_links_and_devices(tmp_path: Path) -> None:
    secret, shared, link = tmp_path / "secret", tmp_path / "shared", tmp_path / "link"
    write_whole(secret, "x", mode=0o600)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    write_whole(secret, "y")  # keeps what it had
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    write_whole(shared, "x")
    link.symlink_to(shared)
    write_whole(link, "y")
    assert link.is_symlink()
    assert shared.read_text() == "y"
    with whole_file("/dev/null") as draft:
        assert draft == Path("/dev/null")
    assert not Path("/dev/null").is_file()


def test_drafts_of_an_ended_process_are_swept(tmp_path: Path) -> None:
    (tmp_path / "current").write_text("1")
    (tmp_path / f".current.{os.getpid()}.ab.draft").write_text("2")
    (tmp_path / f".0003.{os.getpid()}.ab.draft").mkdir()
    (tmp_path / ".0004.1.ab.draft").mkdir()
    sweep(tmp_path, os.getpid())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".0004.1.ab.draft", "current"]


def test_records_are_plain_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    append_record(file, {"text": "两\n行"})
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"text": "两\n行"}]
    assert atomic_files.read_records(file) == [{"text": "两\n行"}]
