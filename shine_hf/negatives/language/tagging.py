"""Tag queries with universal parts of speech, with any spaCy pipeline or the small tagger in this package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm.auto import tqdm

PACKAGED_TAGGER = Path(__file__).resolve().parent / "tagger"
BATCH_SIZE = 512
BAR_AFTER_SECONDS = 3.0  # Delay before a progress bar appears, on a terminal only.


@dataclass(frozen=True)
class TaggedQuery:
    """The tokens of a query and their universal parts of speech (UPOS), in parallel.

    As in spaCy, extra spaces inside a query are a separate token (`SPACE`).

    Raises:
        ValueError: if the numbers of tokens and parts of speech differ.
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
    """A part-of-speech tagger: a spaCy pipeline.

    Args:
        model: A folder or an installed package, e.g. `"en_core_web_sm"`; by default the tagger in this package.

    Raises:
        ImportError: if spaCy is not installed.
        OSError: if the pipeline does not exist.
        ValueError: if the pipeline does not set parts of speech.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        try:
            import spacy
        except ImportError as error:
            raise ImportError('tagging needs spaCy: pip install "shine-hf[negatives]"') from error
        self.is_packaged = model is None
        self.nlp = spacy.load(PACKAGED_TAGGER if model is None else model)
        # Only `token.pos_` is needed: a parser or an entity recognizer would double the time.
        for name in ("parser", "ner", "lemmatizer", "senter"):
            if name in self.nlp.pipe_names:
                self.nlp.disable_pipe(name)
        if not any(token.pos_ for token in self.nlp("a person opens the door .")):
            raise ValueError(
                f"the spaCy pipeline {model} sets no universal parts of speech: "
                "it needs a morphologizer, or a tagger with an attribute_ruler"
            )

    def tag(self, queries: Iterable[str], processes: int = 1) -> list[TaggedQuery]:
        """Tag queries in order. More processes only help with slow pipelines (the packaged one tags 36,724 queries in 6 s)."""
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

        The fingerprint covers the weights, to distinguish two trained pipelines with the same name.
        """
        meta = self.nlp.meta
        fingerprint = hashlib.sha256(self.nlp.to_bytes(exclude=["meta", "vocab", "tokenizer"])).hexdigest()[:16]
        return f"{meta['lang']}_{meta['name']} {meta['version']} sha256:{fingerprint}"
