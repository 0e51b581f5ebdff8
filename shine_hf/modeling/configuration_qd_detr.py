"""Configuration of QD-DETR."""

from huggingface_hub.dataclasses import strict

from .configuration_moment_retrieval import MomentRetrievalConfig


@strict
class QDDetrConfig(MomentRetrievalConfig):
    r"""
    Configuration of [`QDDetrModel`] and [`QDDetrForMomentRetrieval`] (QD-DETR, CVPR 2023, arXiv 2303.13874).

    Args:
        text_to_video_layers (`int`): Cross-attention layers by which the clips read the query before the encoder.
        batch_coupled_text_mask (`bool`): Reproduce the attention mask of the public code, which mixes up heads and samples so
            that the samples of a batch influence each other. Only for parity with numbers obtained from that code.

    The other fields are those of [`MomentRetrievalConfig`].
    """

    model_type = "qd_detr"

    text_to_video_layers: int = 2
    batch_coupled_text_mask: bool = False
