"""Any video model of transformers as an encoder: VideoMAE, TimeSformer, ViViT, …"""

from __future__ import annotations

import numpy as np
import torch

from .video_base import VideoEncoder


class AutoVideoEncoder(VideoEncoder):
    """
    The mean of the last hidden state over all patches of a clip.

    Args:
        model (`str`): Hub name or local folder of a video model with its image processor.
        frames (`int`, *optional*): Frames per clip; by default as many as the model was trained with.
        device (`str`, *optional*): Where to run; a GPU if there is one.

    Raises:
        ValueError: for a model that takes no video.
    """

    batch_clips = 4

    def __init__(self, model: str, frames: int | None = None, device: str | None = None):
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        config = AutoConfig.from_pretrained(model)
        trained_frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
        if trained_frames is None:
            raise ValueError(
                f"auto:{model} is a {config.model_type} model, whose configuration names no number of frames: not a video model. "
                "Models of images and text such as CLIP are read by clip:"
            )
        self.name, self.frames_per_clip, self.trained_frames = model, frames or trained_frames, trained_frames
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # Pixels are prepared by PIL everywhere, so that features do not depend on whether torchvision is installed.
        self.processor = AutoImageProcessor.from_pretrained(model, backend="pil")
        self.model = AutoModel.from_pretrained(model).to(self.device).eval()
        self.dim = config.hidden_size

    @property
    def spec(self) -> str:
        return f"auto:{self.name},frames={self.frames_per_clip}"

    @torch.no_grad()
    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """`(N, F, H, W, 3)` uint8 -> `(N, D)` float32."""
        pixels = torch.cat(
            [self.processor(list(clip), return_tensors="pt")["pixel_values"].flatten(0, -4) for clip in clips]
        )
        pixels = pixels.unflatten(0, (len(clips), -1)).to(self.device)
        try:
            states = self.model(**{self.model.main_input_name: pixels}).last_hidden_state
        except RuntimeError as error:
            if self.frames_per_clip == self.trained_frames or isinstance(error, torch.OutOfMemoryError):
                raise
            # Some models take any number of frames, others have a position for each.
            raise ValueError(
                f"auto:{self.name} was trained with {self.trained_frames} frames per clip and takes no other number, so not "
                f"{self.frames_per_clip} ({error})"
            ) from error
        return states.mean(dim=1).float().cpu().numpy()
