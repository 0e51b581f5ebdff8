"""Generate negatives for the splits of a dataset from the words of its training queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# Source of the negatives, i.e. the name of the config -> its generator.
GENERATED_SOURCES = {"lexical": "lexical", "balanced": "balanced", "random": "random_words"}


def generate_for_splits(
    dataset: str, rows: Mapping[str, list[dict]], generator: str, seed: int = 0, only: Collection[str] | None = None
) -> dict[str, list[dict]]:
    """Generate negatives without a language model, with `lexical`, `balanced` or `random_words`.

    Test splits can have negatives too, to measure the order positive > level 1 > 2 > 3 on them.

    Args:
        dataset: Name of the dataset, for its mask ratios; for an unknown one, those of Charades-CG are used.
        rows: Split name -> rows of the schema. `train` provides the dictionary.
        generator: `lexical`, `balanced` or `random_words`.
        seed: Seed of the generator.
        only: The splits that get negatives; by default all.

    Returns:
        Split name -> rows, with negatives in the splits of `only`.

    Raises:
        ValueError: for an unknown generator.
        ImportError: if the extra `negatives` is not installed.
    """
    import datasets

    from ..schema import FEATURES
    from .contact import PositiveQueries
    from .generate import generate_negatives
    from .generators.from_queries import make_generator
    from .language.masking import RATIOS, RATIOS_OF_DATASET, MaskingOptions, mask_query
    from .language.tagging import Tagger
    from .language.vocabulary import Vocabulary
    from .validation import Validator

    tagger, masking = Tagger(), MaskingOptions(RATIOS_OF_DATASET.get(dataset, RATIOS))
    # The splits share videos, so a negative for a query may be a true query in another split.
    positives = PositiveQueries(row for split_rows in rows.values() for row in split_rows)
    training = [mask_query(query, masking) for query in tagger.tag(row["query"] for row in rows["train"])]
    vocabulary = Vocabulary(training)
    progress = datasets.is_progress_bar_enabled()
    fills = make_generator(generator, training, vocabulary, seed, progress)
    generated = dict(rows)
    for split in rows if only is None else only:
        with_negatives, _ = generate_negatives(
            datasets.Dataset.from_list(
                [{name: row[name] for name in FEATURES} for row in rows[split]], features=FEATURES
            ),
            fills,
            vocabulary=vocabulary,
            masking=masking,
            tagger=tagger,
            validator=Validator(vocabulary=vocabulary, tagger=tagger, positives=positives),
            progress=progress,
        )
        generated[split] = with_negatives.select_columns(list(FEATURES)).to_list()
    return generated
