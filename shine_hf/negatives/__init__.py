"""Hard negatives: tag and mask queries, fill the masks with any generator, validate the results.

from shine_hf.negatives import generate_negatives
from shine_hf.negatives.generators.lexical import LexicalGenerator
"""

import importlib

_MODULE_OF = {
    "CHECKS": "validation",
    "MaskingOptions": "language.masking",
    "PositiveQueries": "contact",
    "Tagger": "language.tagging",
    "TestContact": "contact",
    "Validator": "validation",
    "Vocabulary": "language.vocabulary",
    "generate_negatives": "generate",
    "mask_dataset": "language.masking",
    "mask_query": "language.masking",
    "repair_negatives": "generate",
    "validate_dataset": "validation",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
