import pytest

from shine_hf.negatives.language.inflection import inflection, is_inflection_of, starts_with_vowel_sound, substitutes
from shine_hf.negatives.language.masking import mask_query
from shine_hf.negatives.language.synonyms import are_near_synonyms
from shine_hf.negatives.language.tagging import Tagger
from shine_hf.negatives.language.vocabulary import Vocabulary

QUERIES = [
    "person opens a door.",
    "person opens a box.",
    "person closes a window.",
    "person closes a book.",
    "person took an apple.",
    "person washed an orange.",
    "person washed a cup.",
    "person is taking two apples.",
    "person is opening two boxes.",
    "a man runs quickly.",
    "a woman runs slowly.",
    "two men run down the stairs.",
]


@pytest.fixture(scope="module")
def queries():
    return [mask_query(query) for query in Tagger().tag(QUERIES)]


@pytest.mark.parametrize(
    ("word", "part", "form"),
    [
        ("open", "VERB", "base"), ("opens", "VERB", "third"), ("passes", "VERB", "third"), ("opening", "VERB", "gerund"),
        ("bring", "VERB", "base"), ("opened", "VERB", "past_participle"), ("took", "VERB", "past"),
        ("taken", "VERB", "participle"), ("held", "VERB", "past_participle"), ("put", "VERB", "base"),
        ("goes", "VERB", "third"), ("feed", "VERB", "base"), ("lay", "VERB", "base"), ("toss", "VERB", "base"),
        ("door", "NOUN", "singular"), ("doors", "NOUN", "plural"), ("men", "NOUN", "plural"), ("glass", "NOUN", "singular"),
        ("bus", "NOUN", "singular"), ("shelves", "NOUN", "plural"), ("big", "ADJ", "positive"),
        ("bigger", "ADJ", "comparative"), ("best", "ADJ", "superlative"), ("other", "ADJ", "positive"), ("on", "ADP", ""),
    ],
)  # fmt: skip
def test_inflection_gives_the_form(word, part, form):
    assert inflection(word, part) == form


@pytest.mark.parametrize(
    ("word", "other", "same"),
    [
        ("opens", "opened", True), ("sitting", "sat", True), ("taking", "takes", True), ("carries", "carrying", True),
        ("women", "woman", True), ("shelf", "shelves", True), ("biggest", "big", True), ("lies", "laying", True),
        ("went", "go", True), ("door", "door", True), ("opens", "closes", False), ("sing", "sin", False),
        ("wash", "washer", False), ("red", "read", False), ("bed", "be", False), ("glass", "glasses", True),
    ],
)  # fmt: skip
def test_forms_of_one_lexeme_are_recognized(word, other, same):
    assert is_inflection_of(word, other) is same
    assert is_inflection_of(other, word) is same


def test_past_form_can_replace_a_past_participle_but_not_the_reverse():
    assert substitutes("past") == ("past", "past_participle")
    assert substitutes("past_participle") == ("past_participle",)
    assert substitutes("plural") == ("plural",)


def test_article_follows_the_sound_of_the_next_word():
    sounds = {word: starts_with_vowel_sound(word) for word in ("apple", "hour", "uniform", "umbrella", "one", "door")}
    assert sounds == {
        "apple": True, "hour": True, "uniform": False, "umbrella": True, "one": False, "door": False
    }  # fmt: skip


def test_near_synonyms_are_found_in_any_form():
    assert are_near_synonyms("takes", "grabbed")
    assert are_near_synonyms("sofa", "couches")
    assert are_near_synonyms("in", "into")
    assert not are_near_synonyms("opens", "closes")
    assert not are_near_synonyms("sofa", "chair")


def test_candidates_agree_in_form_and_article(queries):
    vocabulary = Vocabulary(queries, min_count=1)
    assert vocabulary.candidates("opens", "VERB") == ("closes", "runs")
    assert vocabulary.candidates("took", "VERB") == ("washed",)
    assert vocabulary.candidates("taking", "VERB") == ("opening",)
    assert vocabulary.candidates("apple", "NOUN", "an") == ("orange",)
    assert set(vocabulary.candidates("door", "NOUN", "a")) == {
        "person",
        "box",
        "window",
        "book",
        "cup",
        "man",
        "woman",
    }
    assert set(vocabulary.candidates("door", "NOUN", "the")) > {"apple", "orange", "book"}
    assert set(vocabulary.candidates("apples", "NOUN")) == {"boxes", "men", "stairs"}


def test_candidates_for_people_are_people_and_for_subjects_are_subjects(queries):
    vocabulary = Vocabulary(queries, min_count=1)
    assert set(vocabulary.candidates("man", "NOUN", "a")) == {"person", "woman"}
    assert set(vocabulary.candidates("they", "PRON")) == {"someone", "he", "she", "everyone", "nobody"}
    assert set(vocabulary.candidates("which", "PRON")) == {"who", "that"}


def test_other_forms_are_offered_if_no_form_agrees(queries):
    vocabulary = Vocabulary(queries, min_count=1)
    assert set(vocabulary.candidates("more", "ADV")) == {"quickly", "slowly"}
    assert vocabulary.candidates("red", "ADJ") == ()


def test_rare_and_avoided_words_are_not_offered(queries):
    assert "window" not in Vocabulary(queries, min_count=2).words("NOUN")
    avoiding = Vocabulary(queries, min_count=1, avoid=["Window", "closes"])
    assert "window" not in avoiding.candidates("door", "NOUN", "a")
    assert avoiding.candidates("opens", "VERB") == ("runs",)
    assert avoiding.parts_of_speech("window") == {"NOUN"}


def test_query_order_does_not_change_the_vocabulary(queries):
    forward, backward = Vocabulary(queries, min_count=1), Vocabulary(queries[::-1], min_count=1)
    assert forward.candidates("door", "NOUN") == backward.candidates("door", "NOUN")
