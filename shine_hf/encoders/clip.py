"""CLIP as an encoder of text and of video, through transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .video_base import VideoEncoder

DEFAULT_MODEL = "openai/clip-vit-base-patch32"


class ClipTextEncoder:
    """Token features from CLIP's text model: its last hidden state, as QD-DETR and SHINE use it.

    Args:
        model (`str`): Hub name or local folder of a CLIP model with its tokenizer.
        device (`str`, *optional*): Where to run; a GPU if there is one.
    """

    def __init__(self, model: str = DEFAULT_MODEL, device: str | None = None):
        from transformers import AutoTokenizer, CLIPTextModel

        self.name = model
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = CLIPTextModel.from_pretrained(model).to(self.device).eval()
        self.dim = self.model.config.hidden_size

    @property
    def spec(self) -> str:
        """The specification that rebuilds this encoder."""
        return f"clip:{self.name}"

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token features `(L, dim)` float32 of each text, start and end tokens included; longer texts are cut to CLIP's 77 tokens.

        Raises:
            ValueError: for an empty text.
        """
        for text in texts:
            if not text.strip():
                raise ValueError("cannot encode an empty query")
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        states = self.model(**tokens).last_hidden_state.float().cpu().numpy()
        return [row[:length] for row, length in zip(states, tokens["attention_mask"].sum(dim=1).tolist())]


class ClipVideoEncoder(VideoEncoder):
    """
    CLIP's image features (after the projection), averaged over the frames of a clip.

    Args:
        model (`str`): Hub name or local folder of a CLIP model with its image processor.
        frames (`int`): Frames per clip.
        device (`str`, *optional*): Where to run; a GPU if there is one.
    """

    def __init__(self, model: str = DEFAULT_MODEL, frames: int = 2, device: str | None = None):
        from transformers import AutoImageProcessor, CLIPModel

        if frames < 1:
            raise ValueError(f"clip: frames must be positive, got {frames}")
        self.name, self.frames_per_clip = model, frames
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # Pixels are prepared by PIL everywhere, so that features do not depend on whether torchvision is installed.
        self.processor = AutoImageProcessor.from_pretrained(model, backend="pil")
        self.model = CLIPModel.from_pretrained(model).to(self.device).eval()
        self.dim = self.model.config.projection_dim

    @property
    def spec(self) -> str:
        """The specification that rebuilds this encoder."""
        return f"clip:{self.name},frames={self.frames_per_clip}"

    @torch.no_grad()
    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """`(N, F, H, W, 3)` uint8 -> `(N, D)` float32."""
        frames = self.processor(list(clips.reshape(-1, *clips.shape[2:])), return_tensors="pt").to(self.device)
        features = self.model.get_image_features(**frames).pooler_output
        return features.unflatten(0, clips.shape[:2]).mean(dim=1).float().cpu().numpy()
