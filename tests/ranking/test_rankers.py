"""Every ranker passes the same suite; and each one its own formula."""

from __future__ import annotations

import numpy as np
import pytest

from zhiyin.core.errors import ConfigError
from zhiyin.core.run import Run
from zhiyin.ranking.examples import Examples
from zhiyin.ranking.multitask import MultiTask
from zhiyin.ranking.ranker import Ranker
from zhiyin.ranking.registry import parse
from zhiyin.testing.ranker import RankerConformance, planted


class TestBinaryTrees(RankerConformance):
    text = "trees:objective=binary,learning_rate=0.1"
    least = 0.65  # a tree asks one category at a time; what two mean together is hard to find


class TestOrderedTrees(RankerConformance):
    text = "trees:learning_rate=0.1"
    least = 0.6


class TestFM(RankerConformance):
    text = "fm:epochs=20,learning_rate=0.01,batch_size=256"


class TestDeepFM(RankerConformance):
    text = "deepfm:epochs=20,learning_rate=0.005,batch_size=256"


class TestDCN(RankerConformance):
    text = "dcnv2:epochs=20,learning_rate=0.005,batch_size=256"


@pytest.mark.slow
class TestLowRankDCN(RankerConformance):
    text = "dcnv2:epochs=20,learning_rate=0.005,batch_size=256,rank=8,experts=2,structure=stacked"


class TestDIN(RankerConformance):
    text = "din:epochs=20,learning_rate=0.005,batch_size=256"


class TwoLabels(RankerConformance):
    """The second label happens to a third of the first's rows, by the item alone."""

    @classmethod
    def labels(cls, marks: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(len(marks))
        return np.stack([marks, marks * (rng.random(len(marks)) < 1 / 3)], axis=1).astype(np.float32)

    def chances(self, ranker: Ranker, examples: Examples) -> np.ndarray:
        assert isinstance(ranker, MultiTask)
        return ranker.chances(examples)[:, 0]

    def test_weights_change_the_order_without_learning_anew(self, taught: MultiTask) -> None:
        examples, _, _ = planted(4, 30)
        chances = taught.chances(examples)
        assert np.allclose(taught.score(examples, weights={"click": 1}), chances[:, 0], rtol=1e-5)
        assert np.allclose(taught.score(examples, weights={"click": 1, "purchase": 5}), chances @ [1, 5], rtol=1e-5)
        product = taught.score(examples, weights={"click": 1, "purchase": 2}, combine="product")
        assert np.allclose(product, chances[:, 0] * chances[:, 1] ** 2, rtol=1e-4)
        with pytest.raises(ConfigError, match="purchase"):
            taught.score(examples, weights={"purchases": 1})


@pytest.mark.slow
class TestMMoE(TwoLabels):
    text = "multitask:epochs=20,learning_rate=0.005,batch_size=256"


class TestESMM(TwoLabels):
    text = "multitask:epochs=20,learning_rate=0.005,batch_size=256,structure=esmm"

    def test_no_label_is_likelier_than_the_one_before_it(self, taught: MultiTask) -> None:
        chances = taught.chances(planted(4, 100)[0])
        assert (chances[:, 1] <= chances[:, 0]).all()
        assert 0.2 < (chances[:, 1] / chances[:, 0]).mean() < 0.5


def test_trees_walk_as_lightgbm_does() -> None:
    import lightgbm

    examples, labels, _ = planted(1, 200)
    for text in ("trees:objective=binary,trees=40", "trees:trees=40"):
        trees = parse(text).fit(examples, labels, run=Run(seed=1))
        booster = lightgbm.Booster(model_str=trees.text_)
        raw = booster.predict(trees.table(examples), raw_score=True)
        assert np.array_equal(trees._raw(examples, Run()).astype(np.float32), raw.astype(np.float32))
        assert np.allclose(trees.contributions(examples).sum(axis=1) , raw - booster.predict(
            trees.table(examples), pred_contrib=True)[:, -1], atol=1e-4)  # fmt: skip


def test_the_pairwise_part_of_fm_is_the_sum_over_pairs() -> None:
    import torch

    from zhiyin.ranking.fm import pairs

    vectors = torch.randn(7, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v, linear = vectors[..., :-1], vectors[..., -1]
    slow = linear.sum(dim=1)
    for i in range(5):
        for j in range(i + 1, 5):
            slow = slow + (v[:, i] * v[:, j]).sum(dim=1)
    assert torch.allclose(pairs(vectors), slow)


def test_a_cross_layer_is_equation_1() -> None:
    import torch

    from zhiyin.ranking.dcn import Cross

    torch.manual_seed(0)
    layer = Cross(6).double()
    first, x = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    weight, bias = (value for _, value in sorted(layer.named_parameters(), key=lambda pair: -pair[1].ndim))
    assert torch.allclose(layer(first, x), first * (x @ weight.T + bias) + x)


def test_attention_over_ragged_histories_is_a_loop_over_each() -> None:
    import torch

    from zhiyin.ranking.din import Attention

    torch.manual_seed(1)
    unit = Attention(4, 5, "prelu").double().eval()
    lengths = [3, 0, 2]
    keys = torch.randn(5, 4, dtype=torch.float64)
    candidates = torch.randn(3, 4, dtype=torch.float64)
    owners = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    starts = torch.tensor([0, 3, 3, 5])
    whole = unit(candidates, keys, owners, starts)
    for row, (start, length) in enumerate(zip([0, 3, 3], lengths)):
        part = keys[start : start + length]
        alone = unit(candidates[row : row + 1], part, torch.zeros(length, dtype=torch.long), torch.tensor([0, length]))
        assert torch.allclose(alone[0], whole[row])
    assert torch.allclose(whole[1], torch.zeros(4, dtype=torch.float64))
