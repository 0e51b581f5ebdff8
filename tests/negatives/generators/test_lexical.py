import random

import pytest

from shine_hf.negatives.generators.base import Generator, build_request
from shine_hf.negatives.generators.lexical import LexicalGenerator
from shine_hf.negatives.language.masking import extract_fills, mask_query
from shine_hf.negatives.language.synonyms import are_near_synonyms
from shine_hf.negatives.language.tagging import Tagger
from shine_hf.negatives.language.vocabulary import Vocabulary

PAIRS = {
    "opens": ("door", "window", "box"),
    "closes": ("door", "window", "box"),
    "drinks": ("water", "coffee", "juice"),
    "pours": ("water", "coffee", "juice"),
    "eats": ("sandwich", "apple", "cookie"),
    "bakes": ("sandwich", "cake", "cookie"),
}
QUERIES = [f"person {verb} the {noun}." for verb, nouns in PAIRS.items() for noun in nouns] * 5


@pytest.fixture(scope="module")
def queries():
    return [mask_query(query) for query in Tagger().tag(QUERIES)]


@pytest.fixture(scope="module")
def requests(queries):
    vocabulary = Vocabulary(queries, min_count=1)
    return [
        build_request({"qid": str(number), "query": QUERIES[number]}, query, level, vocabulary)
        for number, query in enumerate(queries)
        for level in (1, 2)
    ]


def test_cooccurring_words_are_preferred(queries, requests):
    generator = LexicalGenerator(queries, seed=0)
    assert isinstance(generator, Generator)
    seen = {(verb, noun) for verb, nouns in PAIRS.items() for noun in nouns}
    pairs = [
        tuple(extract_fills("person <mask> the <mask>.", fill.text))
        for fill in generator.fill(requests)
        if fill.request.level == 2
    ]
    plausible = sum(pair in seen for pair in pairs) / len(pairs)
    chance = sum(map(len, PAIRS.values())) / (len(PAIRS) * len({noun for nouns in PAIRS.values() for noun in nouns}))
    assert plausible > 0.9 > 3 * chance * 0.9 * 0.9
    assert len(set(pairs)) > 10


def test_fills_keep_the_template_and_avoid_originals_and_synonyms(queries, requests):
    for fill in LexicalGenerator(queries).fill(requests):
        words = extract_fills(fill.request.masked_query, fill.text)
        for original, word in zip(fill.request.originals, words, strict=True):
            assert word != original
            assert not are_near_synonyms(word, original)


def test_fills_depend_only_on_seed_and_qid(queries, requests):
    first = {(f.request.qid, f.request.level): f.text for f in LexicalGenerator(queries, seed=3).fill(requests)}
    shuffled = random.Random(0).sample(requests, len(requests))
    other_order = LexicalGenerator(random.Random(1).sample(queries, len(queries)), seed=3)
    assert {(f.request.qid, f.request.level): f.text for f in other_order.fill(shuffled[:40])}.items() <= first.items()
    other_seed = {(f.request.qid, f.request.level): f.text for f in LexicalGenerator(queries, seed=4).fill(requests)}
    assert other_seed != first
    # Equal queries of different videos get different negatives.
    assert len({first[str(number), 2] for number in range(0, len(QUERIES), len(QUERIES) // 5)}) > 1


def test_rejected_words_are_not_used_again(queries, requests):
    generator, request = LexicalGenerator(queries), requests[0]
    seen = set()
    for _ in range(3):
        [fill] = generator.fill([request])
        [word] = extract_fills(request.masked_query, fill.text)
        assert word not in seen
        seen.add(word)
        request = request.rejected(fill.text, ["positive_query"])


def test_request_without_candidates_is_an_error(queries, requests):
    from dataclasses import replace

    [fill] = LexicalGenerator(queries).fill([replace(requests[0], candidates=((),))])
    assert (fill.text, fill.error) == (None, "no candidates")
    [fill] = LexicalGenerator(queries).fill([replace(requests[0], candidates=(("unheard",),))])
    assert fill.text is None
