"""Hard negatives for the decoder: for a false query, no candidate is a moment. Not from the paper."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from ..modeling.moment_retrieval_loss import masked_mean


def decoder_negative_hinges(
    logits: torch.Tensor,
    negative_logits: torch.Tensor,
    matched_candidates: torch.Tensor | None,
    *,
    form: str = "background",
    margin: float = 1.0,
) -> torch.Tensor:
    r"""Penalize candidates that score high under a negative, for each sample and negative.

    SHINE's losses act on the saliency, i.e. on the encoder. The moments come from the decoder, which never sees a negative. Let \\(f_q\\) be
    the log-odds of the foreground of candidate q under a negative, and \\(f^+\\) their mean over the matched candidates under the query:

    * `"background"` trains all candidates toward the background, as the label loss does for unmatched candidates:
      $$ \frac{1}{Q} \sum_q -\log p_q(\text{background}) = \frac{1}{Q} \sum_q \log(1 + e^{f_q}) $$
    * `"ranking"` ranks the matched candidates above the best candidate under the negative: \\(\max(0, m + \max_q f_q - f^+)\\).

    The ranking form uses the best candidate, since users get that one. The mean over the candidates would be low even if one of them were as
    probable as the moment itself. In the background form, the mean hides nothing: its gradient with respect to \\(f_q\\) is proportional to
    the foreground probability of candidate q. The ranking form uses log-odds, which have a gradient even if all probabilities are near 0 or 1.

    Args:
        logits (`(B, Q, 2)`): Class scores under the query. Index 0 is the foreground.
        negative_logits (`(B, N, Q, 2)`): Class scores under each negative.
        matched_candidates (`(B, Q)` bool): Which candidates are matched with a window; only for `"ranking"`. A sample without any has no loss.
        form: `"background"` or `"ranking"`.
        margin: \\(m\\), only for `"ranking"`.

    Returns:
        `(B, N)`, at least 0.

    Raises:
        ValueError: for an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"decoder_negative_form must be one of {', '.join(FORMS)}, got {form!r}")
    return FORMS[form](_log_odds(logits), _log_odds(negative_logits), matched_candidates, margin)


def _log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Return the log-odds of the foreground: `(..., 2)` -> `(...)` float32."""
    return logits[..., 0].float() - logits[..., 1].float()


def _background(candidates: torch.Tensor, negatives: torch.Tensor, *_) -> torch.Tensor:
    return F.softplus(negatives).mean(dim=-1)


def _ranking(candidates: torch.Tensor, negatives: torch.Tensor, matched: torch.Tensor, margin: float) -> torch.Tensor:
    moment_score = masked_mean(candidates, matched, 1).masked_fill(~matched.any(dim=1), torch.inf)
    return (margin + negatives.max(dim=-1).values - moment_score.unsqueeze(1)).relu()


FORMS: dict[str, Callable[..., torch.Tensor]] = {"background": _background, "ranking": _ranking}
