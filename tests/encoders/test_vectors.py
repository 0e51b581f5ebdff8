"""A file of word vectors as a text encoder."""

import gzip
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from shine_hf.encoders import is_text_encoder_spec, text_encoder

WORDS = ["the", "Door", "opens", "."]
TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
LINES = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in zip(WORDS, TABLE))


@pytest.fixture(
    params=[
        "glove.txt",
        "word2vec.txt",
        "glove.txt.gz",
        "table.npy",
        "table_f16.safetensors",
        "json.npy",
        "positions.npy",
    ]
)
def path(request, tmp_path):
    """Write the same four vectors in each layout."""
    path = tmp_path / request.param
    if request.param == "glove.txt":
        path.write_text(LINES)
    elif request.param == "word2vec.txt":
        path.write_text("4 3\n" + LINES)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(LINES.encode()))
    elif path.suffix == ".npy":
        np.save(path, TABLE.astype(np.float16))
        if path.stem == "json":
            path.with_suffix(".json").write_text(json.dumps(WORDS))
        elif path.stem == "positions":
            path.with_suffix(".json").write_text(
                json.dumps({word: row for row, word in reversed([*enumerate(WORDS)])})
            )
        else:
            path.with_suffix(".txt").write_text("\n".join(WORDS) + "\n")
    else:
        save_file({"vectors": TABLE.astype(np.float16)}, path)
        (tmp_path / "table.txt").write_text("\n".join(WORDS))
    return path


def test_each_word_gets_its_vector(path):
    encoder = text_encoder(f"vectors:{path}")
    assert encoder.dim == 3 and text_encoder(encoder.spec).spec == encoder.spec == f"vectors:{path}"
    first, second = encoder.encode(["The door opens.", "purple door"])
    np.testing.assert_array_equal(first, TABLE)
    assert first.dtype == np.float32
    # A word without a vector gets the mean vector.
    np.testing.assert_allclose(second, [TABLE.mean(0), TABLE[1]])
    with pytest.raises(ValueError, match="has no words"):
        encoder.encode(["  "])


def test_words_may_contain_spaces_and_the_vocabulary_can_be_named(tmp_path):
    (tmp_path / "spaces.txt").write_text(". . . 1 2 3\na 4 5 6\n".replace(". . . 1", "a 1", 1) + "at home 7 8 9\n")
    encoder = text_encoder(f"vectors:{tmp_path / 'spaces.txt'}")
    assert encoder.encode(["a"])[0].tolist() == [[1, 2, 3]]
    np.save(tmp_path / "t.npy", TABLE)
    (tmp_path / "names").write_text("\n".join(WORDS))
    spec = f"vectors:{tmp_path / 't.npy'},vocabulary=names"
    assert text_encoder(spec).spec == spec and is_text_encoder_spec(spec)


def test_files_without_vectors_are_rejected(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.txt").write_text("a 1 2\nb 1\n")
    (tmp_path / "text.txt").write_text("a 1 two\n")
    (tmp_path / "binary.bin").write_bytes(b"3 2\n\xff\xfe\x00")
    np.save(tmp_path / "flat.npy", np.zeros(3, np.float32))
    (tmp_path / "flat.txt").write_text("a\nb\nc")
    np.save(tmp_path / "alone.npy", TABLE)
    np.save(tmp_path / "short.npy", TABLE)
    (tmp_path / "short.txt").write_text("a\nb")
    for spec, message in (
        ("gone.txt", "no file of word vectors"),
        ("empty.txt", "contains no word vectors"),
        ("broken.txt", "line 2: expected a word and 2 numbers"),
        ("text.txt", "line 1: expected a word and 2 numbers"),
        ("binary.bin", "not UTF-8 text"),
        ("flat.npy", r"shape \(3,\)"),
        ("alone.npy", "no vocabulary for .*vocabulary=NAME"),
        ("short.npy", "4 rows, but its vocabulary .* 2 words"),
        ("short.npy,vocabulary=../short.txt", "pass the name of a file in"),
        ("short.npy,vocabulary=gone", "no vocabulary"),
        ("broken.txt,vocabulary=short.txt", "remove the option vocabulary"),
        ("", "needs a file of word vectors"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            text_encoder(f"vectors:{tmp_path / spec}" if spec else "vectors:")


def test_glove_files_are_read(shared):
    encoder = text_encoder(f"vectors:{shared / 'data' / 'glove' / 'glove6b50d_vtg_vocab_f16.safetensors'}")
    assert encoder.dim == 50
    man, woman, door = (vector / np.linalg.norm(vector) for (vector,) in encoder.encode(["man", "woman", "door"]))
    assert man @ woman > 0.8 > man @ door
