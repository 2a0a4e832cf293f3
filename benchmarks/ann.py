"""Search among a million item vectors, one query at a time on one thread: exact, `models.ann_index`, and FAISS.

    ZHIYIN_DATA=... python benchmarks/ann.py                       # 1 M x 64; the folder that holds gowalla/
    ZHIYIN_DATA=... python benchmarks/ann.py --items 100000 --factors 128 --hnsw

The vectors are those of ALS on Gowalla, its 40,981 items grown to so many: mixtures of two items, moved by noise of the
vectors' own covariance, so that lengths differ as they do there. Queries are users' encodings. Those that tune are not
those that are measured. "cosine" is similar items: the same vectors, an item's own as the query. FAISS (`pip install
faiss-cpu`; left out where it is not installed) gets as many probes as give recall .985 without a filter, on the queries
the index is tuned by; filters reach it as bitmaps. Filters are by chance, but "near": the tenth of the items nearest to
one of them, whatever the query. ms: of one query, k = 100, mask made. bytes: beside the vectors.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

import zhiyin as zy
from published import ragged
from zhiyin.models.ann_index import Index
from zhiyin.models.masked_search import Compact, Mask, top_k_masked

K, RECALL = 100, 0.985
ONE = zy.Run(threads=1)
Search = Callable[[np.ndarray, Mask, object], np.ndarray]


def grown(folder: Path, n: int, factors: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32[n, factors], and users' encodings in random order."""
    user, item = ragged(folder / "train.txt")
    data = zy.Dataset.build(pl.DataFrame({"user": user, "item": item}))
    model = zy.ALS(factors=factors, reg=5.0, epochs=8).fit(data)
    rng, real = np.random.default_rng(0), model.item_vectors_
    one, other = rng.integers(0, len(real), n), rng.integers(0, len(real), n)
    share = (0.5 * rng.random(n) ** 2).astype(np.float32)[:, None]
    vectors = real[one] * (1 - share) + real[other] * share
    unit = real / np.linalg.norm(real, axis=1, keepdims=True)
    shape = np.linalg.cholesky(np.cov(unit.T) + 1e-6 * np.eye(factors)).astype(np.float32)
    noise = rng.standard_normal(vectors.shape, dtype=np.float32) @ shape.T
    vectors += 0.6 * np.linalg.norm(vectors, axis=1, keepdims=True) * noise
    return vectors, model.encode(data.histories)[rng.permutation(data.n_users)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--hnsw", action="store_true", help="FAISS's graph too, which takes long to build")
    given = parser.parse_args()
    folder = Path(os.environ.get("ZHIYIN_DATA", ".")) / "gowalla"
    if not folder.exists():
        sys.exit("set ZHIYIN_DATA to the folder that holds gowalla/train.txt")
    vectors, queries = grown(folder, given.items, given.factors)
    tune, asked = queries[:1_000], queries[1_000 : 1_000 + given.queries]
    inverse = (1 / np.linalg.norm(vectors, axis=1)).astype(np.float32)
    rng = np.random.default_rng(1)
    centre = vectors[rng.integers(len(vectors))]
    near = (vectors @ centre) * inverse
    passing = {"none": np.ones(len(vectors), bool)}
    passing |= {f"{share:.1%}": rng.random(len(vectors)) < share for share in (0.5, 0.05, 0.005)}
    passing["near"] = near >= np.quantile(near, 0.9)
    masks = {name: Mask.of(bits) for name, bits in passing.items()}
    print(f"{given.items:,} items x {given.factors}, {given.queries} queries")
    print(f"{'method':31} {'filter':>6} recall@{K}  ms 50 %  ms 99 %  build s  MiB")
    begun = time.perf_counter()
    compact = Compact.of(vectors)
    took = time.perf_counter() - begun

    def dense(query: np.ndarray, mask: Mask, _: object) -> np.ndarray:
        scores = np.where(mask.bits, vectors @ query, -np.inf)
        best = np.argpartition(-scores, K)[:K]
        return best[np.argsort(-scores[best])]

    def whole(query: np.ndarray, mask: Mask, scale: object = None) -> np.ndarray:
        return top_k_masked(vectors, query, mask, K, compact=compact, scale=scale, run=ONE)[0][0]

    def by(index: Index, scale: np.ndarray | None) -> Search:
        def search(query: np.ndarray, mask: Mask, _: object) -> np.ndarray:
            if not index.is_faster(mask, K):
                return whole(query, mask, scale)
            return index.search(vectors, query, mask, K, compact=compact, scale=scale, run=ONE)[0][0]

        return search

    best = {name: [whole(query, mask) for query in asked] for name, mask in masks.items()}
    measure("exact, everything scored", dense, asked, masks, best, 0, 0)
    measure("exact, through bytes", lambda q, m, _: whole(q, m), asked, masks, best, took, compact.nbytes)
    begun = time.perf_counter()
    index = Index.build(vectors, tune, compact)
    seconds = time.perf_counter() - begun
    measure("index", by(index, None), asked, masks, best, seconds, index.nbytes + compact.nbytes)
    unit = vectors * inverse[:, None]
    rows = rng.permutation(len(vectors))
    begun = time.perf_counter()
    alike = Index.build(vectors, unit[rows[:500]], compact, scale=inverse)
    seconds = time.perf_counter() - begun
    items = unit[rows[500 : 500 + given.queries]]
    likest = {name: [whole(query, mask, inverse) for query in items] for name, mask in masks.items()}
    measure("index, cosine", by(alike, inverse), items, masks, likest, seconds, alike.nbytes + compact.nbytes)
    peers(vectors, tune[:128], asked, masks, best, given.hnsw)


def peers(
    vectors: np.ndarray,
    tune: np.ndarray,
    asked: np.ndarray,
    masks: dict[str, Mask],
    best: dict[str, list[np.ndarray]],
    hnsw: bool,
) -> None:
    """The indices of FAISS."""
    try:
        import faiss
    except ImportError:
        print("FAISS is not installed")
        return
    n, d = vectors.shape
    lists = round(2 * n**0.5)
    every = Mask.of(np.ones(n, bool))
    truth = [top_k_masked(vectors, query, every, K)[0][0] for query in tune]
    selectors = {
        name: None if mask.count == n else faiss.IDSelectorBitmap(np.packbits(mask.bits, bitorder="little"))
        for name, mask in masks.items()
    }
    ways = {
        "FAISS IVF flat": f"IVF{lists},Flat",
        "FAISS IVF 8 bits": f"IVF{lists},SQ8",
        "FAISS IVF 8 bits, refined": f"IVF{lists},SQ8",
    }
    for name, way in (ways | ({"FAISS HNSW": "HNSW32,Flat"} if hnsw else {})).items():
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        begun = time.perf_counter()
        made = faiss.index_factory(d, way, faiss.METRIC_INNER_PRODUCT)
        if "HNSW" in way:
            made.hnsw.efConstruction = 80
        else:
            made.cp.max_points_per_centroid = 50
        made.train(vectors)
        made.add(vectors)
        seconds = time.perf_counter() - begun
        size = len(faiss.serialize_index(made)) - (vectors.nbytes if "HNSW" in way else 0)
        faiss.omp_set_num_threads(1)
        refined = name.endswith("refined")

        def search(query: np.ndarray, _: Mask, chosen: object, effort: int = 0) -> np.ndarray:
            if "HNSW" in way:  # noqa: B023
                settings = faiss.SearchParametersHNSW(sel=chosen, efSearch=effort or least)  # noqa: B023
            else:
                settings = faiss.SearchParametersIVF(sel=chosen, nprobe=effort or least)  # noqa: B023
            found = made.search(query[None], 2 * K if refined else K, params=settings)[1][0]  # noqa: B023
            if refined:  # noqa: B023
                found = found[found >= 0]
                found = found[np.argsort(-(vectors[found] @ query), kind="stable")[:K]]
            return found

        least = 1 if "HNSW" not in way else K
        while least < lists:
            reached = np.mean([np.isin(search(q, every, None, least), b).mean() for q, b in zip(tune, truth)])
            if reached >= RECALL:
                break
            least = max(least + 1, least * 5 // 4)
        measure(f"{name} ({least})", search, asked, masks, best, seconds, size, selectors)


def measure(
    name: str,
    search: Search,
    queries: np.ndarray,
    masks: dict[str, Mask],
    best: dict[str, list[np.ndarray]],
    seconds: float,
    size: int,
    selectors: dict[str, object] | None = None,
) -> None:
    """Print a line for each filter."""
    for what, mask in masks.items():
        chosen = selectors[what] if selectors else None
        search(queries[0], mask, chosen)
        took, hit = [], 0.0
        for query, right in zip(queries, best[what]):
            begun = time.perf_counter()
            found = search(query, mask, chosen)
            took.append(1e3 * (time.perf_counter() - begun))
            hit += np.isin(found, right).sum() / K
        half, most = np.percentile(took, [50, 99])
        figures = f"{hit / len(queries):.4f} {half:8.2f} {most:8.2f} {seconds:8.1f} {size / 2**20:4.0f}"
        print(f"{name:31} {what:>6}    {figures}", flush=True)


if __name__ == "__main__":
    main()
