"""A service that reads what streams have computed gives the same answers as one that counts its log itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from tests.streaming_reference import write_results

from .conftest import eventually
from .stream_pair import Pair, events_of, patient


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.slow)])
def pair(
    request: pytest.FixtureRequest, opened: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Pair:
    patient(monkeypatch)
    if request.param == "redis":
        address = request.getfixturevalue("redis_url")
    else:
        address = f"sqlite:///{tmp_path / 'streams.db'}"
    return Pair(opened, address, tmp_path / "streams")


def stream(pair: Pair) -> None:
    """Export what the store holds, compute it, load it, and wait until the service has taken it in."""
    pair.export()
    write_results(pair.folder)
    pair.load()
    eventually(pair.is_taken_in)


def test_streamed_answers_are_those_of_the_embedded_computation(pair: Pair) -> None:
    now = pair.streamed.store.clock()
    pair.post(events_of(now, 600))
    stream(pair)
    pair.assert_same_answers()
    trending = pair.rows("/v1/trending?k=50", pair.streamed)
    assert abs(trending.index("i20") - trending.index("i21")) == 1  # of equal score: the more popular one comes first
    view = pair.streamed.live.now
    one, other = view.answers.priority[view.encode(["i20", "i21"])]
    assert (trending.index("i20") < trending.index("i21")) == (one > other)

    # Events that streams have not come to yet count in histories, by the store.
    pair.post([{"user": "s0", "item": f"i{number}", "id": f"new {number}"} for number in (5, 25, 29)])
    assert pair.streamed.live.streams.mark() < pair.streamed.store.highest_seq
    assert pair.assert_equal("/v1/recommendations?user=s0&k=20")
    assert not {"i5", "i25", "i29"} & set(pair.rows("/v1/recommendations?user=s0&k=20", pair.streamed))


def test_lists_are_made_again_of_what_streams_have_computed(pair: Pair) -> None:
    pair.post(events_of(pair.streamed.store.clock(), 600))
    stream(pair)
    for path in ("/v1/trending?k=5", "/v1/covisits?item=i3", "/v1/covisits?user=s1"):
        made = pair.streamed.get(path).json()
        assert made["items"]
        again = pair.streamed.post(f"/v1/lists/{made['list_id']}/replay").json()
        assert again["same"], again
