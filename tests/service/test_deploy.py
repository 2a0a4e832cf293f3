"""The files in deploy/ speak of the program as it is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")

import yaml

from .running import running

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def options(command: list[str]) -> None:
    """`zhiyin serve` with these words is understood."""
    from typer.main import get_command

    from zhiyin.cli.main import app

    assert command[0] == "serve"
    serve: Any = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    serve.make_context("serve", command[1:])


@pytest.fixture
def composed() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_image() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (said,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.M)
    assert set(said.split(",")) <= set(extras)
    assert {"serve", "rules"} <= set(said.split(","))
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M)
    options(json.loads(command))
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.M)
    assert users == ["10001:10001"]
    for name in re.findall(r"^COPY ([\w. ]+) \./", DOCKERFILE, re.M)[0].split():
        assert (ROOT / name).exists()
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {"!pyproject.toml", "!README.md", "!LICENSE", "!src"} <= set(ignored)


def test_the_health_check_of_the_image(service: Any) -> None:
    (command,) = re.findall(r"^ +CMD (\[.*\])$", DOCKERFILE, re.M)
    python, flag, code = json.loads(command)
    assert (python, flag) == ("python", "-c")
    with running(service.app) as address:
        healthy = code.replace("http://127.0.0.1:8000", address)
        assert healthy != code
        assert subprocess.run([sys.executable, flag, healthy], capture_output=True).returncode == 0
        missing = healthy.replace("/ready", "/nowhere")
        assert subprocess.run([sys.executable, flag, missing], capture_output=True).returncode != 0


def test_the_composition(composed: Any) -> None:
    services = composed["services"]
    assert set(services) == {"zhiyin", "postgres", "redis"}
    options(services["zhiyin"]["command"])
    for name in ("postgres", "redis"):
        assert services["zhiyin"]["depends_on"][name]["condition"] == "service_healthy"
        assert services[name]["healthcheck"]["test"]
        assert "ports" not in services[name]  # nobody reaches them from outside
        assert services[name]["networks"] == ["back"]
    assert composed["networks"]["back"]["internal"]
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name:
                assert re.fullmatch(rf"\$\{{{name}:\?.+\}}", value)  # from outside, and never empty


def test_the_settings_that_the_composition_speaks_of(
    composed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zhiyin.data.project_config import load_config, resolved

    lines = [line.removeprefix("#").strip() for line in (DEPLOY / "compose.yaml").read_text().splitlines()
             if line.startswith("#   ")]  # fmt: skip
    settings = "\n".join(line for line in lines if line.startswith("[") or " = " in line)
    (tmp_path / "zhiyin.toml").write_text(settings)
    monkeypatch.setenv("POSTGRES_PASSWORD", "one")
    monkeypatch.setenv("REDIS_PASSWORD", "two")
    section = load_config(tmp_path / "zhiyin.toml").service
    assert resolved(section.store, tmp_path) == "postgresql://zhiyin:one@postgres/zhiyin"
    assert resolved(section.redis, tmp_path) == "redis://:two@redis:6379/0"


def test_the_unit() -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "zhiyin.service")
    service = unit["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[0].endswith("/bin/zhiyin")
    options(words[1:])
    assert service["User"] != "root"
    for hardened in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome"):
        assert service[hardened] == "true"
    assert service["ProtectSystem"] == "strict"
    assert f"/var/lib/{service['StateDirectory']}" == service["WorkingDirectory"]


def test_the_alarms_speak_of_figures_that_there_are(opened: Any) -> None:
    pytest.importorskip("starlette")
    from zhiyin.service.metrics import Metrics
    from zhiyin.service.request_limits import Work

    rules = yaml.safe_load((DEPLOY / "zhiyin.rules.yml").read_text())
    metrics = Metrics([opened()], work := Work())
    known = {name for family in metrics.registry.collect() for name in (family.name, f"{family.name}_total",
             f"{family.name}_bucket")}  # fmt: skip
    work.close()
    named = {name for rule in rules["groups"][0]["rules"] for name in re.findall(r"zhiyin_\w+", rule["expr"])}
    assert named
    assert named <= known
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert scraped["rule_files"] == ["zhiyin.rules.yml"]
    assert scraped["scrape_configs"][0]["metrics_path"] == "/metrics"
