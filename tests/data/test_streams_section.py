"""The section [streams], and where the service reads what streams compute."""

from __future__ import annotations

from pathlib import Path

import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.data.project_config import load_config, parse_usable, streams_address, streams_folder, write_config
from zhiyin.data.project_config.service_sections import STREAM_JOBS


def config_of(folder: Path, text: str):
    path = folder / "zhiyin.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_the_defaults(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path / "zhiyin.toml"))
    assert tuple(config.streams.jobs) == STREAM_JOBS
    assert (config.streams.checkpoint, config.streams.every, config.streams.keep) == ("5s", "1s", "7d")
    assert (config.streams.source, config.streams.engine) == ("files", None)
    assert streams_folder(config, tmp_path) == tmp_path / "streams"
    assert streams_address(config, tmp_path) is None


def test_addresses_take_variables_and_the_folder_of_the_settings(tmp_path: Path, monkeypatch: object) -> None:
    config = config_of(tmp_path, '[service]\nstreams = "sqlite:///state.db"\n[streams]\nfolder = "flow"\n')
    assert streams_address(config, tmp_path) == f"sqlite:///{tmp_path.resolve()}/state.db"
    assert streams_folder(config, tmp_path) == tmp_path / "flow"
    monkeypatch.setenv("STREAM_PASSWORD", "s3cret")  # type: ignore[attr-defined]
    config = config_of(tmp_path, '[service]\nstreams = "redis://:${STREAM_PASSWORD}@cache:6379/0"\n')
    assert streams_address(config, tmp_path) == "redis://:s3cret@cache:6379/0"


@pytest.mark.parametrize(
    "text",
    [
        '[streams]\njobs = ["trending", "sessions"]',
        '[streams]\nengine = "local"',
        '[streams]\nengine = "flink://jobs.example:8081"',
        '[streams]\nengine = "flink://[::1]:8081"',
        '[streams]\nsource = "kafka://broker-1:9092/shop.events"',
        '[streams]\ncheckpoint = "0.5s"\nevery = "2s"\nkeep = "1w"',
        '[service]\nstreams = "postgresql://zhiyin@db/shop"',
        '[service]\nstreams = "${STREAMS}"',
    ],
)
def test_what_may_be_written(tmp_path: Path, text: str) -> None:
    config_of(tmp_path, text)


@pytest.mark.parametrize(
    ("store", "streams", "is_same"),
    [
        ("store.db", "sqlite:///store.db", True),
        ("a/../store.db", "sqlite:///store.db?timeout=5", True),
        ("store.db", "sqlite:///streams.db", False),
        ("store.db", "redis://127.0.0.1/0", False),
        ("postgresql://shop@db/zhiyin", "postgresql://zhiyin:pw@db:5432/zhiyin", True),
        ("postgresql://shop@localhost/zhiyin", "postgresql://shop@127.0.0.1/zhiyin", True),
        ("postgresql:///zhiyin?host=/run/pg", "postgresql://shop@/zhiyin?host=/run/pg", True),
        ("postgresql://shop@db/zhiyin", "postgresql://shop@db/streams", False),
        ("postgresql://shop@db/zhiyin", "postgresql://shop@db:5433/zhiyin", False),
        ("postgresql://shop@db/zhiyin", "postgresql://shop@db:x/zhiyin", False),
        ("postgresql://shop@db/zhiyin", "redis://db/0", False),
        ("${NO_SUCH_VARIABLE}", "sqlite:///store.db", False),
    ],
)
def test_the_database_of_the_store_is_not_that_of_streams(
    tmp_path: Path, store: str, streams: str, is_same: bool
) -> None:
    text = f'[service]\nstore = "{store}"\nstreams = "{streams}"\n'
    if is_same:
        with pytest.raises(ConfigError, match=r"service\.streams is the database of the store") as caught:
            config_of(tmp_path, text)
        assert caught.value.row == 3
    else:
        config_of(tmp_path, text)
    config, errors = parse_usable(text, tmp_path / "zhiyin.toml")
    assert config.service.streams == (None if is_same else streams)
    assert errors.keys() == ({("service", "streams")} if is_same else set())


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[streams]\njobs = ["trends"]', "jobs"),
        ('[streams]\njobs = ["trending", "trending"]', "jobs"),
        ("[streams]\njobs = []", "jobs"),
        ('[streams]\nengine = "flink://host"', "engine"),
        ('[streams]\nengine = "flink://host:0"', "engine"),
        ('[streams]\nengine = "http://host:8081"', "engine"),
        ('[streams]\nsource = "kafka://host:9092"', "source"),
        ('[streams]\nsource = "kafka://host:99999/topic"', "source"),
        ('[streams]\nsource = "kafka://host:9092/a b"', "source"),
        ('[streams]\nevery = "soon"', "every"),
        ('[streams]\ncheckpoint = "0s"', "checkpoint"),
        ("[streams]\nkeep = 7", "keep"),
        ('[streams]\nfolder = " "', "folder"),
        ('[service]\nstreams = "mysql://host/name"', "streams"),
        ('[streams]\nfodler = "x"', "fodler"),
    ],
)
def test_what_may_not_is_refused_by_name(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, text)
    assert key in str(caught.value)
