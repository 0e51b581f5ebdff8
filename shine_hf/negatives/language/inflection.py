"""Rule-based English inflection for captions: the form of a word, and whether two words are forms of the same lexeme.

The tagger only gives parts of speech. The rest follows from endings and a table of frequent irregular words. An ambiguous word such as
"put" gets the form that is most frequent in captions (the base form).
"""

from __future__ import annotations

from functools import cache

VOWELS = "aeiou"

# Base, past and participle. A participle that equals the past is omitted.
_IRREGULAR_VERBS = """
be was been|become became become|begin began begun|bend bent|bind bound|bite bit bitten|blow blew blown|break broke broken
bring brought|build built|burn burnt|buy bought|catch caught|choose chose chosen|come came come|creep crept
deal dealt|dig dug|do did done|draw drew drawn|dream dreamt|drink drank drunk|drive drove driven|eat ate eaten
fall fell fallen|feed fed|feel felt|fight fought|find found|flee fled|fling flung|fly flew flown|forget forgot forgotten
freeze froze frozen|get got gotten|give gave given|go went gone|grind ground|grow grew grown|hang hung|have had|hear heard
hide hid hidden|hold held|keep kept|kneel knelt|know knew known|lay laid|lead led|lean leant|leap leapt|leave left|lend lent
lie lay lain|light lit|lose lost|make made|mean meant|meet met|pay paid|ride rode ridden|ring rang rung
rise rose risen|run ran run|say said|see saw seen|sell sold|send sent|sew sewed sewn|shake shook shaken|shine shone|shoot shot
show showed shown|shrink shrank shrunk|sing sang sung|sink sank sunk|sit sat|sleep slept|slide slid|speak spoke spoken
spend spent|spill spilt|spin spun|spit spat|spring sprang sprung|stand stood|steal stole stolen|stick stuck|sting stung
strike struck|string strung|sweep swept|swim swam swum|swing swung|take took taken|teach taught|tear tore torn|tell told
think thought|throw threw thrown|understand understood|wake woke woken|awake awoke awoken|wear wore worn|weave wove woven
win won|wind wound|wring wrung|write wrote written
"""
# Base, past and participle are the same.
_UNCHANGING_VERBS = "bet burst cast cost cut fit hit hurt knit let put quit read rid set shut split spread thrust wet"
_IRREGULAR_NOUNS = """
man men|woman women|child children|person people|foot feet|tooth teeth|goose geese|mouse mice|knife knives|leaf leaves
shelf shelves|wolf wolves|life lives|wife wives|half halves|loaf loaves|scarf scarves|calf calves|hoof hooves|ox oxen
fireman firemen|policeman policemen|gentleman gentlemen|cameraman cameramen|bookshelf bookshelves|postman postmen
"""
_SINGULAR_IN_S = """
gas lens bus canvas series news tennis gymnastics atlas chaos iris christmas pus plus hummus asparagus cactus campus
chorus circus focus octopus virus bonus census sinus uterus abacus apparatus
"""
_BASE_VERBS_IN_ING = "bring cling fling king ping ring sing sling spring sting string swing wing wring"
_BASE_VERBS_IN_ED = "bed bleed breed embed feed need proceed seed shed shred sled speed succeed weed wed"
_IRREGULAR_COMPARISON = (
    "good better best|bad worse worst|far farther farthest|little less least|many more most|well better best"
)
_POSITIVE_IN_ER = """
other another under upper lower inner outer proper former latter clever bitter rubber super leather silver copper
whether ever never over after together rather however altogether
"""
_POSITIVE_IN_EST = "honest modest west east northwest southwest"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _rows(text: str) -> list[list[str]]:
    return [row.split() for row in text.replace("\n", "|").split("|") if row.strip()]


def _verb_forms() -> dict[str, tuple[str, str]]:
    """Return irregular form -> (base, inflection)."""
    forms: dict[str, tuple[str, str]] = {}
    for base, past, *participle in _rows(_IRREGULAR_VERBS):
        forms.setdefault(past, (base, "past" if participle else "past_participle"))
        if participle and participle[0] != base:
            forms[participle[0]] = (base, "participle")
    # In captions, "lay" is nearly always the base form, and not the past of "lie".
    forms |= {"lay": ("lay", "base"), "is": ("be", "third"), "are": ("be", "base"), "were": ("be", "past")}
    forms |= {"has": ("have", "third"), "does": ("do", "third"), "goes": ("go", "third"), "'s": ("be", "third")}
    return forms | {"lying": ("lie", "gerund"), "dying": ("die", "gerund"), "tying": ("tie", "gerund")}


_VERB_FORMS = _verb_forms()
_NOUN_SINGULARS = {plural: singular for singular, plural in _rows(_IRREGULAR_NOUNS)}
_COMPARISONS = {
    form: (row[0], degree)
    for row in _rows(_IRREGULAR_COMPARISON)
    for form, degree in zip(row[1:], ("comparative", "superlative"))
}
_UNCHANGING = _words(_UNCHANGING_VERBS)
_SINGULARS = _words(_SINGULAR_IN_S)
_BASES_IN_ING = _words(_BASE_VERBS_IN_ING)
_BASES_IN_ED = _words(_BASE_VERBS_IN_ED)
_NOT_COMPARED = _words(_POSITIVE_IN_ER) | _words(_POSITIVE_IN_EST)

# Form -> the forms that can replace it: "opened" is past and participle, "took" is only past.
_SUBSTITUTES = {
    "past_participle": ("past_participle",),
    "past": ("past", "past_participle"),
    "participle": ("participle", "past_participle"),
}


@cache
def inflection(word: str, part_of_speech: str) -> str:
    """Return the form of a word.

    It is base, third, gerund, past, participle or past_participle for a VERB or AUX; singular or plural for a NOUN; positive, comparative
    or superlative for an ADJ or ADV; else "".
    """
    word = word.lower()
    if part_of_speech in ("VERB", "AUX"):
        return _verb_inflection(word)
    if part_of_speech == "NOUN":
        return "plural" if word in _NOUN_SINGULARS or _is_regular_plural(word) else "singular"
    if part_of_speech in ("ADJ", "ADV"):
        if word in _COMPARISONS:
            return _COMPARISONS[word][1]
        if word in _NOT_COMPARED or len(word) < 5:
            return "positive"
        return "comparative" if word.endswith("er") else "superlative" if word.endswith("est") else "positive"
    return ""


def substitutes(form: str) -> tuple[str, ...]:
    """Return the forms that can replace a word of this form."""
    return _SUBSTITUTES.get(form, (form,))


@cache
def stems(word: str) -> frozenset[str]:
    """Return every possible base form of a word, including the word itself: `sitting` -> {sitting, sit, sitt, sitte}."""
    word = word.lower()
    found = {word}
    for table in (_VERB_FORMS, _COMPARISONS):
        if word in table:
            found.add(table[word][0])
    if word in _NOUN_SINGULARS:
        found.add(_NOUN_SINGULARS[word])
    if word in ("lay", "laid", "laying", "lays"):
        found |= {"lay", "lie"}  # Captions mix up the two verbs.
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        found.add(word[:-1])
        if word.endswith("es"):
            found.add(word[:-2])
        if word.endswith("ies"):
            found.add(word[:-3] + "y")
    for ending in ("ing", "ed", "er", "est"):
        rest = word.removesuffix(ending)
        # The rest must contain a vowel: "bring" and "red" have no ending.
        if rest == word or not any(letter in VOWELS + "y" for letter in rest) or len(rest) < 2:
            continue
        if ending in ("er", "est") and not _ends_like_adjective(rest):
            continue
        found |= {rest, rest + "e"}
        if len(rest) > 2 and rest[-1] == rest[-2] and rest[-1] not in VOWELS:
            found.add(rest[:-1])
        if rest.endswith("i"):
            found.add(rest[:-1] + "y")
    return frozenset(found)


def is_inflection_of(word: str, other: str) -> bool:
    """Return whether two words may be forms of the same lexeme (`opens`, `opened`; `woman`, `women`; a word and itself)."""
    return not stems(word).isdisjoint(stems(other))


@cache
def starts_with_vowel_sound(word: str) -> bool:
    """Return whether the article before the word is "an" rather than "a"."""
    word = word.lower()
    if word.startswith(("hour", "honest", "heir", "honor")):
        return True
    return word[:1] in VOWELS and not word.startswith(("uni", "use", "usu", "uten", "eu", "one", "once"))


def _verb_inflection(word: str) -> str:
    if word in _VERB_FORMS:
        return _VERB_FORMS[word][1]
    if word in _UNCHANGING or word in _BASES_IN_ING or word in _BASES_IN_ED:
        return "base"
    if word.endswith("ing") and len(word) > 4:
        return "gerund"
    if word.endswith("ed") and len(word) > 3:
        return "past_participle"
    if word.endswith("s") and not word.endswith(("ss", "us")) and len(word) > 2:
        return "third"
    return "base"


def _is_regular_plural(word: str) -> bool:
    return (
        word.endswith("s") and not word.endswith(("ss", "is", "us", "'s")) and word not in _SINGULARS and len(word) > 3
    )


def _ends_like_adjective(stem: str) -> bool:
    """Return whether a stem is an adjective with a comparative, to tell `bigger` and `larger` from agent nouns such as `washer`."""
    return stem + "e" in _COMPARED or stem in _COMPARED or stem[:-1] in _COMPARED or stem[:-1] + "y" in _COMPARED


_COMPARED = _words(
    """
    big bright calm clean clear close cold cool dark deep dirty dry easy fast fat few fine flat full funny great happy hard
    heavy high hot large late light long loud low messy near new nice old plain poor pretty quick quiet rich rough round
    sharp short slow small smart smooth soft strong sweet tall thick thin tight tiny warm weak wet wide wild young
    """
)
