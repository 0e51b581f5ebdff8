"""`shine-hf negatives tag`: write the tokens and parts of speech of queries."""

from __future__ import annotations

import argparse

from .inputs import Data, add_data, add_output, read_tagger

EXAMPLES = ("shine-hf negatives tag --dataset mine.jsonl --limit 100 --output tags.jsonl",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data(parser)
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    """Tag the queries."""
    from datasets import Dataset

    from ...io import write_rows

    rows, tagger = Data(args).rows, read_tagger(args)
    tagged = tagger.tag(rows["query"])
    columns = {
        "qid": rows["qid"][:],
        "query": rows["query"][:],
        "tokens": [list(query.tokens) for query in tagged],
        "parts_of_speech": [list(query.parts_of_speech) for query in tagged],
    }
    write_rows(Dataset.from_dict(columns), args.output)
    print(f"{len(tagged):,} queries tagged by {tagger.provenance}: {args.output}")
    return 0
