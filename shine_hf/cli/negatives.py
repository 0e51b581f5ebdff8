"""`shine-hf negatives`: tag, mask, generate, validate, export and describe hard negatives."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from shine_hf.negatives.generators.base import Generator
    from shine_hf.negatives.language.masking import MaskedQuery, MaskingOptions
    from shine_hf.negatives.language.tagging import Tagger
    from shine_hf.negatives.language.vocabulary import Vocabulary
    from shine_hf.negatives.validation import TestContact, Validator

EXAMPLES = (
    "shine-hf negatives generate --dataset charades_cg --data-dir DATA --split train --generator lexical --output lexical.parquet",
)
SUMMARIES = {
    "tag": "write the tokens and parts of speech of the queries",
    "mask": "write the masked queries of each level",
    "generate": "write hard negatives, checked, with any generator; or repair some",
    "validate": "check negatives rule by rule and write their flags",
    "export": "write whole rows with negatives and provenance columns",
    "stats": "count and sample negatives",
}
GENERATORS = ("openai_chat", "openai_batch", "fill_mask", "lexical", "random_words")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in SUMMARIES.items():
        action = actions.add_parser(name, help=summary, description=summary)
        _add_data_arguments(action)
        if name in ("mask", "generate"):
            _add_masking_arguments(action)
        if name == "generate":
            _add_generator_arguments(action)
        if name in ("validate", "export", "stats"):
            action.add_argument(
                "--negatives",
                metavar="SOURCE|FILE",
                help="gpt-3.5-turbo (the authors' file under --data-dir) or a file of `generate`; "
                "default: the columns of --dataset FILE",
            )
        if name in ("generate", "validate"):
            action.add_argument("--checks", help="comma-separated names of the checks to run; default: all")
            action.add_argument(
                "--avoid-test-words",
                action="store_true",
                help="treat contact with the test splits (their novel words and whole queries) as a failed check",
            )
        if name == "stats":
            action.add_argument("--sample", type=int, default=0, metavar="N", help="print N rows for reading")
            action.add_argument(
                "--beside", metavar="SOURCE|FILE", help="print another set's negatives beside the sample"
            )
            action.add_argument("--figure", type=Path, metavar="FILE", help="draw how much each level changes")
            action.add_argument("--seed", type=int, default=0, help="which rows the sample holds")
        if name == "export":
            action.add_argument("--cache", type=Path, help="the cache of the language model, for versions and times")
        required = name in ("tag", "mask", "generate", "export")
        if name != "stats":
            action.add_argument("--output", type=Path, required=required, metavar="FILE", help=".parquet or .jsonl")


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="charades_cg, activitynet_cg, or a .jsonl or .parquet file")
    parser.add_argument("--data-dir", type=Path, help="folder of the original annotation files")
    parser.add_argument("--split", default="train", help="train, test_trivial, novel_composition or novel_word")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument(
        "--vocabulary-from", metavar="FILE", help="training queries of a --dataset FILE; default: itself"
    )
    parser.add_argument("--spacy-model", help="a spaCy pipeline, name or folder; default: the packaged tagger")


def _add_masking_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ratios",
        help="masked share of the maskable words at each level, such as 0.25,0.5,0.75 (default; 0.1,0.3,0.5 for "
        "activitynet_cg), or by number of maskable words: 6:0.25,0.5,0.75;0.1,0.3,0.5",
    )
    parser.add_argument("--parts-of-speech", help="which words may be masked; default: VERB,NOUN,ADJ,ADP,ADV")
    parser.add_argument("--rule", choices=("released", "paper"), default="released", help="see the documentation")


def _add_generator_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--generator", choices=GENERATORS, required=True, help="what writes the negatives")
    parser.add_argument("--seed", type=int, default=0, help="seed of masks and random choices")
    parser.add_argument(
        "--max-attempts", type=int, default=4, help="how often a level that fails a check is asked for"
    )
    parser.add_argument("--repair", metavar="SOURCE|FILE", help="keep these negatives but for the levels that fail")
    parser.add_argument("--dry-run", action="store_true", help="print what a run would take, send nothing")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    models = parser.add_argument_group("language models (the key comes from OPENAI_API_KEY)")
    models.add_argument("--model", help="name of the model")
    models.add_argument("--base-url", help="an OpenAI-compatible endpoint, up to /v1")
    models.add_argument("--cache", type=Path, metavar="FILE.sqlite", help="where answers are kept")
    models.add_argument("--concurrency", type=int, default=64, help="requests at the same time")
    models.add_argument("--temperature", type=float, default=0.7, help="of the sampling")
    models.add_argument("--timeout-seconds", type=float, help="of one request")
    models.add_argument("--poll-seconds", type=float, default=20.0, help="openai_batch: pause between looks")
    models.add_argument("--max-requests", type=int, help="stop after so many requests")
    models.add_argument("--max-cost", type=float, metavar="USD", help="stop before this is spent")
    models.add_argument(
        "--prices", type=Path, metavar="FILE", help='JSON: {"model": [input, output]}, USD per 1e6 tokens'
    )
    models.add_argument("--batch-size", type=int, default=32, help="fill_mask: queries per forward pass")


def main(args: argparse.Namespace) -> int:
    """Run one sub-command."""
    if getattr(args, "output", None):
        from shine_hf.negatives.files import check_output

        check_output(args.output)
    return {
        "tag": _tag,
        "mask": _mask,
        "generate": _generate,
        "validate": _validate,
        "export": _export,
        "stats": _stats,
    }[args.action](args)


class _Data:
    """The rows to work on, the training queries, and the test splits as far as they are known."""

    def __init__(self, args: argparse.Namespace, negatives: str | None = None) -> None:
        from shine_hf.data.annotations import read_original
        from shine_hf.data.datasets import DATASETS

        if args.limit is not None and args.limit < 1:
            raise ValueError(f"--limit must be at least 1; got {args.limit}")
        if args.dataset in DATASETS:
            if args.data_dir is None:
                raise ValueError(f"--dataset {args.dataset} needs --data-dir, the folder of its annotation files")
            splits = read_original(args.dataset, args.data_dir, negatives or "none")
            if args.split not in splits:
                raise ValueError(f"no split {args.split!r}; there are {', '.join(splits)}")
            self.split, self.training = splits[args.split], splits["train"]
            self.test_splits = {name: split for name, split in splits.items() if name != "train"}
        else:
            self.split = _read_file(args.dataset)
            if negatives:
                self.split = _with_negatives_of(self.split, negatives)
            self.training = _read_file(args.vocabulary_from) if args.vocabulary_from else self.split
            self.test_splits = {}
        self.rows = self.split.select(range(min(args.limit, len(self.split)))) if args.limit else self.split

    def contacts(self) -> dict[str, TestContact]:
        """What each test split holds that training should not meet."""
        from shine_hf.negatives.validation import TestContact

        return {
            name: TestContact(split["query"][:], sorted(_novel_words(split)) if name == "novel_word" else ())
            for name, split in self.test_splits.items()
        }


def _novel_words(split: Dataset) -> set[str]:
    return {word for words in split["composition_words"] for group in words for word in group}


def _read_file(path: str) -> Dataset:
    from shine_hf.data.annotations import read_annotations
    from shine_hf.data.datasets import DATASETS

    if not Path(path).is_file():
        raise FileNotFoundError(f"no dataset {path!r}: give {', '.join(DATASETS)} or a file of annotations")
    return read_annotations(path)


def _with_negatives_of(dataset: Dataset, path: str) -> Dataset:
    from datasets import Dataset

    from shine_hf.data.annotations import add_negatives, read_negatives

    rows = dataset.to_list()
    add_negatives({"": rows}, read_negatives(Path(path)), source=path)
    return Dataset.from_list(rows)


def _tagger(args: argparse.Namespace) -> Tagger:
    from shine_hf.negatives.language.tagging import Tagger

    return Tagger(args.spacy_model)


def _masking_options(args: argparse.Namespace) -> MaskingOptions:
    from shine_hf.negatives.language.masking import (
        PARTS_OF_SPEECH,
        RATIOS,
        RATIOS_OF_DATASET,
        MaskingOptions,
        parse_ratios,
    )

    ratios, by_length = RATIOS_OF_DATASET.get(args.dataset, RATIOS), ()
    if args.ratios:
        ratios, by_length = parse_ratios(args.ratios)
    parts = tuple(args.parts_of_speech.upper().split(",")) if args.parts_of_speech else PARTS_OF_SPEECH
    return MaskingOptions(ratios, parts, args.rule, by_length)


def _checks(args: argparse.Namespace) -> tuple[str, ...]:
    from shine_hf.negatives.validation import CHECKS

    return tuple(name.strip() for name in args.checks.split(",")) if args.checks else CHECKS


def _prepare(
    args: argparse.Namespace, data: _Data, tagger: Tagger, masking: MaskingOptions | None = None
) -> tuple[list[MaskedQuery], Vocabulary, Validator]:
    """The tagged training queries, their vocabulary, and the checks."""
    from shine_hf.negatives.language.masking import mask_query
    from shine_hf.negatives.language.vocabulary import Vocabulary
    from shine_hf.negatives.validation import PositiveQueries, TestContact, Validator

    training = [mask_query(query, masking) for query in tagger.tag(data.training["query"])]
    contact = None
    if args.avoid_test_words:
        if not data.test_splits:
            raise ValueError("--avoid-test-words needs a dataset with test splits: charades_cg or activitynet_cg")
        found = data.contacts().values()
        contact = TestContact(
            [query for each in found for query in each.queries], [word for each in found for word in each.novel_words]
        )
    vocabulary = Vocabulary(training, avoid=contact.novel_words if contact else ())
    validator = Validator(
        _checks(args),
        vocabulary=vocabulary,
        tagger=tagger,
        positives=PositiveQueries(data.split),
        test_contact=contact,
    )
    return training, vocabulary, validator


def _tag(args: argparse.Namespace) -> int:
    from datasets import Dataset

    from shine_hf.negatives.files import write_rows

    data, tagger = _Data(args), _tagger(args)
    tagged = tagger.tag(data.rows["query"])
    columns = {
        "qid": data.rows["qid"][:],
        "query": data.rows["query"][:],
        "tokens": [list(query.tokens) for query in tagged],
        "parts_of_speech": [list(query.parts_of_speech) for query in tagged],
    }
    write_rows(Dataset.from_dict(columns), args.output)
    print(f"{len(tagged):,} queries tagged by {tagger.provenance}: {args.output}")
    return 0


def _mask(args: argparse.Namespace) -> int:
    from shine_hf.negatives.files import write_rows
    from shine_hf.negatives.language.masking import mask_dataset

    data, tagger = _Data(args), _tagger(args)
    masked = mask_dataset(data.rows, tagger, _masking_options(args))
    write_rows(masked.select_columns(["qid", "query", "masked_queries"]), args.output)
    print(f"{len(masked):,} queries masked, tagged by {tagger.provenance}: {args.output}")
    return 0


def _generate(args: argparse.Namespace) -> int:
    from shine_hf.negatives.files import write_provenance, write_rows
    from shine_hf.negatives.generate import build_request, generate_negatives, repair_negatives
    from shine_hf.negatives.language.masking import mask_query

    data, tagger, masking = _Data(args, args.repair), _tagger(args), _masking_options(args)
    training, vocabulary, validator = _prepare(args, data, tagger, masking)
    generator = _make_generator(args, training, vocabulary)
    if args.dry_run:
        if not hasattr(generator, "estimate"):
            raise ValueError(f"--dry-run is for language models; {args.generator} costs nothing")
        masked = [mask_query(query, masking) for query in tagger.tag(data.rows["query"])]
        print(
            generator.estimate(
                [
                    build_request(row, query, level, vocabulary)
                    for row, query in zip(data.rows, masked)
                    for level in range(1, len(query.levels) + 1)
                    if query.levels[level - 1]
                ]
            )
        )
        return 0
    common = {
        "vocabulary": vocabulary,
        "tagger": tagger,
        "validator": validator,
        "max_attempts": args.max_attempts,
        "progress": not args.no_progress,
    }
    if args.repair:
        source = Path(args.repair).stem if Path(args.repair).is_file() else args.repair
        negatives, summary = repair_negatives(data.rows, generator, source=source, **common)
    else:
        negatives, summary = generate_negatives(data.rows, generator, masking=masking, **common)
    columns = ["qid", "query", "masked_queries", "negative_queries", "negative_flags", "source"]
    write_rows(negatives.select_columns(columns), args.output)
    write_provenance(args.output, _provenance(args, tagger, masking, generator))
    print(summary)
    if hasattr(generator, "cost_so_far"):
        print(generator.cost_so_far())
    print(f"{len(negatives):,} rows: {args.output}")
    missing = sum(counter["missing"] for counter in summary.flags)
    if missing:
        print(
            f"{missing:,} levels have no answer: the same command asks again for those that got none, --repair or another --seed for those refused"
        )
    return 1 if missing else 0


def _provenance(
    args: argparse.Namespace, tagger: Tagger, masking: MaskingOptions, generator: Generator
) -> Mapping[str, Any]:
    import shine_hf

    return {
        "source": generator.source,
        "generator": args.generator,
        "model": args.model,
        "seed": args.seed,
        "temperature": args.temperature if args.generator.startswith("openai") else None,
        "repaired": args.repair,
        "tagger": tagger.provenance,
        "masking_rule": masking.rule,
        "mask_ratios": [list(masking.ratios), *([length, list(r)] for length, r in masking.ratios_by_length)],
        "masked_parts_of_speech": list(masking.parts_of_speech),
        "checks": sorted(_checks(args)),
        "max_attempts": args.max_attempts,
        "avoid_test_words": args.avoid_test_words,
        "dataset": Path(args.dataset).name,
        "split": args.split,
        "limit": args.limit,
        "shine_hf_version": shine_hf.__version__,
    }


def _make_generator(args: argparse.Namespace, training: list[MaskedQuery], vocabulary: Vocabulary) -> Generator:
    if args.generator == "lexical":
        from shine_hf.negatives.generators.lexical import LexicalGenerator

        return LexicalGenerator(training, seed=args.seed)
    if args.generator == "random_words":
        from shine_hf.negatives.generators.random_words import RandomWordsGenerator

        return RandomWordsGenerator(vocabulary, seed=args.seed)
    if not args.model:
        raise ValueError(f"--generator {args.generator} needs --model")
    if args.generator == "fill_mask":
        from shine_hf.negatives.generators.fill_mask import FillMaskGenerator

        return FillMaskGenerator(args.model, seed=args.seed, batch_size=args.batch_size)
    if not args.cache:
        raise ValueError(
            f"--generator {args.generator} needs --cache FILE.sqlite, so that no answer is paid for twice"
        )
    from shine_hf.negatives.llm.pricing import load_prices

    common = {
        "cache": args.cache,
        "base_url": args.base_url,
        "temperature": args.temperature,
        "seed": args.seed,
        "max_requests": args.max_requests,
        "max_cost_usd": args.max_cost,
        "prices": load_prices(args.prices) if args.prices else None,
    }
    if args.timeout_seconds is not None:
        common["timeout_seconds"] = args.timeout_seconds
    if args.generator == "openai_batch":
        from shine_hf.negatives.llm.openai_batch import OpenAIBatchGenerator

        return OpenAIBatchGenerator(args.model, poll_seconds=args.poll_seconds, **common)
    from shine_hf.negatives.llm.openai_chat import OpenAIChatGenerator

    return OpenAIChatGenerator(args.model, concurrency=args.concurrency, **common)


def _validate(args: argparse.Namespace) -> int:
    from shine_hf.negatives.files import write_rows
    from shine_hf.negatives.validation import validate_dataset

    data, tagger = _Data(args, args.negatives), _tagger(args)
    _require_negatives(data)
    _, _, validator = _prepare(args, data, tagger)
    checked, summary = validate_dataset(data.rows, validator, tagger)
    print(summary)
    _print_contact(data)
    if args.output:
        write_rows(
            checked.select_columns(["qid", "query", "masked_queries", "negative_queries", "negative_flags"]),
            args.output,
        )
        print(f"{len(checked):,} rows: {args.output}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from shine_hf.negatives.columns import with_column
    from shine_hf.negatives.files import read_provenance, write_rows

    data = _Data(args, args.negatives)
    _require_negatives(data)
    dataset = data.rows
    provenance = read_provenance(args.negatives or args.dataset)
    for name in ("source", "model", "seed", "tagger", "masking_rule", "repaired", "shine_hf_version"):
        value = provenance.get(name, args.negatives if name == "source" and not provenance else None)
        dataset = with_column(dataset, name, [None if value is None else str(value)] * len(dataset))
    if args.cache:
        from shine_hf.negatives.llm.cache import AnswerCache

        if not args.cache.is_file():
            raise FileNotFoundError(f"no cache at {args.cache}")
        with AnswerCache(args.cache) as cache:
            # The last answer to each question is the one that was kept, or none was good.
            answers = {
                (answer.qid, answer.masked_query): answer
                for answer in sorted(cache, key=lambda answer: (answer.attempt, answer.received_at))
            }
        for name in ("model_version", "prompt_version", "received_at", "prompt_tokens", "completion_tokens"):
            values = [
                [getattr(answers.get((row["qid"], template)), name, None) for template in row["masked_queries"]]
                for row in dataset
            ]
            dataset = with_column(dataset, f"{name}s" if not name.endswith("s") else name, values)
    write_rows(dataset, args.output)
    print(f"{len(dataset):,} rows with {', '.join(dataset.column_names)}: {args.output}")
    return 0


def _stats(args: argparse.Namespace) -> int:
    import random

    from shine_hf.negatives.statistics import describe_negatives, plot_changes

    data, tagger = _Data(args, args.negatives), _tagger(args)
    _require_negatives(data)
    rows = data.rows.to_list()
    statistics = describe_negatives(rows, tagger.tag(row["query"] for row in rows))
    print(statistics)
    _print_contact(data)
    if args.figure:
        plot_changes(statistics, args.figure)
        print(f"figure: {args.figure}")
    if args.sample:
        others = {row["qid"]: row for row in _Data(args, args.beside).rows} if args.beside else {}
        filled = [row for row in rows if row["negative_queries"]]
        for row in random.Random(args.seed).sample(filled, min(args.sample, len(filled))):
            print(f"\n{row['qid']}: {row['query']}")
            for level, (negative, flags) in enumerate(zip(row["negative_queries"], row["negative_flags"]), start=1):
                print(f"  {level}  {negative}{'  [' + ', '.join(flags) + ']' if flags else ''}")
                for other in others.get(row["qid"], {}).get("negative_queries", [])[level - 1 : level]:
                    print(f"     {args.beside}: {other}")
    return 0


def _require_negatives(data: _Data) -> None:
    if not any(data.rows["negative_queries"]):
        raise ValueError("these rows have no negatives: give --negatives gpt-3.5-turbo or a file of `generate`")


def _print_contact(data: _Data) -> None:
    from shine_hf.negatives.statistics import test_contact_report

    if data.test_splits:
        negatives = [negative for texts in data.rows["negative_queries"] for negative in texts if negative]
        print(f"\n{test_contact_report(negatives, data.training['query'][:], data.contacts())}")
