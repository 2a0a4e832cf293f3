"""zhiyin.toml: written with every key described, read back the same, and wrong keys explained."""

from __future__ import annotations

import sqlite3
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.core.params import param, params_of
from zhiyin.data.project_config import Config, load_config, read_data, write_config
from zhiyin.data.project_config.data_sections import FeaturesSection


@dataclass
class Toy:
    factors: int = param(64, "length of the vectors", at_least=1)
    half_life: str | None = param(None, "forgetting", tune=("1d", "30d"))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "zhiyin.toml"
    path.write_text(text, "utf-8")
    return path


FULL: dict[str, Any] = {
    "data": {
        "source": {"view": "views.tsv", "add to cart": ["a.csv", "b.csv"]},
        "items": "films.csv",
        "strict": True,
    },
    "columns": {"user": 'who "is"', "item": "what\\ever\n", "item_columns": ["título", "价格"]},
    "weights": {"view": 1.0, "rating >= 4": 2.5, "dislike": -1.0},
    "split": {"by": "time", "test": "7d", "folds": 5},
    "train": {"models": ["EASE", "ItemKNN"], "output": "shop"},
    "models": {"EASE": {"reg": 80.0}, "ItemKNN": {"similarity": "bm25", "k_neighbors": 50, "tuned": False}},
    "evaluate": {"k": [5], "bootstrap": 200, "exclude_seen": False},
    "tune": {"trials": 7, "metric": "recall@20", "timeout": "30m"},
    "run": {"seed": 3, "threads": 2},
}


def test_defaults_are_written_as_comments_only(tmp_path: Path) -> None:
    path = write_config(tmp_path / "zhiyin.toml")
    assert load_config(path) == Config()
    left = {name: table for name, table in tomllib.loads(path.read_text()).items() if table}
    assert left == {"features": {"reviews": {}}}


def test_every_key_is_described_and_shows_its_default(tmp_path: Path) -> None:
    text = write_config(tmp_path / "zhiyin.toml").read_text()
    lines = text.splitlines()
    tables = {name: field.annotation for name, field in Config.model_fields.items() if name != "features"}
    tables |= {f"features.{name}": field.annotation for name, field in FeaturesSection.model_fields.items()}
    for section, table in tables.items():
        if section in ("weights", "models", "rules", "placements", "experiments"):
            continue
        assert f"[{section}]" in lines
        for name, inner in table.model_fields.items():  # type: ignore[union-attr]
            start = lines.index(f"[{section}]")
            at = next(i for i, line in enumerate(lines) if i > start and line.startswith(f"# {name} = "))
            assert (inner.description or "") in lines[at - 1]
            assert "(default: " in lines[at - 1]


def test_uncommenting_every_line_gives_a_valid_file(tmp_path: Path) -> None:
    text = write_config(tmp_path / "zhiyin.toml").read_text()
    lines = [line.removeprefix("# ") if " = " in line and "(default" not in line else line for line in text.split("\n")]
    text = "\n".join(lines).replace("# [models.EASE]", "[models.EASE]").replace("# [placements", "[placements")
    text = text.replace("# [experiments", "[experiments")
    config = load_config(written(tmp_path, text))
    assert config.placements == {"basket": {"filter": "price < 20", "diversity": "mmr"}}
    assert config.experiments["prices"]["arms"] == {"control": {}, "cheaper": {"placement": "basket-cheaper"}}
    assert config.columns.user == "user_id"
    assert config.weights["rating >= 4"] == 1
    assert config.models == {"EASE": {"reg": 250.0}}


def test_a_full_configuration_comes_back_the_same(tmp_path: Path) -> None:
    config = Config.model_validate(FULL)
    path = write_config(tmp_path / "zhiyin.toml", config)
    assert load_config(path) == config
    assert load_config(write_config(path, load_config(path))) == config


def test_a_default_that_was_set_stays_set(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "[tune]\ntrials = 30\n"))
    assert "\ntrials = 30\n" in write_config(tmp_path / "again.toml", config).read_text()


def test_hyperparameters_of_known_models_are_written_out(tmp_path: Path) -> None:
    config = Config(models={"Toy": {"factors": 8}})
    path = write_config(tmp_path / "zhiyin.toml", config, {"Toy": params_of(Toy)})
    text = path.read_text()
    assert "# length of the vectors (int >= 1; default 64)\nfactors = 8\n" in text
    assert "# half_life = " in text
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "what", "remedy", "row"),
    [
        ('[data]\n\nsorce = "x"', "[data] has no key 'sorce'", "did you mean 'source'?", 3),
        ('[dta]\nsource = "x"', "there is no section 'dta'", "did you mean 'data'?", 1),
        ("[split]\nseed = 3", "[split] has no key 'seed'", "it belongs under [run]", 2),
        ('[evaluate]\nk = "10"', "evaluate.k = '10' is not right", "a list of whole numbers", 2),
        ("[evaluate]\nk = [0]", "evaluate.k = [0] is not right", "from 1 to 10000", 2),
        ('[split]\ntest = "soon"', "split.test = 'soon'", '"7d" or a share', 2),
        ("[split]\ntest = 7", "split.test = 7", "between 0 and 1", 2),
        ('[split]\nby = "tme"', "split.by = 'tme'", '"time"', 2),
        ('[weights]\nview = 1\n"rating >= 4" = "much"', "weights.rating >= 4 = 'much'", "a number", 3),
        ("[models]\nEASE = 3", "models.EASE = 3", "[models.NAME]", 2),
        ('[run]\nthreads = "all"', "run.threads = 'all'", "a whole number", 2),
        ("[run]\nseed = 1.5", "run.seed = 1.5", "a whole number", 2),
        ("[data]\nsource = 5", "data.source = 5", "a text, a list of texts", 2),
        ('[data]\nstrict = "yes"', "data.strict = 'yes'", "true or false", 2),
        ('[tune]\nmetric = "NDCG at ten"', "tune.metric", '"ndcg@10"', 2),
        ('[tune]\ntimeout = "long"', "tune.timeout", '"30m"', 2),
        ("[data\n", "this is not TOML", "[brackets]", 1),
    ],
)
def test_what_is_wrong_is_explained(tmp_path: Path, text: str, what: str, remedy: str, row: int) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert what in error.value.message
    assert remedy in (error.value.remedy or "")
    assert (error.value.file, error.value.row) == (path, row)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "zhiyin.toml")
    assert "zhiyin init" in (error.value.remedy or "")


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "log.csv").write_text("who,what,stars\na,x,5\nb,y,1\nb,x,3\n")
    (tmp_path / "shop" / "films.csv").write_text("code,title\nx,Ex\ny,Why\n")
    text = """
        data = { source = "log.csv", items = "films.csv" }
        columns = { user = "who", item = "what", rating = "stars", item_id = "code" }
        weights = { "rating >= 3" = 2 }
    """
    config = load_config(written(tmp_path / "shop", text))
    monkeypatch.chdir(tmp_path)
    data = read_data(config, tmp_path / "shop")
    assert data.items.rows() == [("x", "Ex"), ("y", "Why")]
    assert sorted(data.events["weight"]) == [0.0, 2.0, 2.0]


def test_sources_by_kind_and_in_lists(tmp_path: Path) -> None:
    for name, user in (("v1", "a"), ("v2", "b"), ("buys", "a")):
        (tmp_path / f"{name}.csv").write_text(f"user,item\n{user},x\n{user},y\n")
    config = Config.model_validate({"data": {"source": {"view": ["v1.csv", "v2.csv"], "purchase": "buys.csv"}}})
    data = read_data(config, tmp_path)
    assert data.events["kind"].cast(str).value_counts(sort=True).rows() == [("view", 4), ("purchase", 2)]


def test_addresses_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as base:
        base.execute("create table log (user text, item text)")
        base.executemany("insert into log values (?, ?)", [("a", "x"), ("b", "y")])
    config = load_config(
        written(tmp_path, '[data]\nsource = "${DATABASE_URL}"\nquery = "select user, item from log"\n')
    )
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigError, match="DATABASE_URL is not set"):
        read_data(config, tmp_path)
    monkeypatch.setenv("DATABASE_URL", "sqlite:///shop.db")
    assert read_data(config, tmp_path).n_events == 2


def test_without_a_source_nothing_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no event log is named"):
        read_data(Config(), tmp_path)
