from shine_hf.negatives.generators.base import build_request
from shine_hf.negatives.generators.random_words import RandomWordsGenerator
from shine_hf.negatives.language.inflection import is_inflection_of
from shine_hf.negatives.language.masking import extract_fills, mask_query
from shine_hf.negatives.language.tagging import Tagger
from shine_hf.negatives.language.vocabulary import Vocabulary

QUERIES = ["person opens a door.", "person closed an apple.", "person is eating cake.", "person washes two red cups."]


def make(count=60):
    queries = [mask_query(query) for query in Tagger().tag(QUERIES)]
    vocabulary = Vocabulary(queries, min_count=1)
    requests = [
        build_request({"qid": str(number), "query": QUERIES[0]}, queries[0], level, vocabulary)
        for number in range(count)
        for level in (1, 2, 3)
    ]
    return vocabulary, requests


def test_any_form_with_the_right_part_of_speech_is_drawn():
    vocabulary, requests = make()
    fills = list(RandomWordsGenerator(vocabulary).fill(requests))
    assert [fill.request for fill in fills] == requests
    verbs = set()
    for fill in fills:
        words = extract_fills(fill.request.masked_query, fill.text)
        for word, original, part in zip(words, fill.request.originals, fill.request.parts_of_speech, strict=True):
            assert part in vocabulary.parts_of_speech(word)
            assert not is_inflection_of(word, original)
        if fill.request.level == 1:
            verbs.update(words)
    assert verbs == {"closed", "eating", "washes"}  # all of them, in any form


def test_draws_depend_only_on_seed_and_qid():
    vocabulary, requests = make()
    texts = [fill.text for fill in RandomWordsGenerator(vocabulary, seed=1).fill(requests)]
    assert [fill.text for fill in RandomWordsGenerator(vocabulary, seed=1).fill(requests[::-1])] == texts[::-1]
    assert [fill.text for fill in RandomWordsGenerator(vocabulary, seed=2).fill(requests)] != texts


def test_vocabulary_without_another_word_is_an_error():
    [query] = [mask_query(query) for query in Tagger().tag(QUERIES[:1])]
    vocabulary = Vocabulary([query], min_count=1)
    request = build_request({"qid": "0", "query": QUERIES[0]}, query, 1, vocabulary)
    [fill] = RandomWordsGenerator(vocabulary).fill([request])
    assert (fill.text, fill.error) == (None, "no candidates")
