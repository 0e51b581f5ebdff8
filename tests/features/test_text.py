import multiprocessing
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from shine_hf import MomentRetrievalProcessor
from shine_hf.data.collator import DataCollatorForMomentRetrieval
from shine_hf.encoders.words import WordsTextEncoder
from shine_hf.features import encoded
from shine_hf.features.base import FeatureStore
from shine_hf.features.encoded import EncodedSentences, encoder_fingerprint
from shine_hf.features.text import EncodedText, TextFeatures

from ..data.made_up import make_rows


def save(folder, name, rows, seed=0):
    array = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    np.savez(folder / f"{name}.npz", last_hidden_state=array[None], pooler_output=array[0])
    return array


def row(qid, query="whatever", negatives=(), vid="v"):
    return {"qid": qid, "vid": vid, "query": query, "negative_queries": list(negatives)}


class TinyEncoder(WordsTextEncoder):
    """A text encoder with a network, so its features are stored; count the batches that it encodes."""

    def __init__(self, dim=8, seed=0, weight=1.0):
        super().__init__(dim, seed)
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.network.weight, weight)
        self.batches = []

    def encode(self, texts):
        self.batches.append(list(texts))
        return super().encode(texts)


# ---- stored ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "qid"])
def test_stored_features_are_found_by_their_public_names(tmp_path, prefix):
    query, first, third = save(tmp_path, f"{prefix}AB_train_0", 5), save(tmp_path, f"{prefix}AB_train_0_recomposed_gpt_0", 4, 1), save(
        tmp_path, f"{prefix}AB_train_0_recomposed_gpt_2", 3, 2
    )  # fmt: skip
    features = TextFeatures.from_spec(str(tmp_path))
    assert features.dim == 8 and features.public_spec == "npz:"
    for level, expected in ((None, query), (1, first), (3, third)):
        np.testing.assert_array_equal(features(query="whatever", qid="AB_train_0", level=level), expected)
    with pytest.raises(
        KeyError, match=r"no features of 'AB_train_0_recomposed_gpt_1' .*jayleicn/moment_detr"
    ) as error:
        features(query="whatever", qid="AB_train_0", level=2)
    assert "I3D" not in str(error.value)


def test_missing_text_features_are_reported_up_front(tmp_path):
    for name in ("1", "qid2", "1_recomposed_gpt_0"):
        save(tmp_path, name, 3)
    features = TextFeatures.from_spec(str(tmp_path))
    rows = [row("1", negatives=["a", "b", "c"]), row("2")]
    features.prepare(rows)
    features.prepare(rows, levels=1)
    with pytest.raises(KeyError, match=r"no features of 2 of 5 queries and negatives \(1, level 2; 1, level 3\)"):
        features.prepare(rows, levels=3)
    with pytest.raises(KeyError, match=r"no features of 1 of 3 .*\(3\)"):
        features.prepare([*rows, row("3")])


def test_features_can_be_stored_by_video(tmp_path):
    """As for TVSum in CG-DETR: one query per video, `{vid}.npz["token"]`."""
    np.savez(tmp_path / "AwmHb44_ouw.npz", token=np.ones((4, 8), np.float32))
    features = TextFeatures.from_spec(str(tmp_path))
    features.prepare([row("7", vid="AwmHb44_ouw")])
    assert features(query="q", qid="7").shape == (4, 8)


# ---- encoded ---------------------------------------------------------------------------------------------------------


def test_encoded_features_depend_on_the_sentence():
    features = TextFeatures.from_spec("words:dim=16")
    assert features.dim == 16 and features.public_spec == "words:dim=16,seed=0"
    np.testing.assert_array_equal(
        features(query="a dog runs.", qid="1", level=None), WordsTextEncoder(dim=16).encode(["a dog runs."])[0]
    )
    with pytest.raises(ValueError, match=r"qid '7': .*no words"):
        features(query=" ", qid="7", level=None)


def test_prepared_sentences_are_encoded_once_in_batches_for_all_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(encoded, "BATCH_SIZE", 2)
    rows = [row("1", "a long sentence", ["b", "cc", ""]), row("2", "b"), row("3", "unused", ["too far"])]
    features = EncodedText(TinyEncoder(), tmp_path / "sentences")
    features.prepare(rows[:2], levels=3, progress=False)
    assert features.encoder.batches == [["b", "cc"], ["a long sentence"]]
    features.prepare(rows, levels=0, progress=False)
    assert features.encoder.batches[2:] == [["unused"]]
    again = EncodedText(TinyEncoder(), tmp_path / "sentences")
    again.prepare(rows, levels=0, progress=False)
    for query in ("b", "cc", "a long sentence", "unused"):
        np.testing.assert_array_equal(again(query=query, qid="q"), WordsTextEncoder(dim=8).encode([query])[0])
    assert not again.encoder.batches


def test_interrupted_encoding_resumes_where_it_stopped(monkeypatch, tmp_path):
    monkeypatch.setattr(encoded, "FILE_SIZE", 4)
    texts = [f"sentence {index}" for index in range(10)]

    class Interrupted(TinyEncoder):
        def encode(self, texts):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        EncodedSentences(Interrupted(), tmp_path).add(texts, progress=False)
    assert sorted(path.name for path in tmp_path.glob("*.arrow")) == ["00000.arrow", "00001.arrow"]
    encoder = TinyEncoder()
    sentences = EncodedSentences(encoder, tmp_path)
    sentences.add(texts, progress=False)
    assert len(encoder.batches[0]) == 2 and all(text in sentences for text in texts)


def test_changed_encoder_does_not_reuse_stored_features():
    encoders = [TinyEncoder(), TinyEncoder(seed=1), TinyEncoder(weight=2.0), TinyEncoder(dim=9)]
    assert len({encoder_fingerprint(encoder) for encoder in encoders}) == 4
    assert encoder_fingerprint(TinyEncoder()) == encoder_fingerprint(encoders[0])
    half = TinyEncoder()
    half.network.bfloat16()
    assert encoder_fingerprint(half) not in map(encoder_fingerprint, encoders)
    for encoder in encoders[:2]:
        text = EncodedText(encoder)
        text.prepare([row("1", "a dog runs")], progress=False)
        np.testing.assert_array_equal(text(query="a dog runs", qid="1"), encoder.encode(["a dog runs"])[0])


def test_encoder_without_a_network_stores_nothing():
    features = TextFeatures.from_spec("words:dim=16")
    features.prepare([row("1", "a dog runs")], progress=False)
    assert features.sentences is None and encoder_fingerprint(features.encoder) is None


def test_unencodable_sentence_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no words"):
        EncodedText(TinyEncoder(), tmp_path).prepare([row("1", " ")], progress=False)
    assert not list(tmp_path.glob("*.arrow"))


def _add(folder, texts, counts):
    encoder = TinyEncoder()
    EncodedSentences(encoder, folder).add(texts, progress=False)
    counts.put(sum(map(len, encoder.batches)))


def test_concurrent_processes_encode_each_sentence_once(tmp_path):
    context = multiprocessing.get_context("fork")
    counts, texts = context.Queue(), [f"sentence {index}" for index in range(2000)]
    processes = [context.Process(target=_add, args=(tmp_path, texts, counts)) for _ in range(3)]
    for process in processes:
        process.start()
    assert sorted(counts.get(timeout=60) for _ in processes) == [0, 0, 2000]
    for process in processes:
        process.join()


def test_workers_share_memory_mapped_features(tmp_path):
    rows = make_rows(8)
    texts = EncodedText(TinyEncoder(), tmp_path)
    texts.prepare(rows, levels=3, progress=False)
    texts.encoder.encode = None  # Everything is encoded already.
    videos = FeatureStore.from_spec("simulated:dim=8", rows, clip_length=0.5)
    processor = MomentRetrievalProcessor(clip_length=0.5, normalize_features=False)
    collate = DataCollatorForMomentRetrieval(processor, videos, texts, query_pool=rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Torch warns about read-only arrays unless they are copied.
        expected = collate(rows[:4])["negative_text_features"]
    (first, _) = DataLoader(rows, batch_size=4, num_workers=2, collate_fn=collate)
    assert torch.equal(first["negative_text_features"], expected)


def test_text_features_can_be_pickled(tmp_path):
    features = EncodedText(TinyEncoder(), tmp_path)
    features.prepare([row("1", "a dog")], progress=False)
    again = pickle.loads(pickle.dumps(features))
    assert "a dog" in again.sentences and len(pickle.dumps(features)) < 10_000
    np.testing.assert_array_equal(again(query="a dog", qid="q"), features(query="a dog", qid="q"))


def test_cache_of_unprepared_sentences_is_bounded(monkeypatch):
    monkeypatch.setattr("shine_hf.features.text.MAX_KEPT", 2)
    features = EncodedText(TinyEncoder())
    for query in ("one", "two", "one", "three", "one", "two"):  # "three" evicts "two", then "two" is encoded again.
        features(query=query, qid="q")
    assert features.encoder.batches == [["one"], ["two"], ["three"], ["two"]]


def test_unknown_kind_is_rejected():
    with pytest.raises(ValueError, match="unknown feature store 'bert:x'"):
        TextFeatures.from_spec("bert:x")
