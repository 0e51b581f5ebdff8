"""Hard negatives from a masked language model that runs on this machine: no endpoint, no cost, no data leaves it."""

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
    """Fills masked queries with any masked language model of transformers (BERT, RoBERTa, ModernBERT, …).

    All masks of a query are looked at together; the one that the model is most sure of is filled first, and the others
    are then predicted again beside it, so that the words fit each other. A mask takes one of its `candidates`, as far as
    they are single tokens of the model, else any complete word that is; never the original word, nor a word that an earlier
    answer to the request had there. Words are drawn from the `top_k` likeliest, by their probabilities, with a random
    generator per request: the same seed gives the same words whatever else is asked.

    Args:
        model: a name on the Hub or a local folder; `revision` pins it.
        batch_size: queries per forward pass.
        device: by default the first GPU, else the CPU.

    Raises:
        ValueError: the model's tokenizer has no mask token, or a number is out of its range.
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
            raise ValueError(f"{model} has no mask token: give a masked language model, e.g. bert-base-uncased")
        self._model = AutoModelForMaskedLM.from_pretrained(model, revision=revision).eval().to(self.device)
        longest = self._tokenizer.model_max_length
        self._max_tokens = min(longest, getattr(self._model.config, "max_position_embeddings", longest))
        self._token_of = lru_cache(maxsize=None)(self._single_token)
        self._whole_words = self._find_whole_words()

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        """Yield one `Fill` per request. A query that is too long for the model is yielded with the error `too_long: …`."""
        # Queries of similar length and number of masks in one batch: little padding, few passes.
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
                yield Fill(request, None, f"too_long: {tokens} tokens, the model takes {self._max_tokens}")
            elif not all(gap.allowed):
                yield Fill(request, None, "no_candidate: every word that the mask may take was rejected")
            else:
                gaps.append(gap)
        while unfinished := [gap for gap in gaps if gap.open_masks()]:
            for gap, logits in zip(unfinished, self._mask_logits(unfinished)):
                self._fill_surest(gap, logits)
        for gap in gaps:
            yield Fill(gap.request, fill_masks(gap.request.masked_query, [word or "" for word in gap.words]))

    def _fill_surest(self, gap: _Gaps, logits: torch.Tensor) -> None:
        """Fill one mask of a query. `logits` (M, V): one row per mask that is still open, left to right."""
        import torch

        best: tuple[float, int, torch.Tensor, list[str]] | None = None
        for row, mask in zip(logits, gap.open_masks()):
            words = list(gap.allowed[mask])
            ids = torch.tensor([gap.allowed[mask][word] for word in words], device=row.device)
            probabilities = row[ids].float().softmax(0)
            sureness = float(probabilities.max())
            if best is None or sureness > best[0]:
                best = (sureness, mask, probabilities, words)
        _, mask, probabilities, words = best
        top = probabilities.topk(min(self.top_k, len(words)))
        chosen = gap.chooser.choices(top.indices.tolist(), weights=top.values.tolist())[0]
        gap.words[mask] = words[chosen]

    def _mask_logits(self, gaps: Sequence[_Gaps]) -> list[torch.Tensor]:
        """Return for each query the logits at its open masks, (M, V) each."""
        import torch

        texts = [gap.text(self._tokenizer.mask_token) for gap in gaps]
        inputs = self._tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            logits = self._model(**inputs).logits
        is_mask = inputs["input_ids"] == self._tokenizer.mask_token_id
        return [row[mask] for row, mask in zip(logits, is_mask)]

    def _allowed_words(self, request: FillRequest) -> list[dict[str, int]]:
        """Return for each mask the words that it may take, with their token."""
        earlier = [extract_fills(request.masked_query, rejection.answer) for rejection in request.rejections]
        allowed = []
        for index, original in enumerate(request.originals):
            forbidden = {original.lower()} | {words[index].lower() for words in earlier if words}
            offered = request.candidates[index] if index < len(request.candidates) else ()
            tokens = {word: self._token_of(word) for word in offered}
            words = {word: token for word, token in tokens.items() if token is not None} or self._whole_words
            allowed.append({word: token for word, token in words.items() if word.lower() not in forbidden})
        return allowed

    def _seed_of(self, request: FillRequest) -> str:
        return f"{self.seed}/{request.qid}/{request.level}/{len(request.rejections)}"

    def _count_tokens(self, gap: _Gaps) -> int:
        return len(self._tokenizer(gap.text(self._tokenizer.mask_token))["input_ids"])

    def _single_token(self, word: str) -> int | None:
        # With the space before it: byte-pair tokenizers have one token for a word and another for the same letters
        # at the end of a longer word.
        ids = self._tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        return ids[0] if len(ids) == 1 and ids[0] != self._tokenizer.unk_token_id else None

    def _find_whole_words(self) -> dict[str, int]:
        """Return every token that is a lower-case word by itself."""
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
    """A request while its masks are filled."""

    def __init__(self, request: FillRequest, allowed: list[dict[str, int]], chooser: random.Random) -> None:
        self.request = request
        self.allowed = allowed
        self.chooser = chooser
        self.words: list[str | None] = [None] * len(request.originals)

    def open_masks(self) -> list[int]:
        return [index for index, word in enumerate(self.words) if word is None]

    def text(self, mask_token: str) -> str:
        return fill_masks(self.request.masked_query, [mask_token if word is None else word for word in self.words])
