"""Universal parts of speech for queries, with any spaCy pipeline or with the small tagger that is packaged here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm.auto import tqdm

PACKAGED_TAGGER = Path(__file__).resolve().parent / "tagger"
BATCH_SIZE = 512
BAR_AFTER_SECONDS = 3.0  # a progress bar for what takes longer, on a terminal


@dataclass(frozen=True)
class TaggedQuery:
    """The tokens of one query and their universal parts of speech (UPOS), in parallel.

    A run of spaces inside a query is a token of its own (`SPACE`), as in spaCy.
    """

    tokens: tuple[str, ...]
    parts_of_speech: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parts_of_speech):
            raise ValueError(
                f"{len(self.tokens)} tokens but {len(self.parts_of_speech)} parts of speech: {self.tokens}"
            )

    def __str__(self) -> str:
        return " ".join(f"{token}/{tag}" for token, tag in zip(self.tokens, self.parts_of_speech))


class Tagger:
    """A spaCy pipeline that gives every word of a query its part of speech.

    Args:
        model: a folder or an installed package name (`"en_core_web_sm"`); None for the packaged caption tagger.

    Raises:
        ImportError: spaCy is not installed.
        OSError: there is no such pipeline.
        ValueError: the pipeline does not set parts of speech.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        try:
            import spacy
        except ImportError as error:
            raise ImportError('tagging needs spaCy: pip install "shine-hf[negatives]"') from error
        self.is_packaged = model is None
        self.nlp = spacy.load(PACKAGED_TAGGER if model is None else model)
        # Only what `token.pos_` needs is run: a parser or an entity recognizer would double the time for nothing.
        for name in ("parser", "ner", "lemmatizer", "senter"):
            if name in self.nlp.pipe_names:
                self.nlp.disable_pipe(name)
        if not any(token.pos_ for token in self.nlp("a person opens the door .")):
            raise ValueError(
                f"the spaCy pipeline {model} sets no universal parts of speech: "
                "it needs a morphologizer, or a tagger with an attribute_ruler"
            )

    def tag(self, queries: Iterable[str], processes: int = 1) -> list[TaggedQuery]:
        """Tag queries, in order. `processes` > 1 pays for pipelines that are slower than the packaged one (36,724 queries in 6 s)."""
        texts = [query.strip() for query in queries]
        unique = list(dict.fromkeys(texts))
        docs = self.nlp.pipe(unique, batch_size=BATCH_SIZE, n_process=processes)
        docs = tqdm(docs, total=len(unique), desc="tagging", unit=" queries", delay=BAR_AFTER_SECONDS, disable=None)
        tagged = {
            text: TaggedQuery(tuple(token.text for token in doc), tuple(token.pos_ for token in doc))
            for text, doc in zip(unique, docs)
        }
        return [tagged[text] for text in texts]

    @cached_property
    def provenance(self) -> str:
        """Name, version and fingerprint of the pipeline, e.g. `en_ud_ewt_pos_small 1.0.0 sha256:1a2b…`.

        The fingerprint covers the weights, so that two trainings under one name differ.
        """
        meta = self.nlp.meta
        fingerprint = hashlib.sha256(self.nlp.to_bytes(exclude=["meta", "vocab", "tokenizer"])).hexdigest()[:16]
        return f"{meta['lang']}_{meta['name']} {meta['version']} sha256:{fingerprint}"
