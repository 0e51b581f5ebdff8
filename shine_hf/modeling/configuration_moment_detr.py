"""Configuration of Moment-DETR."""

from huggingface_hub.dataclasses import strict

from .configuration_moment_retrieval import MomentRetrievalConfig, Number


@strict
class MomentDetrConfig(MomentRetrievalConfig):
    r"""
    Configuration of [`MomentDetrModel`] and [`MomentDetrForMomentRetrieval`] (Moment-DETR, NeurIPS 2021, arXiv 2107.09609).

    Args:
        contrastive_loss_weight (`float`): Weight of the term that aligns matched moment candidates with the tokens of the query. 0 leaves
            out the term and its projections; 0.02 is a common value.
        contrastive_size (`int`): Width of the projections for the alignment.
        contrastive_temperature (`float`): Temperature of the term.

    For the other fields, see [`MomentRetrievalConfig`].
    """

    model_type = "moment_detr"

    contrastive_loss_weight: Number = 0
    contrastive_size: int = 64
    contrastive_temperature: Number = 0.07
