"""One library's side of one row of `classical.py`, in a process of its own; run by `race.py`.

    PYTHON benchmarks/racers.py RACER FOLDER THREADS SETTINGS

RACER is the name of a function below. It gets the log in FOLDER (the arrays of a CSR matrix of ones), makes ready what
is not timed, and returns the work to be timed; arrays that the work returns are left in FOLDER. Then each line on
standard input runs the work once, and a line of JSON says how long it took. No library is imported but the one that
races.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

warnings.filterwarnings("ignore")
ALPHA, REG, CG_STEPS = 2.0, 5.0, 3
Work = Callable[[], dict[str, Any] | None]


def started(log: sparse.csr_matrix, factors: int) -> tuple[np.ndarray, np.ndarray]:
    """The vectors that every library begins with."""
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((n, factors)) * 0.1 / np.sqrt(factors) for n in log.shape)
    return x.astype(np.float32), y.astype(np.float32)


def dataset(log: sparse.csr_matrix) -> Any:
    """The log as Zhiyin's Dataset, its matrix made."""
    import polars as pl

    from zhiyin.data.dataset import Dataset

    user = np.repeat(np.arange(log.shape[0], dtype=np.int32), np.diff(log.indptr))
    data = Dataset.build(pl.DataFrame({"user": user, "item": log.indices}))
    data.matrix("binary")
    return data


# -- a sweep of ALS --------------------------------------------------------------------------------------------------


def zhiyin_als(log: sparse.csr_matrix, threads: int, factors: int, solver: str = "cg") -> Work:
    from zhiyin.core.run import Run
    from zhiyin.models.als import half_sweep

    run, (x, y) = Run(threads=threads), started(log, factors)
    users = log * np.float32(ALPHA)
    items = users.T.tocsr()
    scrap = [np.zeros((64, factors), np.float32) for _ in range(2)]
    half_sweep(sparse.eye(64, dtype=np.float32, format="csr"), *scrap, REG, CG_STEPS, run, solver=solver)  # compiles

    def sweep() -> dict[str, Any]:
        half_sweep(users, x, y, REG, CG_STEPS, run, solver=solver)
        half_sweep(items, y, x, REG, CG_STEPS, run, solver=solver)
        return {"x": x, "y": y}

    return sweep


def implicit_als(log: sparse.csr_matrix, threads: int, factors: int, solver: str = "cg") -> Work:
    """The calls of `AlternatingLeastSquares.fit` with use_native, with and without use_cg, without the loss. `implicit`
    counts confidence as c = alpha · w where Zhiyin counts c = 1 + alpha · w."""
    from implicit.cpu._als import least_squares, least_squares_cg

    x, y = started(log, factors)
    users = (log * np.float32(ALPHA + 1)).astype(np.float32)
    items = users.T.tocsr()

    def sweep() -> dict[str, Any]:
        for rows, mine, theirs in ((users, x, y), (items, y, x)):
            if solver == "exact":
                least_squares(rows, mine, theirs, REG, num_threads=threads)
            else:
                least_squares_cg(rows, mine, theirs, REG, num_threads=threads, cg_steps=CG_STEPS)
        return {"x": x, "y": y}

    return sweep


def irspack_als(log: sparse.csr_matrix, threads: int, factors: int, solver: str = "IALSPP") -> Work:
    """The same objective: its loss is halved, and its "original" loss has c = alpha0 + w."""
    from irspack.recommenders import _ials_core as core

    x, y = started(log, factors)
    model = core.IALSModelConfigBuilder().set_K(factors).set_alpha0(1.0).set_reg(REG).set_nu(0.0)
    model = model.set_loss_type(core.LossType.ORIGINAL).set_init_stdev(0.1).set_random_seed(1)
    how = core.IALSSolverConfigBuilder().set_n_threads(threads).set_solver_type(getattr(core.SolverType, solver))
    how = how.set_max_cg_steps(CG_STEPS).set_ialspp_iteration(1).set_ialspp_subspace_dimension(64).build()
    trainer = core.IALSTrainer(model.build(), (log * np.float32(ALPHA)).astype(np.float32))
    trainer.user, trainer.item = x, y

    def sweep() -> None:
        trainer.step(how)

    return sweep


# -- fits of item-to-item models --------------------------------------------------------------------------------------


def zhiyin_fit(log: sparse.csr_matrix, threads: int, model: str) -> Work:
    """A model as on a command line. The log's matrix is made, as the peers are given one."""
    from zhiyin.core.run import Run
    from zhiyin.models.registry import parse

    run, data = Run(threads=threads, progress=False), dataset(log)
    parse(model).fit(dataset(log[:300]), run)  # compiles

    def fit() -> dict[str, Any]:
        table = parse(model).fit(data, run).similarities_
        return {"entries": table.nnz, "sum": float(table.sum())}

    return fit


def implicit_knn(log: sparse.csr_matrix, threads: int, k: int) -> Work:
    from implicit.nearest_neighbours import CosineRecommender

    def fit() -> dict[str, Any]:
        model = CosineRecommender(K=k, num_threads=threads)
        model.fit(log, show_progress=False)
        return {"entries": model.similarity.nnz, "sum": float(model.similarity.sum())}

    return fit


def irspack_knn(log: sparse.csr_matrix, threads: int, k: int) -> Work:
    from irspack import CosineKNNRecommender

    def fit() -> dict[str, Any]:
        model = CosineKNNRecommender(log, shrinkage=0.0, normalize=True, top_k=k, n_threads=threads).learn()
        return {"entries": model.W.nnz, "sum": float(model.W.sum())}

    return fit


def lenskit_data(log: sparse.csr_matrix) -> Any:
    """The log as LensKit's data set."""
    import pandas as pd
    from lenskit.data import from_interactions_df

    user = np.repeat(np.arange(log.shape[0]), np.diff(log.indptr))
    return from_interactions_df(pd.DataFrame({"user_id": user, "item_id": log.indices}))


def lenskit_knn(log: sparse.csr_matrix, threads: int, k: int) -> Work:
    from lenskit.knn import ItemKNNScorer
    from lenskit.training import TrainingOptions

    data = lenskit_data(log)

    def fit() -> dict[str, Any]:
        model = ItemKNNScorer(max_nbrs=k, save_nbrs=k, feedback="implicit")
        model.train(data, TrainingOptions())
        return {"entries": len(model.sim_matrix.values)}

    return fit


def rectools_knn(log: sparse.csr_matrix, threads: int, k: int) -> Work:
    import pandas as pd
    from implicit.nearest_neighbours import CosineRecommender
    from rectools.dataset import Dataset
    from rectools.models import ImplicitItemKNNWrapperModel

    user = np.repeat(np.arange(log.shape[0]), np.diff(log.indptr))
    frame = pd.DataFrame({"user_id": user, "item_id": log.indices, "weight": 1.0, "datetime": "2000-01-01"})
    data = Dataset.construct(frame)

    def fit() -> None:
        ImplicitItemKNNWrapperModel(CosineRecommender(K=k, num_threads=threads)).fit(data)

    return fit


def irspack_slim(log: sparse.csr_matrix, threads: int, l1: float, l2: float) -> Work:
    from irspack import SLIMRecommender

    settings = {"alpha": (l1 + l2) / log.shape[0], "l1_ratio": l1 / (l1 + l2), "tol": 1e-4, "n_iter": 100}

    def fit() -> dict[str, Any]:
        model = SLIMRecommender(log, n_threads=threads, **settings).learn()
        return {"entries": model.W.nnz, "sum": float(model.W.sum())}

    return fit


def lenskit_slim(log: sparse.csr_matrix, threads: int, l1: float, l2: float) -> Work:
    from lenskit.knn.slim import SLIMScorer
    from lenskit.training import TrainingOptions

    data = lenskit_data(log)

    def fit() -> dict[str, Any]:
        model = SLIMScorer(l1_reg=l1, l2_reg=l2, max_iters=100)
        model.train(data, TrainingOptions())
        return {"entries": model.weights.nnz, "sum": float(model.weights.sum())}

    return fit


def sklearn_slim(log: sparse.csr_matrix, threads: int, l1: float, l2: float, sample: int) -> Work:
    """`ElasticNet` on each of a sample of items, as the usual SLIMElasticNet; `scale` is items over sample."""
    from concurrent.futures import ThreadPoolExecutor

    from sklearn.linear_model import ElasticNet

    n, n_items = log.shape
    settings = {"alpha": (l1 + l2) / n, "l1_ratio": l1 / (l1 + l2), "tol": 1e-4, "max_iter": 100}
    columns = log.tocsc()
    chosen = np.random.default_rng(0).choice(n_items, sample, replace=False)

    def part(items: np.ndarray) -> None:
        own = columns.copy()
        for item in items:
            place = slice(own.indptr[item], own.indptr[item + 1])
            wanted, kept = own[:, item].toarray().ravel(), own.data[place].copy()
            own.data[place] = 0
            ElasticNet(positive=True, fit_intercept=False, copy_X=False, **settings).fit(own, wanted)
            own.data[place] = kept

    def fit() -> dict[str, Any]:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, np.array_split(chosen, threads)))
        return {"scale": n_items / sample}

    return fit


# -- answers ---------------------------------------------------------------------------------------------------------


def fitted(log: sparse.csr_matrix, threads: int, factors: int) -> tuple[Any, Any, Any]:
    """ALS after two sweeps, the data and the run."""
    from zhiyin.core.run import Run
    from zhiyin.models.als import ALS

    run, data = Run(threads=threads, progress=False), dataset(log)
    return ALS(factors=factors, reg=REG, alpha=ALPHA, epochs=2).fit(data, run), data, run


def zhiyin_top(log: sparse.csr_matrix, threads: int, factors: int, users: int, folder: str) -> Work:
    """What `recommend` does between raw ids: vectors of histories are solved, then lists ranked."""
    model, data, run = fitted(log, threads, factors)
    who = np.arange(users)
    np.save(f"{folder}/who.npy", who)
    np.save(f"{folder}/top-x.npy", model.encode(data.histories.take(who), run))
    np.save(f"{folder}/top-y.npy", model.item_vectors_)

    def top() -> dict[str, Any]:
        batch = data.histories.take(who)
        return {"lists": model.rank(batch, 10, exclude=batch, run=run)[0]}

    return top


def zhiyin_top_of_vectors(log: sparse.csr_matrix, threads: int, factors: int, users: int, folder: str) -> Work:
    """The same from vectors of users that are there, as `implicit` has them."""
    from zhiyin.core.run import Run
    from zhiyin.models.masked_search import Mask, top_k_masked

    x, y = np.load(f"{folder}/top-x.npy"), np.load(f"{folder}/top-y.npy")
    run, mask = Run(threads=threads), Mask.of(np.ones(len(y), dtype=bool))

    def top() -> dict[str, Any]:
        rows = log[:users]
        return {"lists": top_k_masked(y, x, mask, 10, exclude=(rows.indptr, rows.indices), run=run)[0]}

    top()
    return top


def implicit_model(folder: str, threads: int, factors: int) -> Any:
    """`implicit`'s ALS with the vectors that Zhiyin left."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=factors, regularization=REG, num_threads=threads)
    model.user_factors = np.load(f"{folder}/top-x.npy")
    model.item_factors = np.load(f"{folder}/top-y.npy")
    return model


def implicit_top(log: sparse.csr_matrix, threads: int, factors: int, users: int, folder: str) -> Work:
    model, who = implicit_model(folder, threads, factors), np.load(f"{folder}/who.npy")

    def top() -> dict[str, Any]:
        return {"lists": model.recommend(who, log[who], N=10, filter_already_liked_items=True)[0]}

    return top


def each_ms(call: Callable[[], object], times: int) -> dict[str, float]:
    """Milliseconds of single calls: the middle one and the 99th of a hundred."""
    taken = np.empty(times)
    for at in range(times):
        begun = time.perf_counter()
        call()
        taken[at] = time.perf_counter() - begun
    return {"p50": float(np.median(taken) * 1000), "p99": float(np.quantile(taken, 0.99) * 1000)}


def zhiyin_one(log: sparse.csr_matrix, threads: int, factors: int, events: int, times: int, folder: str) -> Work:
    """One history of `events` items: its vector; its ten best items, between codes; the same, raw ids to frame."""
    from zhiyin.data.histories import Histories

    model, data, run = fitted(log, threads, factors)
    np.save(f"{folder}/top-y.npy", model.item_vectors_)
    np.save(f"{folder}/top-x.npy", np.zeros((1, factors), np.float32))
    row = np.argmax(np.diff(log.indptr) >= events)
    codes = log.indices[log.indptr[row] : log.indptr[row] + events].astype(np.int32)
    history = Histories.of(np.array([0, events]), codes)
    raw = {"visitor": data.item_ids.decode(codes).to_list()}

    def one() -> dict[str, Any]:
        return {
            "fold-in": each_ms(lambda: model.encode(history, run), times),
            "rank": each_ms(lambda: model.rank(history, 10, exclude=history, run=run), times),
            "recommend": each_ms(lambda: model.recommend(histories=raw, k=10, run=run), times),
        }

    one()
    return one


def implicit_one(log: sparse.csr_matrix, threads: int, factors: int, events: int, times: int, folder: str) -> Work:
    model = implicit_model(folder, threads, factors)
    row = np.argmax(np.diff(log.indptr) >= events)
    codes = log.indices[log.indptr[row] : log.indptr[row] + events]
    worth = np.full(events, ALPHA + 1, np.float32)
    history = sparse.csr_matrix((worth, codes, [0, events]), shape=(1, log.shape[1]))

    def one() -> dict[str, Any]:
        return {
            "fold-in": each_ms(lambda: model.recalculate_user(0, history), times),
            "rank": each_ms(lambda: model.recommend(0, history, N=10, recalculate_user=True), times),
        }

    one()
    return one


def main() -> None:
    name, folder, threads, settings = sys.argv[1:]
    arrays = {part: np.load(f"{folder}/{part}.npy") for part in ("indptr", "indices", "shape")}
    ones = np.ones(len(arrays["indices"]), dtype=np.float32)
    log = sparse.csr_matrix((ones, arrays["indices"], arrays["indptr"]), shape=tuple(arrays["shape"]))
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    work = globals()[name](log, int(threads), **json.loads(settings))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        found = work() or {}
        answer: dict[str, Any] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        for key, value in found.items():
            if isinstance(value, np.ndarray):
                path = Path(folder) / f"{line.strip()}-{key}.npy"
                np.save(path, value)
                value = str(path)
            answer[key] = value
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
