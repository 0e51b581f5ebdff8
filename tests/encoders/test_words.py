import numpy as np
import pytest

from shine_hf.encoders import is_text_encoder_spec, text_encoder
from shine_hf.encoders.words import WordsTextEncoder, tokenize


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Person opens the door.", ["person", "opens", "the", "door", "."]),
        ("door.the", ["door", ".", "the"]),
        ("they're  half-open,\t2 cafés", ["they're", "half-open", ",", "2", "cafés"]),
        ("a_b work/play", ["a", "b", "work", "/", "play"]),
        ("  ", []),
    ],
)
def test_captions_are_split_into_words_and_punctuation(text, tokens):
    assert tokenize(text) == tokens


def test_inflections_are_similar_and_unrelated_words_are_not():
    encoder = WordsTextEncoder()
    vectors = dict(
        zip(words := ["open", "opens", "opened", "opening", "table", "laptop", "run"], encoder.encode(words))
    )
    vectors = {word: tokens[0] for word, tokens in vectors.items()}
    for inflection in ("opens", "opened", "opening"):
        assert cosine(vectors["open"], vectors[inflection]) > 0.6
    for a, b in (("open", "table"), ("laptop", "table"), ("run", "opens"), ("laptop", "run")):
        assert abs(cosine(vectors[a], vectors[b])) < 0.25


def test_each_word_gets_the_same_unit_vector_everywhere():
    short, long = WordsTextEncoder(dim=64).encode(["person opens door", "the person opens a door."])
    assert short.shape == (3, 64) and long.shape == (6, 64) and short.dtype == np.float32
    np.testing.assert_array_equal(short[0], long[1])
    np.testing.assert_allclose(np.linalg.norm(long, axis=1), 1, rtol=1e-5)
    # Recorded values: a change of the hash would break saved models.
    door = [-0.6789521, -0.0346767, 0.2794106, 0.6060008, -0.1493991, 0.2510926, -0.0068831, 0.0842577]
    np.testing.assert_allclose(WordsTextEncoder(dim=8).encode(["door"])[0][0], door, atol=1e-6)


def test_seed_changes_the_vectors_and_width_must_be_positive():
    a, b = (WordsTextEncoder(dim=256, seed=seed).encode(["door"])[0][0] for seed in (0, 1))
    assert abs(cosine(a, b)) < 0.3
    with pytest.raises(ValueError, match="positive"):
        WordsTextEncoder(dim=0)


def test_empty_queries_are_rejected():
    with pytest.raises(ValueError, match="has no words"):
        WordsTextEncoder().encode(["person opens", " "])


def test_specs_set_options_and_reject_unknown_ones():
    encoder = text_encoder("words:dim=32,seed=3")
    assert encoder.dim == 32 and text_encoder(encoder.spec).spec == encoder.spec == "words:dim=32,seed=3"
    assert text_encoder("words:").dim == 512
    assert is_text_encoder_spec("clip:anything") and not is_text_encoder_spec("npz:words")
    with pytest.raises(ValueError, match=r"words: has no option 'size=3'.*dim"):
        text_encoder("words:size=3")
    with pytest.raises(ValueError, match="unknown text encoder 'bert:x'"):
        text_encoder("bert:x")
