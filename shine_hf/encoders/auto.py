"""Use any image or video model of transformers as a video encoder, and any text model as a text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .pixel_settings import pixel_settings, preprocessor_values
from .sampling import Sampling
from .video_base import VideoEncoder

_DEFAULT_VIDEO_FRAMES = 16
_DEFAULT_IMAGE_FRAMES = 1
_MAX_TOKENS = 512


def default_device() -> str:
    """Return "cuda" if a GPU is available, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class AutoVideoEncoder(VideoEncoder):
    """One vector per clip from an image or video model: SigLIP 2, PE-Video, VideoPrism, V-JEPA 2, VideoMAE, TimeSformer, DINOv3, …

    Models trained on pairs with text give the features that they compare with text features. Other video models give the mean of the last
    hidden state over all patches. Other image models give their pooled output, or the same mean if they were trained without a pooler. The
    features of an image model are averaged over the frames of a clip.

    Args:
        model (`str`): Hub name or local folder of a model with its image or video processor.
        frames (`int`, *optional*): Frames per clip. The default is the number that a video model was trained with, and 1 for an image model.
        device (`str`, *optional*): Device of the model; by default a GPU if available.

    Raises:
        ValueError: for a model that accepts neither images nor videos, or a number of frames that is not positive.
    """

    batch_clips = 4

    def __init__(self, model: str, frames: int | None = None, device: str | None = None):
        from transformers import AutoModel

        if frames is not None and frames < 1:
            raise ValueError(f"auto: frames must be positive, got {frames}")
        self.name, self.device = model, device or default_device()
        loaded, info = AutoModel.from_pretrained(model, output_loading_info=True)
        self.model = loaded.to(self.device).eval()
        self._has_pooler = not any("pooler" in name for name in info["missing_keys"])
        self._is_video = _accepts_videos(self.model)
        if not self._is_video and not hasattr(self.model, "get_image_features") and self._main_input != "pixel_values":
            raise ValueError(
                f"auto:{model} is a {loaded.config.model_type} model, which accepts neither images nor videos"
            )
        self.trained_frames = _trained_frames(loaded.config) if self._is_video else None
        count = frames or self.trained_frames or (_DEFAULT_VIDEO_FRAMES if self._is_video else _DEFAULT_IMAGE_FRAMES)
        # Processors with a variable number of patches, depending on the aspect ratio, do more than scaling and cropping.
        self._processor = _processor(model) if "max_num_patches" in preprocessor_values(model) else None
        self._settings = None if self._processor else pixel_settings(model, count)
        self.sampling = Sampling(count) if self._processor else self._settings.sampling
        self.dim = self.encode_clips(np.zeros((1, count, *self._dummy_size(), 3), np.uint8)).shape[1]

    @property
    def spec(self) -> str:
        return f"auto:{self.name},frames={self.frames_per_clip}"

    @property
    def _main_input(self) -> str:
        return self.model.main_input_name

    def _dummy_size(self) -> tuple[int, int]:
        short = self.sampling.short_side or 64
        return self.sampling.crop or self.sampling.size or (short, short)

    @torch.no_grad()
    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """Encode `(N, F, H, W, 3)` uint8 frames to `(N, D)` float32.

        Raises:
            ValueError: for a number of frames that the model cannot process.
        """
        try:
            features = self._encode_videos(clips) if self._is_video else self._encode_images(clips)
        except (RuntimeError, ValueError) as error:
            count = clips.shape[1]
            if isinstance(error, torch.OutOfMemoryError) or self.trained_frames in (None, count):
                raise
            # Some models accept any number of frames, others have one position embedding per frame.
            raise ValueError(
                f"auto:{self.name} was trained with {self.trained_frames} frames per clip and does not accept {count} ({error})"
            ) from error
        return features.float().cpu().numpy()

    def _encode_videos(self, clips: np.ndarray) -> torch.Tensor:
        pixels = self._settings.normalize(clips, self.device).to(self.model.dtype)
        if hasattr(self.model, "get_video_features"):
            return self.model.get_video_features(pixel_values_videos=pixels).pooler_output.flatten(1)
        if hasattr(
            self.model, "video_encoder"
        ):  # PE-Video: transformers 5.23 hides its `get_video_features` by mistake.
            return self.model.video_head(self.model.video_encoder(pixel_values_videos=pixels).pooler_output)
        if hasattr(self.model, "get_vision_features"):  # V-JEPA 2, without its predictor.
            return self.model.get_vision_features(pixels).mean(dim=1)
        return self.model(**{self._main_input: pixels}).last_hidden_state.mean(dim=1)

    def _encode_images(self, clips: np.ndarray) -> torch.Tensor:
        frames = clips.reshape(-1, *clips.shape[2:])
        if self._processor:
            inputs = self._processor(list(frames), return_tensors="pt").to(self.device)
        else:
            inputs = {"pixel_values": self._settings.normalize(clips, self.device).flatten(0, 1)}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        outputs = getattr(self.model, "get_image_features", self.model)(**inputs)
        pooled = outputs.pooler_output if self._has_pooler and "pooler_output" in outputs else None
        pooled = outputs.last_hidden_state.mean(dim=1) if pooled is None else pooled.flatten(1)
        return pooled.unflatten(0, clips.shape[:2]).mean(dim=1)


def _processor(model: str):
    from transformers import AutoImageProcessor

    # Always the PIL version, so that features do not depend on whether torchvision is installed.
    return AutoImageProcessor.from_pretrained(model, backend="pil")


def _accepts_videos(model) -> bool:
    return (
        hasattr(model, "get_video_features")
        or hasattr(model, "video_encoder")
        or model.main_input_name == "pixel_values_videos"
        or _trained_frames(model.config) is not None
    )


def _trained_frames(config) -> int | None:
    for part in (config, getattr(config, "vision_config", None), getattr(config, "video_config", None)):
        for name in ("num_frames", "frames_per_clip"):
            if count := getattr(part, name, None):
                return count
    return None


class AutoTextEncoder:
    """Token features from any text model of transformers, e.g. a sentence encoder or a language model.

    Args:
        model (`str`): Hub name or local folder of a model with its tokenizer. For an encoder-decoder, its encoder is used; for a model of
            texts and images, its text model.
        layer (`int`, *optional*): Which hidden states to use, from 0 (the embeddings) to the number of layers (the default). The
            specification always records the layer, since there is no usual choice for language models.
        device (`str`, *optional*): Device of the model; by default a GPU if available.

    Raises:
        ValueError: for a layer that the model does not have.
    """

    def __init__(self, model: str, layer: int | None = None, device: str | None = None):
        from transformers import AutoModel, AutoTokenizer

        self.name, self.device = model, device or default_device()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        loaded = AutoModel.from_pretrained(model, dtype="auto" if self.device != "cpu" else torch.float32)
        if loaded.config.is_encoder_decoder:
            loaded = loaded.get_encoder()
        self.model = getattr(loaded, "text_model", loaded).to(self.device).eval()
        config = self.model.config.get_text_config()
        layers = config.num_hidden_layers
        self.layer = layers if layer is None else layer
        if not 0 <= self.layer <= layers:
            raise ValueError(f"auto:{model} has no layer {self.layer}; choose one of 0 to {layers}")
        self._is_last = self.layer == layers
        self.max_tokens = min(
            self.tokenizer.model_max_length,
            getattr(config, "max_position_embeddings", None) or _MAX_TOKENS,
            _MAX_TOKENS,
        )
        self.dim = config.hidden_size

    @property
    def spec(self) -> str:
        """The specification that rebuilds this encoder."""
        return f"auto:{self.name},layer={self.layer}"

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return token features `(L, dim)` float32 of each text, including special tokens. Long texts are truncated.

        Raises:
            ValueError: for an empty text.
        """
        for text in texts:
            if not text.strip():
                raise ValueError("cannot encode an empty query")
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        outputs = self.model(**tokens, output_hidden_states=not self._is_last)
        states = outputs.last_hidden_state if self._is_last else outputs.hidden_states[self.layer]
        lengths = tokens["attention_mask"].sum(dim=1).tolist()
        return [row[:length] for row, length in zip(states.float().cpu().numpy(), lengths)]
