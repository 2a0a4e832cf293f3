"""Words in any script, and their weights against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhiyin.features.column_encoders import Column
from zhiyin.features.text import Text, tokens


def words(text: str) -> list[str]:
    return tokens(pl.Series([text]))["word"].to_list()


def learned(texts: list[str | None], **options: str) -> Text:
    text = Text.learn("x", pl.Series(texts), {"min": "1", **options})
    assert isinstance(text, Text)
    return text


def vocabulary(text: Text) -> list[str]:
    return text.ids.values.to_list()


def test_english_is_folded() -> None:
    assert words("Café CAFE, naïve ＡＢＣ１２ women’s 'quoted' x-ray #3") == [
        "cafe", "cafe", "naive", "abc12", "women's", "quoted", "x", "ray", "3",
    ]  # fmt: skip
    assert words("") == words(" .,!? ") == []


def test_chinese_is_cut_into_words_also_among_english() -> None:
    pytest.importorskip("jieba")
    assert words("我来到北京清华大学") == ["我", "来到", "北京", "清华大学"]
    assert words("买iPhone手机壳 free") == ["买", "iphone", "手机", "壳", "free"]
    found = tokens(pl.Series(["北京", None, "a 北京 b 北京"]))
    assert found.rows() == [(0, "北京"), (2, "a"), (2, "北京"), (2, "b"), (2, "北京")]


def test_no_chinese_needs_no_cutter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhiyin.features.text._cutter", lambda: pytest.fail("jieba was asked for"))
    text = learned(["red shoe", "blue shoe"])
    assert text.matrix(pl.Series(["红色 shoe"])).nnz == 1  # a word that was not learned, whatever the script


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_tf_idf_is_that_of_scikit_learn(ngrams: int) -> None:
    sklearn_text = pytest.importorskip("sklearn.feature_extraction.text")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["ab", "cd", "ef", "gh", "ij", "kl"], rng.integers(1, 9))) for _ in range(200)]
    peer = sklearn_text.TfidfVectorizer(sublinear_tf=True, ngram_range=(1, ngrams), min_df=2)
    wanted = peer.fit_transform(texts)
    text = learned(texts, ngrams=str(ngrams), min="1")
    found = text.matrix(pl.Series(texts)).toarray()
    columns = [vocabulary(text).index(word) for word in peer.get_feature_names_out()]
    if ngrams == 1:
        np.testing.assert_allclose(found[:, columns], wanted.toarray(), atol=1e-6)
    # Rare runs count into the length here, so compare the directions.
    mine = found[:, columns]
    mine /= np.linalg.norm(mine, axis=1, keepdims=True)
    np.testing.assert_allclose(mine, wanted.toarray(), atol=1e-6)


def test_bm25_by_hand() -> None:
    texts = ["a a b", "b c", "c c c c"]
    text = learned(texts, bm25="")
    found = text.matrix(pl.Series(texts)).toarray()
    mean, n = 3.0, 3
    df = {"a": 1, "b": 2, "c": 2}
    for row, said in enumerate(texts):
        parts = said.split()
        weights = np.zeros(3)
        for at, word in enumerate("abc"):
            tf = parts.count(word)
            idf = np.log(1 + (n - df[word] + 0.5) / (df[word] + 0.5))
            weights[at] = idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(parts) / mean))
        np.testing.assert_allclose(found[row], weights / np.linalg.norm(weights), rtol=1e-5)


def test_unknown_words_take_their_share_of_the_length() -> None:
    text = learned(["the red shoe", "the blue shoe"] * 5)
    known, strange, repeated = (text.matrix(pl.Series([said])) for said in ("the", "the xq zz", "the xq xq zz"))
    length = [float(np.sqrt(m.multiply(m).sum())) for m in (known, strange, repeated)]
    assert length[0] == pytest.approx(1)
    assert length[1] == pytest.approx(length[2])
    assert length[1] < 0.4


def test_runs_do_not_cross_texts_and_pieces_find_inflections() -> None:
    pairs = learned(["a b", "c d"], ngrams="2")
    assert vocabulary(pairs) == ["a", "a b", "b", "c", "c d", "d"]
    whole = learned(["heart", "lantern"])
    pieces = learned(["heart", "lantern"], pieces="")
    asked = pl.Series(["hearts"])
    assert whole.matrix(asked).nnz == 0
    like = pieces.matrix(asked) @ pieces.matrix(pl.Series(["heart", "lantern"])).T
    assert like[0, 0] > 0.5
    assert like[0, 1] == 0


def test_words_that_too_few_rows_hold_fall_away() -> None:
    assert vocabulary(learned(["a a a b", "b"], min="2")) == ["b"]
    empty = learned([None, ""])
    assert empty.matrix(pl.Series(["a", None])).shape == (2, 0)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=8), st.text(max_size=12))
def test_any_text_is_read_and_restored(texts: list[str], other: str) -> None:
    text = Text.learn("x", pl.Series(texts, dtype=pl.String), {"min": "1", "ngrams": "2"})
    assert isinstance(text, Text)
    settings, arrays = text.state()
    back: Column = Text.restore(settings, arrays)
    assert isinstance(back, Text)
    asked = pl.Series([*texts, other])
    found, again = text.matrix(asked), back.matrix(asked)
    assert (found != again).nnz == 0
    assert np.isfinite(found.data).all()
    assert (np.asarray(found.multiply(found).sum(axis=1)).ravel() < 1 + 1e-4).all()
