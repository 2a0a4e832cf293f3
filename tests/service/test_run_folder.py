"""The folder that workers share is private, is removed at the end, and is swept after a kill, never while in use."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from zhiyin.service.run_folder import PREFIX, in_use, run_folder, sweep_run_folders


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_private_and_removed_at_the_end(temporary: Path) -> None:
    with run_folder() as folder:
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "metrics").mkdir()
        (folder / "metrics" / "counter_1.db").write_bytes(b"x")
    assert not folder.exists()


def test_a_folder_in_use_stays(temporary: Path) -> None:
    with run_folder() as folder, in_use(folder):
        assert sweep_run_folders() == 0
        assert folder.is_dir()


def test_after_a_kill_the_folder_stays_until_its_last_process_ends(temporary: Path) -> None:
    code = (
        "import sys, tempfile; from pathlib import Path; from zhiyin.service import run_folder as module\n"
        f"tempfile.tempdir = {str(temporary)!r}\n"
        "with module.run_folder() as folder:\n"
        "    (folder / 'a.showings').write_bytes(b'who was shown what')\n"
        "    print(folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with in_use(folder):  # a worker
            assert sweep_run_folders() == 0
            process.send_signal(signal.SIGKILL)
            process.wait(20)
            assert sweep_run_folders() == 0
            assert folder.is_dir()
        assert sweep_run_folders() == 1
        assert not folder.exists()
    finally:
        process.kill()
        process.communicate()


def test_what_is_not_a_folder_of_this_user_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = temporary / "else"
    target.mkdir()
    (target / "precious").write_text("x")
    (temporary / f"{PREFIX}link").symlink_to(target)
    (temporary / f"{PREFIX}file").write_text("x")
    (temporary / "another").mkdir()
    assert sweep_run_folders() == 0
    assert (target / "precious").exists()
    (temporary / f"{PREFIX}theirs").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert sweep_run_folders() == 0
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert sweep_run_folders() == 1


def test_a_swept_folder_cannot_be_taken_into_use(temporary: Path) -> None:
    with run_folder() as folder:
        pass
    with pytest.raises(FileNotFoundError), in_use(folder):
        pass
