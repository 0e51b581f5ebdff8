"""Train a part-of-speech tagger for captions from a Universal Dependencies treebank.

    python scripts/train_tagger.py --train en_ewt-ud-train.conllu --dev en_ewt-ud-dev.conllu --output tagger

Captions differ from the texts in treebanks, e.g. verbs follow bare nouns ("person opens the door"). Therefore, the training data contains
each sentence unchanged, some sentences also in lower case, and sentences with subject pronouns also with noun phrases in their place ("he
opens" -> "a person opens"). The result is a spaCy pipeline for `shine-hf negatives … --spacy-model tagger`, under the license of the treebank.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

LOWER_CASED_SHARE = 0.35
SUBJECTS = {
    "singular": ("person", "a person", "the person", "another person", "a man", "the woman", "a girl", "the boy"),
    "plural": ("people", "two people", "the men", "several people", "the kids"),
}
SINGULAR_PRONOUNS = frozenset(("he", "she", "it"))
PLURAL_PRONOUNS = frozenset(("i", "you", "we", "they"))
NOUN_PHRASE_TAGS = {"a": "DET", "the": "DET", "another": "DET", "two": "NUM", "several": "ADJ"}


@dataclass(frozen=True)
class Word:
    """One syntactic word of a treebank sentence."""

    form: str
    tag: str
    relation: str
    space_after: bool


def read_conllu(path: Path) -> Iterator[list[Word]]:
    """Yield the sentences of a CoNLL-U file. Words of a contraction ("they're") follow each other without a space.

    Raises:
        ValueError: for a line that does not have ten columns. Names the file and the line.
    """
    sentence: list[Word] = []
    contraction_end, space_after_contraction = 0, True
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip("\n")
            if not line:
                if sentence:
                    yield sentence
                sentence, contraction_end = [], 0
                continue
            if line.startswith("#"):
                continue
            columns = line.split("\t")
            if len(columns) != 10:
                raise ValueError(f"{path}, line {number}: {len(columns)} columns, but CoNLL-U has 10")
            index, space = columns[0], "SpaceAfter=No" not in columns[9]
            if "." in index:  # An empty node of the enhanced dependencies.
                continue
            if "-" in index:
                contraction_end, space_after_contraction = int(index.split("-")[1]), space
                continue
            if int(index) <= contraction_end:
                space = space_after_contraction if int(index) == contraction_end else False
            sentence.append(Word(columns[1], columns[3], columns[7], space))
    if sentence:
        yield sentence


def lower_cased(sentence: list[Word]) -> list[Word]:
    """Return the sentence in lower case, as captions are written."""
    return [Word(word.form.lower(), word.tag, word.relation, word.space_after) for word in sentence]


def as_caption(sentence: list[Word], chooser: random.Random) -> list[Word] | None:
    """Return the sentence in lower case with noun phrases for subject pronouns; None if it has no subject pronoun."""
    result, replaced = [], False
    for word in sentence:
        form = word.form.lower()
        is_subject = word.tag == "PRON" and word.relation.startswith("nsubj") and word.space_after
        if is_subject and form in SINGULAR_PRONOUNS | PLURAL_PRONOUNS:
            phrase = chooser.choice(SUBJECTS["singular" if form in SINGULAR_PRONOUNS else "plural"])
            result += [Word(part, NOUN_PHRASE_TAGS.get(part, "NOUN"), "", True) for part in phrase.split()]
            replaced = True
        else:
            result.append(Word(form, word.tag, word.relation, word.space_after))
    return result if replaced else None


def training_sentences(treebank: list[list[Word]], seed: int) -> list[list[Word]]:
    """Return the sentences of the treebank, a share of them in lower case, and their captions, shuffled."""
    chooser = random.Random(seed)
    result = list(treebank)
    for sentence in treebank:
        if chooser.random() < LOWER_CASED_SHARE:
            result.append(lower_cased(sentence))
        caption = as_caption(sentence, chooser)
        if caption:
            result.append(caption)
    chooser.shuffle(result)
    return result


def build_pipeline(width: int, depth: int, embed_size: int) -> Language:
    """Return an untrained pipeline: a small convolutional network over hashed subwords, and a tagger for UPOS only."""
    nlp = spacy.blank("en")
    embedding = {
        "@architectures": "spacy.HashEmbedCNN.v2",
        "pretrained_vectors": None,
        "width": width,
        "depth": depth,
        "embed_size": embed_size,
        "window_size": 1,
        "maxout_pieces": 3,
        "subword_features": True,
    }
    nlp.add_pipe("tok2vec", config={"model": embedding})
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": width, "upstream": "*"}
    tagger = {"@architectures": "spacy.Tagger.v2", "nO": None, "tok2vec": listener}
    nlp.add_pipe("morphologizer", config={"model": tagger})
    return nlp


def train(nlp: Language, sentences: list[list[Word]], dev: list[list[Word]], steps: int, seed: int) -> float:
    """Train in place, keep the best weights by accuracy on `dev`, and return that accuracy (0 to 1)."""
    spacy.util.fix_random_seed(seed)
    chooser = random.Random(seed)
    examples = [_example(nlp, sentence) for sentence in sentences]
    dev_examples = [_example(nlp, sentence) for sentence in dev]
    optimizer = nlp.initialize(lambda: examples)
    best, best_weights = -1.0, nlp.to_bytes()
    evaluate_every = max(1, min(400, steps // 5))
    for step in range(1, steps + 1):
        nlp.update(chooser.sample(examples, min(len(examples), 32)), sgd=optimizer, drop=0.1)
        if step % evaluate_every == 0 or step == steps:
            with nlp.use_params(optimizer.averages):
                accuracy = nlp.evaluate(dev_examples)["pos_acc"]
                if accuracy >= best:  # Among equals, prefer the latest weights, which have seen more captions.
                    best, best_weights = accuracy, nlp.to_bytes()
            print(f"step {step:,}: accuracy {100 * accuracy:.2f} % on the development set")
    nlp.from_bytes(best_weights)
    return best


def _example(nlp: Language, sentence: list[Word]) -> Example:
    words, spaces = [word.form for word in sentence], [word.space_after for word in sentence]
    reference = Doc(nlp.vocab, words=words, spaces=spaces, pos=[word.tag for word in sentence])
    return Example(Doc(nlp.vocab, words=words, spaces=spaces), reference)


def main(arguments: list[str] | None = None) -> None:
    """Train a tagger and write it to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="CoNLL-U file to train on")
    parser.add_argument("--dev", type=Path, required=True, help="CoNLL-U file for selecting the best weights")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the pipeline to")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--embed-size", type=int, default=1000)
    args = parser.parse_args(arguments)
    nlp = build_pipeline(args.width, args.depth, args.embed_size)
    sentences = training_sentences(list(read_conllu(args.train)), args.seed)
    accuracy = train(nlp, sentences, list(read_conllu(args.dev)), args.steps, args.seed)
    nlp.meta |= {"name": "caption_pos", "description": f"UPOS tagger for captions, trained on {args.train.name}"}
    nlp.meta["performance"] = {"pos_acc": accuracy}
    nlp.to_disk(args.output)
    print(f"{args.output}: accuracy {100 * accuracy:.2f} % on {args.dev.name}")


if __name__ == "__main__":
    main()
