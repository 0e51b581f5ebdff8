"""Read how a model of transformers preprocesses frames, from its processor configuration.

The image and video processors of transformers give different pixels with PIL and torchvision, and most video processors need torchvision.
All of them have the same few settings. So this package scales and crops frames while decoding, and normalizes them on the model's device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .sampling import Sampling, scale_clips

_FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
# Values of PIL.Image.Resampling.
_INTERPOLATIONS = {0: "POINT", 1: "LANCZOS", 2: "BILINEAR", 3: "BICUBIC", 4: "AREA"}


@dataclass(frozen=True)
class PixelSettings:
    """Scaling, cropping and normalization of frames.

    Args:
        sampling: How frames are scaled and cropped, and how many there are per clip.
        mean, std: Mean and standard deviation per color channel, applied after `scale` and `shift`.
        scale, shift: Applied to the bytes: `byte * scale + shift`.
    """

    sampling: Sampling
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1 / 255
    shift: float = 0.0

    def normalize(self, clips: np.ndarray, device: str) -> torch.Tensor:
        """Normalize `(N, F, H, W, 3)` uint8 to `(N, F, 3, H, W)` float32. Frames of another size are scaled first."""
        clips = scale_clips(clips, self.sampling)
        pixels = torch.from_numpy(clips).to(device).movedim(-1, -3).float()
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels * self.scale + self.shift - mean) / std


def pixel_settings(model: str, frames: int, **changes: Any) -> PixelSettings:
    """Read the pixel settings of a model.

    Args:
        model: Hub name or local folder.
        frames: Frames per clip.
        changes: Fields of [`Sampling`] to override.

    Raises:
        ValueError: for a model without a processor configuration, or whose processor does more than scale, crop and normalize.
    """
    values = preprocessor_values(model)
    size = _size(values.get("size")) if values.get("do_resize", True) else {}
    crop = _size(values.get("crop_size"))
    short_side = size.get("shortest_edge")
    sampling = Sampling(
        frames,
        size=(size["height"], size["width"]) if "height" in size and not short_side else None,
        short_side=short_side,
        crop=(crop["height"], crop["width"]) if crop and values.get("do_center_crop") else None,
        interpolation=_INTERPOLATIONS.get(values.get("resample", 2), "BILINEAR"),
    )
    if size and sampling.size is None and sampling.short_side is None:
        raise ValueError(f"{model}: its processor scales frames to {values['size']}, which shine_hf does not support")
    normalizes = values.get("do_normalize", True) and values.get("image_mean") is not None
    return PixelSettings(
        replace(sampling, **changes),
        mean=_per_channel(values["image_mean"]) if normalizes else (0.0,) * 3,
        std=_per_channel(values["image_std"]) if normalizes else (1.0,) * 3,
        scale=values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0,
        # ViViT rescales to [-1, 1].
        shift=-1.0 if values.get("offset") else 0.0,
    )


def preprocessor_values(model: str) -> dict[str, Any]:
    """Return the configuration of a model's image or video processor.

    Raises:
        ValueError: if the model has none.
    """
    from transformers.utils import cached_file

    for name in _FILES:
        path = cached_file(
            model, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        if path is None:
            continue
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if name == "processor_config.json":
            values = values.get("video_processor") or values.get("image_processor")
        if values:
            return values
    raise ValueError(f"{model} has none of {', '.join(_FILES)}, which define how to preprocess frames")


def _size(value: Any) -> dict[str, int]:
    """Return a recorded size as a dictionary. Old files have a number, or height and width."""
    if isinstance(value, int):
        return {"shortest_edge": value, "height": value, "width": value}
    if isinstance(value, list | tuple):
        return {"height": value[0], "width": value[-1]}
    return {name: number for name, number in (value or {}).items() if number is not None}


def _per_channel(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, list | tuple) else (float(values),) * 3
