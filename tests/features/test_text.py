import pickle

import numpy as np
import pytest

from shine_hf.encoders.words import WordsTextEncoder
from shine_hf.features.text import EncodedText, TextFeatures


def save(folder, name, rows, seed=0):
    array = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    np.savez(folder / f"{name}.npz", last_hidden_state=array[None], pooler_output=array[0])
    return array


def test_stored_features_go_by_the_authors_names(tmp_path):
    query, first, third = save(tmp_path, "AB_train_0", 5), save(tmp_path, "AB_train_0_recomposed_gpt_0", 4, 1), save(
        tmp_path, "AB_train_0_recomposed_gpt_2", 3, 2
    )  # fmt: skip
    features = TextFeatures.from_spec(f"npz:{tmp_path}")
    assert features.dim == 8
    for level, expected in ((None, query), (1, first), (3, third)):
        np.testing.assert_array_equal(features(query="whatever", qid="AB_train_0", level=level), expected)
    with pytest.raises(KeyError, match="no features of 'AB_train_0_recomposed_gpt_1'"):
        features(query="whatever", qid="AB_train_0", level=2)


def test_encoded_features_go_by_the_sentence():
    features = TextFeatures.from_spec("words:dim=16")
    assert features.dim == 16
    np.testing.assert_array_equal(
        features(query="a dog runs.", qid="1", level=None), WordsTextEncoder(dim=16).encode(["a dog runs."])[0]
    )
    with pytest.raises(ValueError, match=r"qid '7': .*no words"):
        features(query=" ", qid="7", level=None)


class CountingEncoder(WordsTextEncoder):
    calls = 0

    def encode(self, texts):
        CountingEncoder.calls += len(texts)
        return super().encode(texts)


def test_sentences_are_encoded_once_and_memory_is_bounded():
    CountingEncoder.calls = 0
    features = EncodedText(CountingEncoder(dim=4), max_kept=2)
    for query in ("one", "two", "one", "two", "one"):
        features(query=query, qid="q")
    assert CountingEncoder.calls == 2
    for query in ("three", "one", "two"):  # "three" pushes "two" out, then "two" comes back.
        features(query=query, qid="q")
    assert CountingEncoder.calls == 4


def test_prefetched_sentences_are_encoded_in_batches_and_once(monkeypatch, tmp_path):
    monkeypatch.setattr("shine_hf.features.text.BATCH_SIZE", 2)
    batches = []

    class BatchedEncoder(WordsTextEncoder):
        def encode(self, texts):
            batches.append(list(texts))
            return super().encode(texts)

    features = EncodedText(BatchedEncoder(dim=4), max_kept=3)
    features(query="known", qid="q")
    features.prefetch(["a long sentence", "known", "b", "a long sentence", "cc"], progress=False)
    assert batches == [["known"], ["b", "cc"], ["a long sentence"]]
    for query in ("b", "cc", "a long sentence"):
        np.testing.assert_array_equal(features(query=query, qid="q"), WordsTextEncoder(dim=4).encode([query])[0])
    assert len(batches) == 3
    features.prefetch(map(str, range(9)), progress=False)  # Three are kept, so no more than three are worth the work.
    assert batches[3:] == [["0", "1"], ["2"]]

    save(tmp_path, "q", 2)
    TextFeatures.from_spec(f"npz:{tmp_path}").prefetch(["anything"])  # Nothing to encode.


def test_survives_pickling():
    features = TextFeatures.from_spec("words:dim=16")
    again = pickle.loads(pickle.dumps(features))
    np.testing.assert_array_equal(again(query="a dog", qid="q"), features(query="a dog", qid="q"))


def test_unknown_kinds():
    with pytest.raises(ValueError, match="unknown feature store 'bert:x'"):
        TextFeatures.from_spec("bert:x")
