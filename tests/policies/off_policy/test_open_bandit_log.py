"""Reading Open Bandit files: what is read, and errors that name file, line and column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zhiyin.core.errors import DataError
from zhiyin.policies.off_policy import ESTIMATORS
from zhiyin.policies.off_policy.open_bandit_log import read_open_bandit

HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0\n"
ROWS = [
    "0,2019-11-24 00:00:05+00:00,2,3,1,0.029411764705882353,x",
    "1,2019-11-24 00:00:01+00:00,0,1,0,0.5,y",
    "2,2019-11-24 00:00:03+00:00,1,2,0,1.0,z",
]


def written(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    path = folder / "log.csv"
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return path


def test_rows_come_in_order_of_time(tmp_path: Path) -> None:
    log = read_open_bandit(written(tmp_path, ROWS))
    assert log.items.tolist() == [0, 1, 2]
    assert log.positions.tolist() == [0, 1, 2]
    assert log.rewards.tolist() == [0, 0, 1]
    assert log.propensities.tolist() == [0.5, 1.0, 0.029411764705882353]
    assert (log.n_items, log.n_positions, len(log)) == (3, 3, 3)
    by_position = np.arange(9).reshape(3, 3) / 100
    assert log.decisions(by_position).target_probabilities.tolist() == [0.0, 0.04, 0.08]
    assert log.decisions(np.array([0.2, 0.3, 0.5])).target_probabilities.tolist() == [0.2, 0.3, 0.5]
    assert read_open_bandit(tmp_path / "log.csv", n_items=80).n_items == 80
    with pytest.raises(DataError, match="target has shape"):
        log.decisions(np.ones(4))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (5, "0.0", "line 4, column 'propensity_score': the value 0.0 cannot be"),
        (5, "1.5", "line 4, column 'propensity_score'"),
        (5, "", "line 4, column 'propensity_score': the value None"),
        (5, "high", "line 4, column 'propensity_score': 'high' is no number"),
        (2, "-1", "line 4, column 'item_id'"),
        (2, "7", "line 4, column 'item_id'"),
        (4, "yes", "line 4, column 'click': 'yes' is no number"),
        (4, "nan", "line 4, column 'click'"),
        (3, "", "line 4, column 'position'"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, column: int, value: str, message: str) -> None:
    cells = ROWS[2].split(",")
    cells[column] = value
    with pytest.raises(DataError) as caught:
        read_open_bandit(written(tmp_path, [*ROWS[:2], ",".join(cells)]), n_items=3)
    assert message in str(caught.value)
    assert "log.csv" in str(caught.value)
    assert "What to do" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_open_bandit(tmp_path / "none.csv")
    with pytest.raises(DataError, match="column 'click': a column is missing"):
        read_open_bandit(written(tmp_path, ROWS, HEADER.replace("click", "clicks")))
    assert len(read_open_bandit(written(tmp_path, []))) == 0


def test_the_dataset(real_data: Callable[[str], Path], thompson: Callable[[str], np.ndarray]) -> None:
    log = read_open_bandit(real_data("open-bandit/random_men.csv"))
    assert (len(log), log.n_items, log.n_positions) == (10_000, 34, 3)
    assert ESTIMATORS["ips"].estimate(log.decisions(thompson("men"))) == pytest.approx(0.00453356, abs=1e-12)
