"""The inputs that the actions share, and their options: rows, tagger, masking and checks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

    from ...negatives.contact import TestContact
    from ...negatives.language.masking import MaskedQuery, MaskingOptions
    from ...negatives.language.tagging import Tagger
    from ...negatives.language.vocabulary import Vocabulary
    from ...negatives.validation import Validator


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare the options for the rows and the tagger."""
    parser.add_argument("--dataset", required=True, help="charades_cg, activitynet_cg, or a .jsonl or .parquet file")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the original annotation files")
    parser.add_argument(
        "--split",
        default="train",
        help="train, test_trivial, novel_composition or novel_word of a known dataset (default: %(default)s)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N rows")
    parser.add_argument(
        "--vocabulary-from", metavar="FILE", help="training queries for a --dataset FILE (default: the file itself)"
    )
    parser.add_argument(
        "--spacy-model", metavar="NAME|DIR", help="a spaCy pipeline (default: the tagger in this package)"
    )


def add_negatives(parser: argparse.ArgumentParser) -> None:
    """Declare the option for existing negatives."""
    parser.add_argument(
        "--negatives",
        metavar="SOURCE|FILE",
        help="gpt-3.5-turbo (the authors' file in --data-dir) or a file written by `generate` (default: the columns of --dataset FILE)",
    )


def add_masking(parser: argparse.ArgumentParser) -> None:
    """Declare the options for masking."""
    parser.add_argument(
        "--ratios",
        help="share of the maskable words that each level masks, e.g. 0.25,0.5,0.75 (the default; 0.1,0.3,0.5 for activitynet_cg), or "
        "by number of maskable words: 6:0.25,0.5,0.75;0.1,0.3,0.5",
    )
    parser.add_argument("--parts-of-speech", help="which words may be masked (default: VERB,NOUN,ADJ,ADP,ADV)")
    parser.add_argument(
        "--rule",
        choices=("released", "paper"),
        default="released",
        help="the rule of the authors' published masks, or only the paper's order of parts of speech (default: %(default)s)",
    )


def add_checks(parser: argparse.ArgumentParser) -> None:
    """Declare the options for validation."""
    parser.add_argument("--checks", help="comma-separated names of the checks to run (default: all)")
    parser.add_argument(
        "--avoid-test-words",
        action="store_true",
        help="treat contact with the test splits (their novel words and complete queries) as a failed check",
    )


def add_output(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Declare `--output`."""
    parser.add_argument(
        "--output", type=Path, required=required, metavar="FILE", help="file to write, .parquet or .jsonl"
    )


class Data:
    """The rows to process (`rows`, from `split`), the training queries (`training`), and the `test_splits` if known.

    Args:
        args: The options of [`add_data`].
        negatives: A source of negatives, or a file.

    Raises:
        ValueError: for options that contradict each other.
        FileNotFoundError: for a missing file.
    """

    def __init__(self, args: argparse.Namespace, negatives: str | None = None) -> None:
        from ...data.annotations import merge_negatives, read_original
        from ...data.datasets import DATASETS

        if args.limit is not None and args.limit < 1:
            raise ValueError(f"--limit must be at least 1; got {args.limit}")
        if args.dataset in DATASETS:
            if args.data_dir is None:
                raise ValueError(f"--dataset {args.dataset} needs --data-dir, the folder with its annotation files")
            splits = read_original(args.dataset, args.data_dir, negatives or "none")
            if args.split not in splits:
                raise ValueError(f"no split {args.split!r}; the splits are {', '.join(splits)}")
            self.split, self.training = splits[args.split], splits["train"]
            self.test_splits = {name: split for name, split in splits.items() if name != "train"}
        else:
            self.split = _read_file(args.dataset)
            if negatives:
                self.split = merge_negatives({"": self.split}, Path(negatives))[""]
            self.training = _read_file(args.vocabulary_from) if args.vocabulary_from else self.split
            self.test_splits = {}
        self.rows = self.split.select(range(min(args.limit, len(self.split)))) if args.limit else self.split

    def require_negatives(self) -> Data:
        """Check that the rows have negatives, and return this object.

        Raises:
            ValueError: if they have none.
        """
        if not any(self.rows["negative_queries"]):
            raise ValueError(
                "these rows have no negatives: pass --negatives gpt-3.5-turbo or a file written by `generate`"
            )
        return self

    def contacts(self) -> dict[str, TestContact]:
        """Return the queries and novel words of each test split."""
        from ...negatives.contact import TestContact

        return {
            name: TestContact(split["query"][:], sorted(_novel_words(split)) if name == "novel_word" else ())
            for name, split in self.test_splits.items()
        }

    def contact_report(self) -> str:
        """Describe the contact of the negatives with the test splits; empty if these are unknown."""
        from ...negatives.statistics import test_contact_report

        negatives = [negative for texts in self.rows["negative_queries"] for negative in texts if negative]
        contacts = self.contacts()
        return f"\n{test_contact_report(negatives, self.training['query'][:], contacts)}" if contacts else ""


def read_tagger(args: argparse.Namespace) -> Tagger:
    """Return the tagger that the options name."""
    from ...negatives.language.tagging import Tagger

    return Tagger(args.spacy_model)


def read_masking(args: argparse.Namespace) -> MaskingOptions:
    """Return the masking options, by default those of the paper for the dataset."""
    from ...negatives.language.masking import PARTS_OF_SPEECH, RATIOS, RATIOS_OF_DATASET, MaskingOptions, parse_ratios

    ratios, by_length = parse_ratios(args.ratios) if args.ratios else (RATIOS_OF_DATASET.get(args.dataset, RATIOS), ())
    parts = tuple(args.parts_of_speech.upper().split(",")) if args.parts_of_speech else PARTS_OF_SPEECH
    return MaskingOptions(ratios, parts, args.rule, by_length)


def read_checks(args: argparse.Namespace) -> Sequence[str]:
    """Return the names of the checks to run."""
    from ...negatives.validation import CHECKS

    return tuple(name.strip() for name in args.checks.split(",")) if args.checks else CHECKS


def prepare(
    args: argparse.Namespace, data: Data, tagger: Tagger, masking: MaskingOptions | None = None
) -> tuple[list[MaskedQuery], Vocabulary, Validator]:
    """Return the tagged training queries, their vocabulary, and the validator.

    Raises:
        ValueError: for `--avoid-test-words` without test splits, or an unknown check.
    """
    from ...negatives.contact import PositiveQueries, TestContact
    from ...negatives.language.masking import mask_query
    from ...negatives.language.vocabulary import Vocabulary
    from ...negatives.validation import Validator

    contact = None
    if args.avoid_test_words:
        if not data.test_splits:
            raise ValueError("--avoid-test-words needs a dataset with test splits: charades_cg or activitynet_cg")
        contacts = data.contacts().values()
        contact = TestContact(
            [query for each in contacts for query in each.queries],
            [word for each in contacts for word in each.novel_words],
        )
    training = [mask_query(query, masking) for query in tagger.tag(data.training["query"])]
    vocabulary = Vocabulary(training, avoid=contact.novel_words if contact else ())
    positives = PositiveQueries(data.split)
    validator = Validator(
        read_checks(args), vocabulary=vocabulary, tagger=tagger, positives=positives, test_contact=contact
    )
    return training, vocabulary, validator


def _novel_words(split: Dataset) -> set[str]:
    return {word for words in split["composition_words"] for group in words for word in group}


def _read_file(path: str) -> Dataset:
    from ...data.annotations import read_annotations
    from ...data.datasets import DATASETS

    if not Path(path).is_file():
        raise FileNotFoundError(f"no dataset {path!r}: pass {', '.join(DATASETS)} or an annotation file")
    return read_annotations(path)
