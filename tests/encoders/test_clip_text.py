import json

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from shine_hf.encoders import text_encoder
from shine_hf.features.text import TextFeatures


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """Save a randomly initialized CLIP text model with a tokenizer of single letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz."
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    CLIPTextModel(config).save_pretrained(folder)
    return folder


def test_features_are_the_last_hidden_state_of_valid_tokens(tiny_clip):
    encoder = text_encoder(f"clip:{tiny_clip}")
    short, long = encoder.encode(["ab c.", "person opens."])
    assert encoder.dim == 16 and encoder.spec == f"clip:{tiny_clip}"
    assert (
        short.shape == (6, 16) and long.shape == (14, 16) and short.dtype == np.float32
    )  # Includes the start and end tokens.
    # Equal to the output of transformers for a single sentence: padding of a batch changes nothing.
    model, tokenizer = CLIPTextModel.from_pretrained(tiny_clip), CLIPTokenizer.from_pretrained(tiny_clip)
    with torch.no_grad():
        expected = model(**tokenizer("ab c.", return_tensors="pt")).last_hidden_state[0]
    np.testing.assert_allclose(short, expected, atol=1e-5)


def test_long_queries_are_cut_and_empty_queries_rejected(tiny_clip):
    encoder = text_encoder(f"clip:{tiny_clip}")
    assert encoder.encode(["a" * 50])[0].shape == (20, 16)
    with pytest.raises(ValueError, match="empty query"):
        encoder.encode(["a", "  "])


def test_clip_text_features_can_be_used_for_training(tiny_clip):
    features = TextFeatures.from_spec(f"clip:{tiny_clip}")
    assert features.dim == 16 and features(query="ab", qid="q", level=None).shape == (4, 16)
