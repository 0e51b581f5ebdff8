"""Configuration of QD-DETR."""

from huggingface_hub.dataclasses import strict

from .configuration_moment_retrieval import MomentRetrievalConfig


@strict
class QDDetrConfig(MomentRetrievalConfig):
    r"""
    Configuration of [`QDDetrModel`] and [`QDDetrForMomentRetrieval`] (QD-DETR, CVPR 2023, arXiv 2303.13874).

    Args:
        text_to_video_layers (`int`): Number of cross-attention layers before the encoder, in which the clips attend to the query.
        batch_coupled_text_mask (`bool`): Reproduce the attention mask of the authors' code, which confuses heads and samples, so that the
            samples of a batch affect each other. Only for comparison with results of that code.

    For the other fields, see [`MomentRetrievalConfig`].
    """

    model_type = "qd_detr"

    text_to_video_layers: int = 2
    batch_coupled_text_mask: bool = False
