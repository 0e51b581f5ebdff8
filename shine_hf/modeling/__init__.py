"""The networks and their processor.

The folder is copied into every pushed model repository (`auto_map`), so its files import each other with `from .x import …` and
nothing else of shine_hf. `shine_hf/registration.py` registers the classes with the Auto classes of transformers.
"""

from .configuration_moment_detr import MomentDetrConfig
from .configuration_qd_detr import QDDetrConfig
from .modeling_moment_detr import MomentDetrForMomentRetrieval, MomentDetrModel
from .modeling_moment_retrieval import MomentRetrievalModelOutput, MomentRetrievalOutput
from .modeling_qd_detr import QDDetrForMomentRetrieval, QDDetrModel
from .processing_moment_retrieval import MomentRetrievalProcessor

# What `save_pretrained` writes into `auto_map`.
for config_class, model_class in (
    (QDDetrConfig, QDDetrForMomentRetrieval),
    (MomentDetrConfig, MomentDetrForMomentRetrieval),
):
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModel")
# As a feature extractor: the Trainer takes every `ProcessorMixin` for the owner of a tokenizer.
MomentRetrievalProcessor.register_for_auto_class("AutoFeatureExtractor")

__all__ = [
    "MomentDetrConfig",
    "MomentDetrForMomentRetrieval",
    "MomentDetrModel",
    "MomentRetrievalModelOutput",
    "MomentRetrievalOutput",
    "MomentRetrievalProcessor",
    "QDDetrConfig",
    "QDDetrForMomentRetrieval",
    "QDDetrModel",
]
