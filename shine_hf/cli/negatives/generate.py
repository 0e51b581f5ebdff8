"""`shine-hf negatives generate`: generate hard negatives with any generator, or repair existing ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...negatives.splits import GENERATED_SOURCES
from .inputs import (
    Data,
    add_checks,
    add_data,
    add_masking,
    add_output,
    prepare,
    read_checks,
    read_masking,
    read_tagger,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from ...negatives.generate import GenerationSummary
    from ...negatives.generators.base import Fill, FillRequest, Generator
    from ...negatives.language.masking import MaskedQuery
    from ...negatives.language.vocabulary import Vocabulary

EXAMPLES = (
    "shine-hf negatives generate --dataset charades_cg --data-dir DATA --generator lexical --output lexical.parquet",
    "shine-hf negatives generate --dataset mine.jsonl --generator fill_mask --model answerdotai/ModernBERT-base --output bert.parquet",
    "shine-hf negatives generate --dataset mine.jsonl --generator openai_chat --model gpt-4o-mini --cache answers.sqlite \\\n"
    "      --input-price 0.15 --output-price 0.60 --max-cost 5 --output gpt.parquet   # with --dry-run: what it would cost",
    "shine-hf negatives generate --dataset mine.jsonl --generator openai_chat --base-url http://localhost:8000/v1 --model Qwen/Qwen3-8B \\\n"
    "      --max-tokens 4096 --cache answers.sqlite --output qwen.parquet",
    "shine-hf negatives generate --dataset charades_cg --data-dir DATA --generator lexical --repair gpt-3.5-turbo --output clean.parquet",
)
GENERATORS = ("openai_chat", "openai_batch", "fill_mask", *GENERATED_SOURCES.values())
COLUMNS = ["qid", "query", "masked_queries", "negative_queries", "negative_flags", "source"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data(parser)
    add_masking(parser)
    parser.add_argument("--generator", choices=GENERATORS, required=True, help="how to generate the negatives")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the generator (default: %(default)s)")
    parser.add_argument(
        "--max-attempts",
        type=int,
        default=4,
        help="maximum attempts per level until it passes all checks (default: %(default)s)",
    )
    parser.add_argument(
        "--repair", metavar="SOURCE|FILE", help="keep these negatives, and replace only the levels that fail a check"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="estimate the tokens and the cost, without sending anything"
    )
    parser.add_argument("--no-progress", action="store_true", help="hide the progress bar")
    models = parser.add_argument_group("models (set OPENAI_API_KEY for endpoints that need a key)")
    models.add_argument("--model", help="name of the model")
    models.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible endpoint, up to /v1")
    models.add_argument(
        "--cache", type=Path, metavar="FILE.sqlite", help="cache of answers, from which an interrupted run resumes"
    )
    models.add_argument(
        "--concurrency", type=int, default=64, help="number of concurrent requests (default: %(default)s)"
    )
    models.add_argument("--temperature", type=float, default=0.7, help="sampling temperature (default: %(default)s)")
    models.add_argument(
        "--max-tokens",
        type=int,
        default=256,
        help="token limit of an answer, including thinking; a truncated answer is requested once more with a higher limit "
        "(default: %(default)s)",
    )
    models.add_argument("--timeout-seconds", type=float, help="timeout of a request")
    models.add_argument(
        "--poll-seconds", type=float, default=20.0, help="openai_batch: seconds between checks of the batches"
    )
    models.add_argument("--input-price", type=float, metavar="USD", help="US dollars per million input tokens")
    models.add_argument("--output-price", type=float, metavar="USD", help="US dollars per million output tokens")
    models.add_argument("--max-requests", type=int, help="stop after this many requests")
    models.add_argument(
        "--max-cost", type=float, metavar="USD", help="stop before this run costs more; needs both prices"
    )
    models.add_argument("--batch-size", type=int, default=32, help="fill_mask: queries per forward pass")
    add_checks(parser)
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    """Generate the negatives. Return 1 if levels are left without one."""
    try:
        return _generate(args)
    except ConnectionError as error:
        raise ConnectionError(f"{error}. {resume_hint(args)}") from error


def resume_hint(args: argparse.Namespace) -> str:
    """Return how to resume a run that ended early."""
    if args.cache:
        return f"All answers received are in {args.cache}; run the same command again to resume"
    return "Nothing was written; run the same command again to start over"


def _generate(args: argparse.Namespace) -> int:
    from ...io import write_rows
    from ...negatives.files import write_provenance

    masking, data, tagger = read_masking(args), Data(args, args.repair), read_tagger(args)
    training, vocabulary, validator = prepare(args, data, tagger, masking)
    generator = _make_generator(args, training, vocabulary)
    common = {"vocabulary": vocabulary, "tagger": tagger, "validator": validator}
    if args.dry_run:
        if not hasattr(generator, "estimate"):
            raise ValueError(f"--dry-run is for language models; {args.generator} is free")
        counter = _Counter()
        _write(args, data.rows, counter, masking, max_attempts=1, progress=False, **common)
        print(generator.estimate(counter.requests))
        return 0
    options = {"max_attempts": args.max_attempts, "progress": not args.no_progress, **common}
    negatives, summary = _write(args, data.rows, generator, masking, **options)
    provenance = {
        "source": generator.source,
        "generator": args.generator,
        "model": args.model,
        "seed": args.seed,
        "repaired": args.repair,
        "tagger": tagger.provenance,
        "masking_rule": masking.rule,
        "mask_ratios": [list(masking.ratios), *([length, list(r)] for length, r in masking.ratios_by_length)],
        "masked_parts_of_speech": list(masking.parts_of_speech),
        "checks": sorted(read_checks(args)),
        "max_attempts": args.max_attempts,
        "avoid_test_words": args.avoid_test_words,
        "dataset": Path(args.dataset).name,
        "split": args.split,
        "limit": args.limit,
        **(generator.provenance() if hasattr(generator, "provenance") else {}),
    }
    write_rows(negatives.select_columns(COLUMNS), args.output)
    write_provenance(args.output, provenance)
    print(summary)
    if hasattr(generator, "cost_so_far"):
        print(generator.cost_so_far())
    print(f"{len(negatives):,} rows: {args.output}")
    missing = sum(counter["missing"] for counter in summary.flags)
    if missing:
        print(
            f"{missing:,} levels have no usable answer. Run the same command again to request those without an answer; use --repair or "
            "another --seed for those with unusable answers"
        )
    return 1 if missing else 0


def _write(
    args: argparse.Namespace, rows: Dataset, generator: Generator, masking: Any, **options: Any
) -> tuple[Dataset, GenerationSummary]:
    from ...negatives.generate import generate_negatives, repair_negatives

    if args.repair:
        source = Path(args.repair).stem if Path(args.repair).is_file() else args.repair
        return repair_negatives(rows, generator, source=source, **options)
    return generate_negatives(rows, generator, masking=masking, **options)


class _Counter:
    """A generator that records the first requests of a run."""

    source = "dry run"

    def __init__(self) -> None:
        self.requests: list[FillRequest] = []

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        from ...negatives.generators.base import Fill

        self.requests += requests
        return (Fill(request, None, "dry run") for request in requests)


def _make_generator(args: argparse.Namespace, training: list[MaskedQuery], vocabulary: Vocabulary) -> Generator:
    if args.generator in GENERATED_SOURCES.values():
        from ...negatives.generators.from_queries import make_generator

        return make_generator(args.generator, training, vocabulary, args.seed, progress=not args.no_progress)
    if not args.model:
        raise ValueError(f"--generator {args.generator} needs --model")
    if args.generator == "fill_mask":
        from ...negatives.generators.fill_mask import FillMaskGenerator

        return FillMaskGenerator(args.model, seed=args.seed, batch_size=args.batch_size)
    if not args.cache:
        raise ValueError(
            f"--generator {args.generator} needs --cache FILE.sqlite, so that no answer is paid for twice"
        )
    return _make_language_model(args)


def _make_language_model(args: argparse.Namespace) -> Generator:
    if (args.input_price is None) != (args.output_price is None):
        raise ValueError("pass both --input-price and --output-price, in US dollars per million tokens")
    options = {
        "cache": args.cache,
        "base_url": args.base_url,
        "temperature": args.temperature,
        "seed": args.seed,
        "max_tokens": args.max_tokens,
        "max_requests": args.max_requests,
        "max_cost_usd": args.max_cost,
        "price": None if args.input_price is None else (args.input_price, args.output_price),
    }
    if args.timeout_seconds is not None:
        options["timeout_seconds"] = args.timeout_seconds
    if args.generator == "openai_batch":
        from ...negatives.llm.batch import OpenAIBatchGenerator

        return OpenAIBatchGenerator(args.model, poll_seconds=args.poll_seconds, **options)
    from ...negatives.llm.chat import OpenAIChatGenerator

    return OpenAIChatGenerator(args.model, concurrency=args.concurrency, **options)
