"""Text and video encoders from CLIP, through transformers."""

from __future__ import annotations

import numpy as np
import torch

from .auto import AutoTextEncoder, default_device
from .pixel_settings import pixel_settings
from .video_base import VideoEncoder

DEFAULT_MODEL = "openai/clip-vit-base-patch32"


class ClipTextEncoder(AutoTextEncoder):
    """Token features from CLIP's text model: its last hidden state, as in QD-DETR and SHINE. Texts are truncated to CLIP's 77 tokens.

    Args:
        model (`str`): Hub name or local folder of a CLIP model with its tokenizer.
        device (`str`, *optional*): Device of the model; by default a GPU if available.
    """

    def __init__(self, model: str = DEFAULT_MODEL, device: str | None = None):
        super().__init__(model, device=device)

    @property
    def spec(self) -> str:
        return f"clip:{self.name}"


class ClipVideoEncoder(VideoEncoder):
    """CLIP's image features (after the projection), averaged over the frames of a clip.

    With one frame per clip, these are the features that the field uses: frames are selected, scaled, cropped and normalized as in
    `run_on_video` of Moment-DETR and QD-DETR (and HERO's extractor before them), which runs FFmpeg's filters `fps=1/clip_length`, `scale`
    (bicubic, the shorter side to the input size of the model) and `crop`. There are three differences: a video shorter than a clip gives one
    clip instead of several, rotated videos are upright, and non-square pixels are scaled to their display aspect ratio.

    Args:
        model (`str`): Hub name or local folder of a CLIP model with its image processor.
        frames (`int`): Frames per clip.
        device (`str`, *optional*): Device of the model; by default a GPU if available.

    Raises:
        ValueError: for a number of frames that is not positive.
    """

    def __init__(self, model: str = DEFAULT_MODEL, frames: int = 1, device: str | None = None):
        from transformers import CLIPModel

        if frames < 1:
            raise ValueError(f"clip: frames must be positive, got {frames}")
        self.name, self.device = model, device or default_device()
        self.settings = pixel_settings(model, frames, strictly_before=True)
        self.sampling = self.settings.sampling
        self.model = CLIPModel.from_pretrained(model).to(self.device).eval()
        self.dim = self.model.config.projection_dim

    @property
    def spec(self) -> str:
        return f"clip:{self.name},frames={self.frames_per_clip}"

    @torch.no_grad()
    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """Encode `(N, F, H, W, 3)` uint8 frames to `(N, D)` float32."""
        pixels = self.settings.normalize(clips, self.device).flatten(0, 1)
        features = self.model.get_image_features(pixel_values=pixels).pooler_output
        return features.unflatten(0, clips.shape[:2]).mean(dim=1).float().cpu().numpy()
