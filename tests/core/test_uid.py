"""Unique ids."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from zhiyin.core.uid import fresh_id, is_fresh_id


def test_ids_of_several_threads_are_all_different() -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = [id for part in pool.map(lambda _: [fresh_id() for _ in range(2_000)], range(4)) for id in part]
    assert len(set(ids)) == len(ids)
    assert len({id[12:] for id in ids}) == len(ids)  # the random part alone
    assert all(map(is_fresh_id, ids))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_draws_other_ids() -> None:
    fresh_id()  # random bytes are held
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, fresh_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100).decode()[12:] != fresh_id()[12:]
    os.close(reading)
    os.close(writing)
