import math
import random

import pytest

from shine_hf.negatives.text_only import text_only_accuracy

VERBS = ("opens", "closes", "takes", "throws", "holds", "moves")
NOUNS = ("door", "box", "ball", "cup", "chair", "phone")


def row(query, *negatives):
    return {"query": query, "negative_queries": list(negatives)}


def sentences(number, seed, verbs=VERBS):
    rng = random.Random(seed)
    return [f"person {rng.choice(verbs)} the {rng.choice(NOUNS)}." for _ in range(number)]


def test_words_that_no_query_has_give_every_negative_away():
    rows = [row(query, query.replace("person", "robot")) for query in sentences(100, 0)]
    assert text_only_accuracy(rows) == [1.0]


def test_rarely_used_words_give_negatives_away_more_often_than_chance():
    unusual = [*VERBS, *VERBS[:2] * 3]
    rows = [row(*texts) for texts in zip(sentences(2000, 0), sentences(2000, 1, unusual), sentences(2000, 2))]
    first, second = text_only_accuracy(rows)
    assert 0.6 < first < 0.8
    assert second == pytest.approx(0.5, abs=0.1)


def test_negatives_with_the_words_of_queries_are_not_given_away():
    queries = sentences(2000, 0)
    assert text_only_accuracy([row(*texts) for texts in zip(queries, queries[1:] + queries[:1])])[0] < 0.52


def test_missing_negatives_are_skipped_and_equal_words_count_half():
    rows = [row("person opens the door", "", "the door opens person"), row("person sits"), row("a dog", "", "A dog!")]
    first, second = text_only_accuracy(rows)
    assert math.isnan(first) and second == 0.5
    assert text_only_accuracy([]) == []
