import random
from collections import Counter

import pytest

from shine_hf.negatives.generators.balanced import BalancedGenerator
from shine_hf.negatives.generators.base import Generator, build_request
from shine_hf.negatives.generators.lexical import LexicalGenerator
from shine_hf.negatives.language.masking import extract_fills, mask_query
from shine_hf.negatives.language.tagging import Tagger
from shine_hf.negatives.language.vocabulary import Vocabulary

VERBS = {"opens": 12, "takes": 9, "holds": 7, "closes": 5, "throws": 3, "kicks": 2}
NOUNS = ("door", "box", "ball", "book")
QUERIES = [f"person {verb} the {noun}." for verb, number in VERBS.items() for noun in NOUNS for _ in range(number)]


@pytest.fixture(scope="module")
def queries():
    return [mask_query(query) for query in Tagger().tag(QUERIES)]


@pytest.fixture(scope="module")
def vocabulary(queries):
    return Vocabulary(queries, min_count=1)


@pytest.fixture(scope="module")
def requests(queries, vocabulary):
    return [
        build_request({"qid": str(number), "query": QUERIES[number]}, query, level, vocabulary)
        for number, query in enumerate(queries)
        for level in (1, 2)
    ]


def surplus(generator, requests, level):
    """Return how many of the words of a level would have to be replaced to balance it, as a share."""
    masked, filled = Counter(), Counter()
    for fill in generator.fill(requests):
        if fill.request.level == level:
            masked.update(fill.request.originals)
            filled.update(extract_fills(fill.request.masked_query, fill.text))
    return (filled - masked).total() / masked.total()


@pytest.mark.parametrize("level", [1, 2])
def test_words_fill_about_as_many_masks_as_they_leave(queries, vocabulary, requests, level):
    assert surplus(LexicalGenerator(queries), requests, level) > 0.15
    assert surplus(BalancedGenerator(queries, vocabulary), requests, level) < 0.1


def test_fills_are_other_words_and_depend_only_on_seed_and_qid(queries, vocabulary, requests):
    generator = BalancedGenerator(queries, vocabulary, seed=3)
    assert isinstance(generator, Generator)
    first = {(fill.request.qid, fill.request.level): fill.text for fill in generator.fill(requests)}
    for request in requests:
        words = extract_fills(request.masked_query, first[request.qid, request.level])
        assert len(words) == len(request.originals) and not set(words) & set(request.originals)
    other = BalancedGenerator(random.Random(1).sample(queries, len(queries)), vocabulary, seed=3)
    some = random.Random(0).sample(requests, 40)
    assert {(fill.request.qid, fill.request.level): fill.text for fill in other.fill(some)}.items() <= first.items()
