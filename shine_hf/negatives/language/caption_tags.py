"""Correct a tagger's parts of speech for the masking rule.

The released masks of SHINE treat particles as prepositions and put the grammatical subject last. Taggers are not trained on captions
and have no parser.
"""

from __future__ import annotations

from collections.abc import Sequence

ACTOR = "person"  # The word for everyone in Charades; an ordinary noun in other corpora.
PARTICLES = frozenset(["down", "up", "out", "off", "on", "away", "around", "through", "by"])
PREPOSITIONS_BEFORE_GERUND = frozenset(
    ["by", "from", "after", "before", "with", "for", "of", "at", "without", "about"]
)
ADVERBS_BEFORE_PREPOSITION = frozenset(["back", "over", "in"])
NEVER_MASKED = frozenset(["when", "where", "how", "why", "than"])
SUBJECT_PRONOUNS = frozenset(
    ["i", "you", "he", "she", "it", "we", "they", "someone", "somebody", "everyone", "who", "that", "which"]
)
NOUNS_IN_ING = frozenset(
    [
        "anything",
        "beginning",
        "building",
        "ceiling",
        "clothing",
        "drawing",
        "ending",
        "evening",
        "everything",
        "king",
        "morning",
        "nothing",
        "painting",
        "railing",
        "ring",
        "something",
        "string",
        "thing",
        "wing",
    ]
)
AUXILIARIES_IN_S = frozenset(["is", "was", "does", "has", "gets", "'s"])


def caption_tags(words: Sequence[str], tags: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of speech that masking uses, for `words` in lower case and `tags` in UPOS. X is never masked."""
    result = []
    for position, (word, tag) in enumerate(zip(words, tags)):
        next_tag = tags[position + 1] if position + 1 < len(tags) else ""
        before_gerund = position + 1 < len(words) and words[position + 1].endswith("ing")
        if not word.strip() or word in NEVER_MASKED:
            tag = "X"
        elif _is_misread_verb(position, words, tags):
            tag = "VERB"
        elif tag == "PROPN":
            tag = "NOUN"
        elif tag == "SCONJ" and before_gerund and word in PREPOSITIONS_BEFORE_GERUND:
            tag = "ADP"
        elif (
            (tag in ("ADP", "ADV") and next_tag == "ADP" and word in ADVERBS_BEFORE_PREPOSITION)
            or (tag == "ADP" and word == "back")
            or (tag == "SCONJ" and word == "in")
        ):
            tag = "ADV"
        elif tag in ("ADV", "SCONJ", "PART") and word in PARTICLES:
            tag = "ADP"
        result.append(tag)
    return tuple(result)


def subject_positions(words: Sequence[str], tags: Sequence[str]) -> frozenset[int]:
    """Return the positions of grammatical subjects, found without a parser: pronouns before a verb, and the head of the first noun phrase.

    A noun phrase after "person" is not the subject ("person the door opens"), nor is one after a preposition.
    """
    subjects = set()
    for position, (word, tag) in enumerate(zip(words, tags)):
        if tag == "PRON" and word in SUBJECT_PRONOUNS:
            following = next((t for t in tags[position + 1 :] if t not in ("ADV", "PART")), "")
            if following in ("VERB", "AUX"):
                subjects.add(position)
    for position, (word, tag) in enumerate(zip(words, tags)):
        if tag in ("VERB", "AUX", "ADP") or word == ACTOR:
            break
        if tag == "NOUN" and tags[position + 1 : position + 2] != ("NOUN",):
            subjects.add(position)
            break
    return frozenset(subjects)


def _is_misread_verb(position: int, words: Sequence[str], tags: Sequence[str]) -> bool:
    """Return whether a word is a verb that taggers misread in captions.

    Examples are "a person enters", "person watches holding", "sits in a chair eating", and "a smiling person".
    """
    word, tag = words[position], tags[position]
    if tag == "AUX":
        return word.endswith("s") and word not in AUXILIARIES_IN_S
    if tag not in ("NOUN", "ADJ", "PROPN"):
        return False
    before, tag_before = (words[position - 1], tags[position - 1]) if position else ("", "")
    after, tag_after = (words[position + 1], tags[position + 1]) if position + 1 < len(words) else ("", "")
    if word.endswith("ing") and len(word) > 4 and word not in NOUNS_IN_ING:
        return after == ACTOR or (tag_before in ("VERB", "AUX", "NOUN") and tag_after != "NOUN")
    return before == ACTOR and word.endswith("s") and (tag_after not in ("VERB", "AUX") or after.endswith("ing"))
