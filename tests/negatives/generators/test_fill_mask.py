from dataclasses import replace

import pytest

from shine_hf.negatives.language.masking import extract_fills

from ..requests_made_up import NOUNS, VERBS, make_request, make_requests

torch = pytest.importorskip("torch")

OTHER_WORDS = ("person", "the", "a", "quickly", "very", *"0123456789")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A BERT with random weights whose vocabulary holds the words of the made-up requests, and word pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *VERBS, *NOUNS, *OTHER_WORDS, ".", "##s", "re", "##open"]
    words += [f"##{digit}" for digit in "0123456789"]
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tiny_bert")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_generator(model):
    from shine_hf.negatives.generators.fill_mask import FillMaskGenerator

    return lambda **options: FillMaskGenerator(model, device="cpu", **options)


def words_of(fill) -> list[str]:
    return extract_fills(fill.request.masked_query, fill.text)


def test_fills_are_candidates_but_never_the_original(make_generator):
    fills = list(make_generator(batch_size=8).fill(make_requests(30)))
    assert len(fills) == 30
    for fill in fills:
        verb, noun = words_of(fill)
        assert verb in VERBS and noun in NOUNS and verb != "opens" and noun != "door"
    assert len({tuple(words_of(fill)) for fill in fills}) > 5


def test_fills_depend_on_the_seed_and_not_on_other_requests(make_generator):
    def texts(requests, **options):
        return {fill.request.qid: fill.text for fill in make_generator(**options).fill(requests)}

    first = texts(make_requests(20), batch_size=20)
    assert texts(make_requests(20)[::-1], batch_size=3) == first
    assert texts(make_requests(5)) == {qid: first[qid] for qid in texts(make_requests(5))}
    assert texts(make_requests(20), seed=1) != first


def test_rejected_words_are_not_used_again(make_generator):
    generator = make_generator()
    request = replace(make_request(), candidates=(("opens", "lifts", "closes"), ("door", "cup", "book")))
    seen = set()
    for _ in range(2):
        (fill,) = generator.fill([request])
        assert not set(words_of(fill)) & seen
        seen |= set(words_of(fill))
        request = request.rejected(fill.text, ["synonym"])
    assert seen == {"lifts", "closes", "cup", "book"}
    (fill,) = generator.fill([request])
    assert fill.text is None and fill.error.startswith("no_candidate")


def test_any_complete_word_is_allowed_without_candidates(make_generator):
    requests = [replace(request, candidates=()) for request in make_requests(20)]
    words = {word for fill in make_generator(top_k=100).fill(requests) for word in words_of(fill)}
    assert words <= {*VERBS, *NOUNS, *OTHER_WORDS, "re"} and len(words) > 5


def test_candidates_of_several_tokens_are_skipped(make_generator):
    request = replace(make_request(), candidates=(("reopens", "lifts"), ("books", "cup")))
    (fill,) = make_generator().fill([request])
    assert words_of(fill) == ["lifts", "cup"]


def test_queries_longer_than_the_model_maximum_are_reported(make_generator):
    long = replace(make_request(), masked_query="person <mask> the <mask> " + "very " * 50 + "0.")
    fills = list(make_generator().fill([long, make_request(1)]))
    errors = {fill.request.qid: fill.error for fill in fills}
    assert errors["row_1"] is None and errors["row_0"].startswith("too_long: 5")


def test_masks_are_filled_left_to_right_with_earlier_fills_in_context(make_generator):
    generator = make_generator(top_k=1)
    seen_texts = []
    original = generator._mask_logits

    def record(gaps):
        seen_texts.append([gap.text("[MASK]") for gap in gaps])
        return original(gaps)

    generator._mask_logits = record
    (fill,) = generator.fill([make_request()])
    assert [texts[0].count("[MASK]") for texts in seen_texts] == [2, 1]
    assert any(word in seen_texts[1][0] for word in words_of(fill))


def test_invalid_arguments_are_rejected(make_generator, tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        make_generator(top_k=0)
