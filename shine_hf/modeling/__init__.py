"""The networks. Importing this package registers them with the Auto classes of transformers.

The folder is copied into every pushed model repository (`auto_map`), so its files import each other with `from .x import …` and
nothing else of shine_hf.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from .configuration_moment_detr import MomentDetrConfig
from .configuration_qd_detr import QDDetrConfig
from .modeling_moment_detr import MomentDetrForMomentRetrieval, MomentDetrModel
from .modeling_moment_retrieval import MomentRetrievalModelOutput, MomentRetrievalOutput
from .modeling_qd_detr import QDDetrForMomentRetrieval, QDDetrModel
from .processing_moment_retrieval import MomentRetrievalProcessor

# There is no Auto class for moment retrieval, so `AutoModel` gives the model with heads.
for config_class, model_class in (
    (QDDetrConfig, QDDetrForMomentRetrieval),
    (MomentDetrConfig, MomentDetrForMomentRetrieval),
):
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
    AutoFeatureExtractor.register(config_class, MomentRetrievalProcessor)
    AutoProcessor.register(config_class, MomentRetrievalProcessor)
    config_class.register_for_auto_class()
    model_class.register_for_auto_class("AutoModel")
# The Trainer takes every `ProcessorMixin` for the owner of a tokenizer, hence a feature extractor.
MomentRetrievalProcessor.register_for_auto_class("AutoFeatureExtractor")

# Registers the pipeline too, so that `pipeline("video-moment-retrieval", …)` works once a model name was touched. Last, since it takes
# its names from here; the one import that points outwards, in a file that is not copied into model repositories.
from ..inference import pipeline as _pipeline  # noqa: E402, F401

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
