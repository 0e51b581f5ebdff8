"""The loss terms of the SHINE paper as pure functions of tensors, and [`ShineLoss`], which combines them."""

from .coarse_ranking import CoarseRankingLoss, coarse_ranking_loss
from .fine_ranking import fine_ranking_loss
from .shine import ShineLoss

__all__ = ["CoarseRankingLoss", "ShineLoss", "coarse_ranking_loss", "fine_ranking_loss"]
