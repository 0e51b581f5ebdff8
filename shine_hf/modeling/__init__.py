"""The networks and their processor.

These files are copied into every pushed model repository (`auto_map`), so they only import each other (`from .x import …`) and nothing else
from shine_hf. `shine_hf/registration.py` registers the classes with the Auto classes of transformers.
"""

from .configuration_moment_detr import MomentDetrConfig
from .configuration_qd_detr import QDDetrConfig
from .modeling_moment_detr import MomentDetrForMomentRetrieval, MomentDetrModel
from .modeling_moment_retrieval import MomentRetrievalModelOutput, MomentRetrievalOutput
from .modeling_qd_detr import QDDetrForMomentRetrieval, QDDetrModel
from .processing_moment_retrieval import MomentRetrievalProcessor

# For the `auto_map` that `save_pretrained` writes.
for config_class, model_class in (
    (QDDetrConfig, QDDetrForMomentRetrieval),
    (MomentDetrConfig, MomentDetrForMomentRetrieval),
):
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModel")
# Not as a processor: the Trainer assumes that every `ProcessorMixin` has a tokenizer.
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
