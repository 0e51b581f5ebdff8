"""Generate hard negatives with a local masked language model: no endpoint, no cost, and no data leaves the machine."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from shine_hf.negatives.generators.base import Fill, FillRequest
from shine_hf.negatives.language.masking import extract_fills, fill_masks

if TYPE_CHECKING:
    import torch


class FillMaskGenerator:
    """Fill masked queries with any masked language model of transformers (BERT, RoBERTa, ModernBERT, …).

    The model predicts all masks of a query at once. The most confident one is filled first; then the others are predicted again, so that
    the words fit together. A mask is filled with one of its `candidates` that is a single token of the model or, if there is none, with any
    single-token word. The original word and the mask's words in rejected answers are never used. Words are drawn from the `top_k` most
    probable ones, in proportion to their probabilities. Each request has its own random generator, so its words do not depend on other
    requests.

    Args:
        model: A name on the Hub or a local folder.
        revision: The revision on the Hub.
        seed: Seed of the draws.
        top_k: Number of words to draw from.
        batch_size: Queries per forward pass.
        device: By default a GPU if available, else the CPU.

    Raises:
        ValueError: if the model's tokenizer has no mask token, or `top_k` or `batch_size` is below 1.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        seed: int = 0,
        top_k: int = 20,
        batch_size: int = 32,
        device: str | None = None,
    ) -> None:
        import torch
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        if top_k < 1 or batch_size < 1:
            raise ValueError(f"top_k and batch_size must be at least 1, not {top_k} and {batch_size}")
        self.source = model
        self.seed = seed
        self.top_k = top_k
        self.batch_size = batch_size
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        if self._tokenizer.mask_token_id is None:
            raise ValueError(f"{model} has no mask token: use a masked language model, e.g. bert-base-uncased")
        self._model = AutoModelForMaskedLM.from_pretrained(model, revision=revision).eval().to(self.device)
        longest = self._tokenizer.model_max_length
        self._max_tokens = min(longest, getattr(self._model.config, "max_position_embeddings", longest))
        self._token_of = lru_cache(maxsize=None)(self._single_token)
        self._all_words = self._find_all_words()

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        """Yield one `Fill` per request. A query that is too long for the model has the error `too_long: …`."""
        # Group queries with similar lengths and numbers of masks: less padding and fewer forward passes.
        order = sorted(
            range(len(requests)), key=lambda i: (len(requests[i].originals), len(requests[i].masked_query), i)
        )
        for start in range(0, len(order), self.batch_size):
            yield from self._fill_batch([requests[i] for i in order[start : start + self.batch_size]])

    def _fill_batch(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        gaps = []
        for request in requests:
            gap = _Gaps(request, self._allowed_words(request), random.Random(self._seed_of(request)))
            if (tokens := self._count_tokens(gap)) > self._max_tokens:
                yield Fill(
                    request, None, f"too_long: {tokens} tokens, but the model accepts at most {self._max_tokens}"
                )
            elif not all(gap.allowed):
                yield Fill(request, None, "no_candidate: every possible word was rejected")
            else:
                gaps.append(gap)
        while unfinished := [gap for gap in gaps if gap.open_masks()]:
            for gap, logits in zip(unfinished, self._mask_logits(unfinished)):
                self._fill_most_confident(gap, logits)
        for gap in gaps:
            yield Fill(gap.request, fill_masks(gap.request.masked_query, [word or "" for word in gap.words]))

    def _fill_most_confident(self, gap: _Gaps, logits: torch.Tensor) -> None:
        """Fill the mask with the most confident prediction. `logits` (M, V) has one row per open mask, from left to right."""
        import torch

        best: tuple[float, int, torch.Tensor, list[str]] | None = None
        for row, mask in zip(logits, gap.open_masks()):
            words = list(gap.allowed[mask])
            ids = torch.tensor([gap.allowed[mask][word] for word in words], device=row.device)
            probabilities = row[ids].float().softmax(0)
            confidence = float(probabilities.max())
            if best is None or confidence > best[0]:
                best = (confidence, mask, probabilities, words)
        _, mask, probabilities, words = best
        top = probabilities.topk(min(self.top_k, len(words)))
        chosen = gap.rng.choices(top.indices.tolist(), weights=top.values.tolist())[0]
        gap.words[mask] = words[chosen]

    def _mask_logits(self, gaps: Sequence[_Gaps]) -> list[torch.Tensor]:
        """Return the predictions for the open masks of each query, (M, V) each."""
        import torch

        texts = [gap.text(self._tokenizer.mask_token) for gap in gaps]
        inputs = self._tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            logits = self._model(**inputs).logits
        is_mask = inputs["input_ids"] == self._tokenizer.mask_token_id
        return [row[mask] for row, mask in zip(logits, is_mask)]

    def _allowed_words(self, request: FillRequest) -> list[dict[str, int]]:
        """Return the allowed words of each mask, with their tokens."""
        earlier = [extract_fills(request.masked_query, rejection.answer) for rejection in request.rejections]
        allowed = []
        for index, original in enumerate(request.originals):
            forbidden = {original.lower()} | {words[index].lower() for words in earlier if words}
            offered = request.candidates[index] if index < len(request.candidates) else ()
            tokens = {word: self._token_of(word) for word in offered}
            words = {word: token for word, token in tokens.items() if token is not None} or self._all_words
            allowed.append({word: token for word, token in words.items() if word.lower() not in forbidden})
        return allowed

    def _seed_of(self, request: FillRequest) -> str:
        return f"{self.seed}/{request.qid}/{request.level}/{len(request.rejections)}"

    def _count_tokens(self, gap: _Gaps) -> int:
        return len(self._tokenizer(gap.text(self._tokenizer.mask_token))["input_ids"])

    def _single_token(self, word: str) -> int | None:
        # Prepend a space: byte-pair tokenizers have different tokens for a word and for the same letters inside a word.
        ids = self._tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        return ids[0] if len(ids) == 1 and ids[0] != self._tokenizer.unk_token_id else None

    def _find_all_words(self) -> dict[str, int]:
        """Return every token that is a lower-case word."""
        special = set(self._tokenizer.all_special_ids)
        ids = [token for token in range(len(self._tokenizer)) if token not in special]
        words = [self._tokenizer.decode([token]).strip() for token in ids]
        plausible = [
            (token, word)
            for token, word in zip(ids, words)
            if len(word) > 1 and word.isascii() and word.isalpha() and word.islower()
        ]
        encoded = self._tokenizer([" " + word for _, word in plausible], add_special_tokens=False)["input_ids"]
        return {word: token for (token, word), tokens in zip(plausible, encoded) if tokens == [token]}


class _Gaps:
    """A request whose masks are being filled."""

    def __init__(self, request: FillRequest, allowed: list[dict[str, int]], rng: random.Random) -> None:
        self.request = request
        self.allowed = allowed
        self.rng = rng
        self.words: list[str | None] = [None] * len(request.originals)

    def open_masks(self) -> list[int]:
        return [index for index, word in enumerate(self.words) if word is None]

    def text(self, mask_token: str) -> str:
        return fill_masks(self.request.masked_query, [mask_token if word is None else word for word in self.words])
