"""The conformance suite of recommenders: ids, histories, lists, fitting, saving and hyperparameters.

class TestEASE(RecommenderConformance):
    def make(self):
        return EASE(reg=2.0)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from zhiyin.core.errors import ConfigError, DataError, NotFittedError, UnknownItemError, ZhiyinError
from zhiyin.core.params import params_of, settings_of
from zhiyin.core.run import Run
from zhiyin.data.dataset import Dataset
from zhiyin.data.histories import Histories
from zhiyin.models import registry
from zhiyin.models.loading import load
from zhiyin.models.recommender import Recommender

DAY = 86_400_000_000


def shop(seed: int = 0, users: int = 60, items: int = 30, **more: Any) -> Dataset:
    """A small log with text users, whole-number items, repeats, dislikes, an item and a user without events."""
    rng = np.random.default_rng(seed)
    n = users * 12
    user = rng.integers(0, users, n)
    item = (rng.zipf(1.4, n) * 7 + user * 3) % items
    events = pl.DataFrame(
        {
            "user": [f"u{u}" for u in user],
            "item": (item + 100).astype(np.int64),
            "time": rng.integers(0, 60, n).astype(np.int64) * DAY,
            "weight": rng.choice([1.0, 1.0, 1.0, 3.0, -1.0], n).astype(np.float32),
        }
    )
    return Dataset.build(
        events,
        users=pl.DataFrame({"id": ["never"]}),
        items=pl.DataFrame({"id": np.array([999], dtype=np.int64)}),
        **more,
    )


def arrays_of(model: Recommender) -> dict[str, np.ndarray]:
    """Everything learned, as named arrays."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in vars(model).items():
        if not name.endswith("_") or name in ("context_", "training_log_"):
            continue
        if name in model._parts:
            continue  # models of their own, with their own tests; the lists they give are compared
        if sparse.issparse(value):
            arrays |= {f"{name}.{part}": getattr(value, part) for part in ("data", "indices", "indptr")}
        elif isinstance(value, dict):
            arrays |= {f"{name}.{part}": np.asarray(array) for part, array in sorted(value.items())}
        else:
            arrays[name] = np.asarray(value)
    for name in ("candidates", "popularity", "priority"):
        arrays[f"known.{name}"] = getattr(model.context_, name)
    return arrays


def assert_same_state(one: Recommender, other: Recommender) -> None:
    a, b = arrays_of(one), arrays_of(other)
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    logs = [timeless(model.training_log_) for model in (one, other)]
    assert [list(row) for row in logs[0]] == [list(row) for row in logs[1]]
    for row, same in zip(*logs):
        for name, value in row.items():
            assert same[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), name


def timeless(log: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A training log without what the clock says."""
    return [{name: value for name, value in row.items() if name not in ("seconds", "events_per_second")} for row in log]


class RecommenderConformance:
    """Tests of a model on a small data set; a subclass defines `make`."""

    # Networks sum in an order that depends on the number of threads: equal bits only with equal threads.
    exact_across_threads = True

    def make(self) -> Recommender:
        """A new model, not fitted, with settings that are quick to train."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> Dataset:
        return shop()

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, data: Dataset) -> Recommender:
        return cls().make().fit(data, Run(threads=2))

    # -- ids ------------------------------------------------------------------------------------------------------

    def test_raw_ids_in_a_tidy_frame_out(self, model: Recommender) -> None:
        frame = model.recommend(["u3", "u1"], k=4)
        assert frame.columns == ["user", "item", "score", "rank"]
        assert frame.schema["item"] == pl.Int64
        assert frame.schema["score"] == pl.Float32
        assert frame["user"].to_list() == ["u3"] * 4 + ["u1"] * 4
        assert frame["rank"].to_list() == [1, 2, 3, 4] * 2
        for _, part in frame.group_by("user"):
            assert part["score"].is_sorted(descending=True)

    def test_whole_number_users_and_text_items(self) -> None:
        log = pl.DataFrame({"user": [1, 1, 2, 2, 3], "item": ["a", "b", "b", "c", "a"]})
        frame = self.make().fit(Dataset.build(log)).recommend(2, k=1)
        assert frame["user"].to_list() == [2]
        assert frame["item"].to_list() == ["a"]

    def test_every_user_when_none_is_named(self, model: Recommender, data: Dataset) -> None:
        frame = model.recommend(k=2)
        assert frame["user"].unique(maintain_order=True).to_list() == data.user_ids.values.to_list()

    def test_unknown_user_and_user_without_events_get_full_lists(self, model: Recommender) -> None:
        frame = model.recommend(["nobody", "never"], k=5)
        assert frame["user"].to_list() == ["nobody"] * 5 + ["never"] * 5
        assert frame["item"].n_unique() >= 5

    def test_unknown_items_are_left_out_of_histories_allow_and_deny(self, model: Recommender) -> None:
        expected = model.recommend(histories={"v": [101, 102]}, k=5, deny=[103])
        with_unknown = model.recommend(histories={"v": [101, "?", 102, -7]}, k=5, deny=[103, "??"])
        assert expected.equals(with_unknown)
        allowed = model.recommend("u1", k=5, allow=[104, 105, "???"], exclude_seen=False)
        assert set(allowed["item"]) == {104, 105}

    def test_similar(self, model: Recommender) -> None:
        try:
            frame = model.similar([101, 102], k=3)
        except ConfigError:
            pytest.skip("this model has no notion of similar items")
        assert frame.columns == ["item", "similar", "score", "rank"]
        assert (frame["item"] != frame["similar"]).all()
        with pytest.raises(UnknownItemError, match="12345"):
            model.similar(12345)

    def test_what_is_similar_to_one_item_is_the_same_however_it_is_asked(
        self, model: Recommender, data: Dataset
    ) -> None:
        run = Run(threads=1)
        try:
            items, scores = model._most_similar(np.arange(data.n_items), data.n_items, run)
        except ConfigError:
            pytest.skip("this model has no notion of similar items")
        for item in range(data.n_items):
            expected = {int(other): score for other, score in zip(items[item], scores[item]) if other >= 0}
            for most in (1, data.n_items):
                codes, similarities = model._similar_to_item(item, most, run)
                by_item = dict(zip(codes.tolist(), similarities.tolist()))
                assert item not in by_item
                assert len(by_item) == len(codes) >= min(most, len(expected))
                if most == data.n_items:
                    assert by_item.keys() >= expected.keys()
                best = [other for other in by_item if other in expected]
                np.testing.assert_allclose(
                    [by_item[i] for i in best], [expected[i] for i in best], rtol=1e-5, atol=1e-6
                )

    # -- histories ------------------------------------------------------------------------------------------------

    def test_scores_are_finite_float32(self, model: Recommender, data: Dataset) -> None:
        scores = model.score(data.histories)
        assert scores.dtype == np.float32
        assert scores.shape == (data.n_users, data.n_items)
        assert np.isfinite(scores).all()

    def test_empty_history_and_empty_batch(self, model: Recommender, data: Dataset) -> None:
        assert len(model.recommend(histories={"new": []}, k=6)) == 6
        none = Histories.of(np.zeros(1, np.int64), np.zeros(0, np.int32))
        assert model.score(none).shape == (0, data.n_items)
        assert model.recommend([], k=3).is_empty()

    def test_a_history_of_dislikes_only(self, model: Recommender, data: Dataset) -> None:
        batch = Histories.of(np.array([0, 2]), np.array([1, 2]), weights=np.full(2, -1, np.float32))
        assert np.isfinite(model.score(batch)).all()
        assert len(model.recommend(histories=batch, k=5)) == 5

    def test_fits_a_log_of_dislikes_only(self) -> None:
        log = pl.DataFrame({"user": ["a", "b"], "item": [1, 2], "weight": np.full(2, -1, np.float32)})
        assert np.isfinite(self.make().fit(Dataset.build(log)).score(Dataset.build(log).histories)).all()

    def test_duplicate_events(self, data: Dataset) -> None:
        log = pl.DataFrame({"user": ["a"] * 6 + ["b"] * 3, "item": [1, 1, 1, 2, 2, 1, 2, 3, 3]})
        frame = self.make().fit(Dataset.build(log)).recommend(["a", "b"], k=3)
        assert frame.rows_by_key("user", named=False)["a"][0][0] == 3
        assert frame.filter(pl.col("user") == "b")["item"].to_list() == [1]

    def test_one_item(self) -> None:
        model = self.make().fit(Dataset.build(pl.DataFrame({"user": ["a", "b"], "item": ["only", "only"]})))
        assert model.recommend("a", k=5).is_empty()
        assert model.recommend("a", k=5, exclude_seen=False)["item"].to_list() == ["only"]
        assert model.recommend("stranger", k=5)["item"].to_list() == ["only"]

    # -- lists ----------------------------------------------------------------------------------------------------

    def test_seen_items_are_left_out_and_all_others_come(self, model: Recommender, data: Dataset) -> None:
        frame = model.recommend(k=data.n_items)
        seen = {(u, i) for u, i in zip(data.events["user"].to_list(), data.events["item"].to_list())}
        users, items = data.user_ids.encode(frame["user"]), data.item_ids.encode(frame["item"])
        assert not seen & set(zip(users.tolist(), items.tolist()))
        assert len(frame) + len(seen) == data.n_users * data.n_items
        assert len(model.recommend(k=data.n_items, exclude_seen=False)) == data.n_users * data.n_items

    def test_k_items_while_k_remain(self, model: Recommender, data: Dataset) -> None:
        all_items = data.item_ids.values.to_list()
        allowed, denied = all_items[:12], all_items[:4]
        frame = model.recommend(k=8, allow=allowed, deny=denied, exclude_seen=False)
        assert len(frame) == 8 * data.n_users
        assert set(frame["item"]) == set(allowed) - set(denied)
        seen = data.matrix("count")[:, 4:12]
        raw = np.zeros((data.n_users, data.n_items), dtype=bool)
        raw[data.events["user"].to_numpy(), data.events["item"].to_numpy()] = True
        remaining = 8 - raw[:, 4:12].sum(axis=1)
        assert seen.shape[1] == 8
        counts = model.recommend(k=8, allow=allowed, deny=denied).group_by("user", maintain_order=True).len()
        by_user = dict(counts.iter_rows())
        assert [by_user.get(u, 0) for u in data.user_ids.values] == remaining.tolist()

    def test_ties_are_broken_the_same_way_each_time(self, data: Dataset) -> None:
        log = pl.DataFrame({"user": [u for u in range(6) for _ in range(2)], "item": list(range(12))})
        frames = [
            self.make().fit(Dataset.build(log), Run(threads=t)).recommend([0, "stranger"], k=9) for t in (1, 2, 2)
        ]
        assert frames[0].equals(frames[1])
        assert frames[1].equals(frames[2])

    def test_batch_equals_single(self, model: Recommender, data: Dataset) -> None:
        batch = model.score(data.histories)
        single = np.concatenate([model.score(data.histories.rows(r, r + 1)) for r in range(data.n_users)])
        np.testing.assert_allclose(batch, single, rtol=1e-4, atol=1e-5)
        frame = model.recommend(["u1", "u2", "u3"], k=3)
        alone = pl.concat([model.recommend(user, k=3) for user in ("u1", "u2", "u3")])
        assert frame["item"].to_list() == alone["item"].to_list()

    def test_one_request_under_a_filter_is_as_in_a_batch(self, model: Recommender, data: Dataset) -> None:
        allowed = np.zeros(data.n_items, dtype=bool)
        allowed[1::5] = True
        seen = data.histories
        items, scores = model.rank(seen, 3, exclude=seen, allowed=allowed)
        for row in range(data.n_users):
            one = seen.rows(row, row + 1)
            single_items, single_scores = model.rank(one, 3, exclude=one, allowed=allowed)
            real = single_items[0] >= 0
            assert (real == (items[row] >= 0)).all()
            np.testing.assert_allclose(single_scores[0][real], scores[row][real], rtol=1e-4, atol=1e-5)
            assert allowed[single_items[0][real]].all()
            assert not set(single_items[0][real].tolist()) & set(one.items.tolist())

    def test_k_must_be_a_number_of_items(self, model: Recommender) -> None:
        with pytest.raises(ConfigError, match="k = 0"):
            model.recommend("u1", k=0)

    # -- fitting --------------------------------------------------------------------------------------------------

    def test_same_seed_same_answer_whatever_the_threads(self, model: Recommender, data: Dataset) -> None:
        one = self.make().fit(data, Run(seed=0, threads=1))
        if self.exact_across_threads:
            assert_same_state(one, model)
        else:
            assert_same_state(self.make().fit(data, Run(seed=0, threads=2)), model)
            np.testing.assert_allclose(one.score(data.histories), model.score(data.histories), rtol=1e-3, atol=1e-4)
        frames = [m.recommend(k=5, run=Run(threads=t)) for m, t in ((one, 1), (model, 2))]
        if self.exact_across_threads:
            assert frames[0].equals(frames[1])
        else:
            assert frames[0].drop("score").equals(frames[1].drop("score"))

    def test_fit_twice_is_fit_once(self, model: Recommender, data: Dataset) -> None:
        again = self.make().fit(shop(seed=9, users=20, items=11), Run(threads=2)).fit(data, Run(threads=2))
        assert_same_state(again, model)

    def test_constructor_only_stores(self) -> None:
        model = self.make()
        assert not [name for name in vars(model) if name.endswith("_")]
        assert set(vars(model)) == {field.name for field in dataclasses.fields(model)}
        assert not model.is_fitted

    def test_not_fitted(self, data: Dataset) -> None:
        for attempt in (
            lambda: self.make().recommend("u1"),
            lambda: self.make().score(data.histories),
            lambda: self.make().similar(101),
            lambda: self.make().save("nowhere"),
        ):
            with pytest.raises(NotFittedError, match="fit"):
                attempt()

    def test_fit_leaves_the_data_as_it_was(self) -> None:
        data = shop(seed=4)
        digest, frame = data.fingerprint, data.events.clone()
        matrices = {how: data.matrix(how).copy() for how in ("binary", "count", "weight")}
        self.make().fit(data)
        assert data.events.equals(frame)
        for how, matrix in matrices.items():
            assert (data.matrix(how) != matrix).nnz == 0
        assert shop(seed=4).fingerprint == digest

    # -- on disk --------------------------------------------------------------------------------------------------

    def test_save_and_load_bit_for_bit(self, model: Recommender, data: Dataset, tmp_path: Any) -> None:
        model.save(tmp_path / "shop" / "model")
        written = {file.suffix for file in (tmp_path / "shop" / "model").rglob("*") if file.is_file()}
        assert written <= {".npy", ".arrow", ".json", ".safetensors", ".txt"}
        assert [file.name for file in (tmp_path / "shop").iterdir()] == ["model"]
        for mmap in (True, False):
            back = load(tmp_path / "shop" / "model", mmap=mmap)
            assert type(back) is type(model)
            assert settings_of(back) == settings_of(model)
            assert_same_state(model, back)
            np.testing.assert_array_equal(model.score(data.histories), back.score(data.histories))
            assert back.recommend(k=4).equals(model.recommend(k=4))

    def test_loaded_arrays_are_mapped(self, model: Recommender, tmp_path: Any) -> None:
        model.save(tmp_path / "m")
        for name, array in arrays_of(load(tmp_path / "m")).items():
            if array.size > 1 and array.ndim and array.dtype != object:
                assert _is_mapped(array), name

    def test_saving_over_replaces_the_whole(self, model: Recommender, data: Dataset, tmp_path: Any) -> None:
        self.make().fit(shop(seed=5, users=9, items=8)).save(tmp_path / "m")
        mapped = load(tmp_path / "m")
        before = mapped.recommend(k=2)
        model.save(tmp_path / "m")
        assert mapped.recommend(k=2).equals(before)  # an open model keeps its files
        assert load(tmp_path / "m").recommend(k=2).equals(model.recommend(k=2))
        assert [file.name for file in tmp_path.iterdir()] == ["m"]

    def test_damaged_newer_and_foreign_folders(self, model: Recommender, tmp_path: Any) -> None:
        with pytest.raises(DataError, match="no model"):
            load(tmp_path / "missing")
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(DataError, match="no model"):
            model.save(tmp_path)
        assert (tmp_path / "notes.txt").read_text() == "mine"
        path = tmp_path / "m"
        model.save(path)
        manifest = json.loads((path / "model.json").read_text())
        (path / "model.json").write_text(json.dumps(manifest | {"format": 99}))
        with pytest.raises(DataError, match="format 99"):
            load(path)
        (path / "model.json").write_text("{")
        with pytest.raises(DataError, match="damaged"):
            load(path)
        (path / "model.json").write_text("[]")
        with pytest.raises(ZhiyinError):
            load(path)
        (path / "model.json").write_text(json.dumps(manifest))
        (path / "known.popularity.npy").write_bytes(b"nothing")
        with pytest.raises(DataError, match="damaged"):
            load(path)

    # -- hyperparameters ------------------------------------------------------------------------------------------

    def test_hyperparameters_round_trip(self, model: Recommender) -> None:
        name, settings = type(model).__name__, settings_of(model)
        texts = {key: f"[{value}]" if "," in str(value) else value for key, value in settings.items()}
        text = ",".join(f"{key}={value}" for key, value in texts.items())
        assert settings_of(registry.parse(f"{name.lower()}:{text}" if text else name)) == settings
        tables = {key: value for key, value in settings.items() if value is not None}  # TOML knows no null
        assert settings_of(registry.make(name, tables)) == settings
        assert settings_of(registry.make(name, json.loads(json.dumps(settings)))) == settings

    def test_parameters_as_scikit_learn_reads_and_sets_them(self, model: Recommender) -> None:
        params = model.get_params()
        assert type(model)(**params) == self.make()
        fresh = type(model)()
        assert fresh.set_params(**params) is fresh
        assert fresh.get_params(deep=False) == params
        with pytest.raises(ConfigError, match="no hyperparameter 'unheard_of'"):
            fresh.set_params(unheard_of=1)
        base = pytest.importorskip("sklearn.base")
        copy = base.clone(model)
        assert type(copy) is type(model)
        assert copy == self.make()
        assert not copy.is_fitted

    def test_unknown_hyperparameter_names_the_nearest(self) -> None:
        name, params = type(self.make()).__name__, list(params_of(type(self.make())))
        wrong = params[0] + "x" if params else "factors"
        for attempt in (
            lambda: registry.parse(f"{name}:{wrong}=1"),
            lambda: registry.make(name, {wrong: 1}),
        ):
            with pytest.raises(ConfigError, match=wrong) as raised:
                attempt()
            assert (params[0] if params else "none") in str(raised.value)

    def test_out_of_range_is_refused_at_fit(self, data: Dataset) -> None:
        for name, declared in params_of(type(self.make())).items():
            bad: list[Any] = ["nonsense"] if declared.kind != "str" or declared.choices else []
            bad += [declared.at_least - 1] if declared.at_least is not None else []
            bad += [declared.at_most + 1] if declared.at_most is not None else []
            for value in bad:
                with pytest.raises(ConfigError, match=name):
                    dataclasses.replace(self.make(), **{name: value}).fit(data)


def _is_mapped(array: Any) -> bool:
    while array is not None:
        if isinstance(array, np.memmap) or type(array).__module__ == "mmap":
            return True
        array = getattr(array, "base", None)
    return False
