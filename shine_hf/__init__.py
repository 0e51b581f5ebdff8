"""SHINE for the Hugging Face ecosystem: video moment retrieval that understands compositions of words (arXiv 2407.05118).

Names are imported on first use, so `import shine_hf` imports neither torch nor transformers. It also registers the models with the Auto
classes and the task "video-moment-retrieval" with `pipeline` (see registration.py).
"""

import importlib

from .registration import install
from .version import __version__

_HOME = {
    "shine_hf.modeling": (
        "MomentDetrConfig", "MomentDetrForMomentRetrieval", "MomentDetrModel", "MomentRetrievalModelOutput",
        "MomentRetrievalOutput", "MomentRetrievalProcessor", "QDDetrConfig", "QDDetrForMomentRetrieval", "QDDetrModel",
    ),
    "shine_hf.inference.retriever": ("Moment", "MomentRetriever", "RetrievalResult"),
    "shine_hf.losses": ("CoarseRankingLoss", "ShineLoss", "coarse_ranking_loss", "fine_ranking_loss"),
    "shine_hf.data.collator": ("DataCollatorForMomentRetrieval",),
    "shine_hf.features.base": ("FeatureStore",),
    "shine_hf.metrics": ("evaluate_submission", "saliency_hierarchy"),
    "shine_hf.training": ("ShineTrainer", "ShineTrainingArguments"),
    "shine_hf.conversion.checkpoints": ("convert_state_dict", "load_original_checkpoint"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__():
    return sorted([*globals(), *_MODULE_OF])


install()
