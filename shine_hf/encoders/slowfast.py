"""SlowFast R50 8x8, whose 2,304 channels are the motion features of QVHighlights and most later work.

The modules have the names of PySlowFast (github.com/facebookresearch/SlowFast), so that its weights load. Weights of PyTorchVideo are
renamed. The network is implemented here because both libraries are large and unmaintained.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from ..io import content_fault
from .auto import default_device
from .pixel_settings import PixelSettings
from .sampling import Sampling
from .video_base import VideoEncoder

FAST_FRAMES, ALPHA = 32, 4
_BLOCKS = (3, 4, 6, 3)
_INNER = ((64, 128, 256, 512), (8, 16, 32, 64))
# Temporal kernel size of the first convolution of a block, per pathway and stage.
_TEMPORAL = ((1, 1, 3, 3), (3, 3, 3, 3))


class SlowFastEncoder(VideoEncoder):
    """Features of SlowFast R50 8x8 before its classifier: 2,048 of the slow pathway and 256 of the fast one.

    As in HERO's extractor, which produced the features of QVHighlights, the fast pathway gets 32 frames of a clip and the slow one 8 of them,
    with a center crop of 224 x 224 pixels. There, the first of the 32 frames is the first of the clip; here, the frames are taken from the
    middle of 32 equal parts.

    Args:
        weights (`str`): A weights file from PySlowFast or PyTorchVideo (`.pyth`, `.pth`, `.pt`, `.safetensors`), or a Hub repository with one.
        device (`str`, *optional*): Device of the model; by default a GPU if available.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for weights of another network.
    """

    batch_clips = 4
    dim = 2304

    def __init__(self, weights: str, device: str | None = None):
        self.name, self.device = weights, device or default_device()
        self.settings = PixelSettings(
            Sampling(FAST_FRAMES, short_side=224, crop=(224, 224), interpolation="BICUBIC", strictly_before=True),
            mean=(0.45,) * 3,
            std=(0.225,) * 3,
        )
        self.sampling = self.settings.sampling
        self.model = SlowFast()
        self.model.load_weights(_find(weights))
        self.model.to(self.device).eval()

    @property
    def spec(self) -> str:
        return f"slowfast:{self.name}"

    @torch.no_grad()
    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """Encode `(N, 32, H, W, 3)` uint8 frames to `(N, 2304)` float32."""
        fast = self.settings.normalize(clips, self.device).transpose(1, 2)
        return self.model(fast).float().cpu().numpy()


class SlowFast(nn.Module):
    """The network without its classifier (Feichtenhofer et al., SlowFast Networks for Video Recognition, ICCV 2019)."""

    def __init__(self):
        super().__init__()
        self.s1 = nn.ModuleDict({"pathway0_stem": _Stem(64, 1), "pathway1_stem": _Stem(8, 5)})
        self.s1_fuse = _Fuse(8)
        slow, fast = 64 + 16, 8
        for index, blocks in enumerate(_BLOCKS):
            inner = [widths[index] for widths in _INNER]
            stage = nn.ModuleDict()
            for pathway, (width, dim) in enumerate(zip((slow, fast), inner)):
                for block in range(blocks):
                    stage[f"pathway{pathway}_res{block}"] = _Block(
                        width if block == 0 else 4 * dim,
                        dim,
                        _TEMPORAL[pathway][index],
                        2 if index and not block else 1,
                    )
            setattr(self, f"s{index + 2}", stage)
            slow, fast = 4 * inner[0], 4 * inner[1]
            if index < 3:
                setattr(self, f"s{index + 2}_fuse", _Fuse(fast))
                slow += 2 * fast

    def forward(self, fast: torch.Tensor) -> torch.Tensor:
        """Encode normalized frames `(N, 3, 32, H, W)` to `(N, 2304)`."""
        frames = fast.shape[2]
        # The same frames that PySlowFast selects for the slow pathway.
        chosen = torch.linspace(0, frames - 1, frames // ALPHA).long().to(fast.device)
        slow = self.s1["pathway0_stem"](fast.index_select(2, chosen))
        fast = self.s1["pathway1_stem"](fast)
        slow = self.s1_fuse(slow, fast)
        for index, blocks in enumerate(_BLOCKS):
            stage = getattr(self, f"s{index + 2}")
            for block in range(blocks):
                slow, fast = stage[f"pathway0_res{block}"](slow), stage[f"pathway1_res{block}"](fast)
            if index < 3:
                slow = getattr(self, f"s{index + 2}_fuse")(slow, fast)
        return torch.cat([slow.mean(dim=(2, 3, 4)), fast.mean(dim=(2, 3, 4))], dim=1)

    def load_weights(self, path: Path) -> None:
        """Load a file of PySlowFast or PyTorchVideo, without its classifier.

        Raises:
            ValueError: for a file that cannot be read without running code, or weights of another network.
        """
        weights = _read(path)
        weights = {_pyslowfast_name(name): tensor for name, tensor in weights.items()}
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{path} does not contain the weights of SlowFast R50 8x8: {str(error)[:300]}") from error


class _Stem(nn.Sequential):
    def __init__(self, width: int, frames: int):
        conv = nn.Conv3d(3, width, (frames, 7, 7), (1, 2, 2), (frames // 2, 3, 3), bias=False)
        layers = {"conv": conv, "bn": nn.BatchNorm3d(width), "relu": nn.ReLU()}
        super().__init__(OrderedDict(layers, pool_layer=nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))))


class _Fuse(nn.Module):
    """The lateral connection: concatenates the states of the fast pathway to those of the slow one."""

    def __init__(self, width: int):
        super().__init__()
        self.conv_f2s = nn.Conv3d(width, 2 * width, (7, 1, 1), (ALPHA, 1, 1), (3, 0, 0), bias=False)
        self.bn = nn.BatchNorm3d(2 * width)

    def forward(self, slow: torch.Tensor, fast: torch.Tensor) -> torch.Tensor:
        return torch.cat([slow, self.bn(self.conv_f2s(fast)).relu()], dim=1)


class _Block(nn.Module):
    """A bottleneck block."""

    def __init__(self, width: int, inner: int, frames: int, stride: int):
        super().__init__()
        if width != 4 * inner or stride > 1:
            self.branch1 = nn.Conv3d(width, 4 * inner, 1, (1, stride, stride), bias=False)
            self.branch1_bn = nn.BatchNorm3d(4 * inner)
        else:
            self.branch1 = None
        layers = OrderedDict(
            a=nn.Conv3d(width, inner, (frames, 1, 1), 1, (frames // 2, 0, 0), bias=False),
            a_bn=nn.BatchNorm3d(inner),
            a_relu=nn.ReLU(),
            b=nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            b_bn=nn.BatchNorm3d(inner),
            b_relu=nn.ReLU(),
            c=nn.Conv3d(inner, 4 * inner, 1, bias=False),
            c_bn=nn.BatchNorm3d(4 * inner),
        )
        self.branch2 = nn.Sequential(layers)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        shortcut = states if self.branch1 is None else self.branch1_bn(self.branch1(states))
        return (shortcut + self.branch2(states)).relu()


# PyTorchVideo -> PySlowFast. Block 0 is the stems, 1 to 4 are the stages, each with its fusion, 5 is the pooling and 6 the classifier.
_RENAMED = (
    (r"^blocks\.0\.multipathway_blocks\.(\d)\.conv\.", r"s1.pathway\1_stem.conv."),
    (r"^blocks\.0\.multipathway_blocks\.(\d)\.norm\.", r"s1.pathway\1_stem.bn."),
    (r"^blocks\.(\d)\.multipathway_fusion\.conv_fast_to_slow\.", lambda m: f"s{int(m[1]) + 1}_fuse.conv_f2s."),
    (r"^blocks\.(\d)\.multipathway_fusion\.norm\.", lambda m: f"s{int(m[1]) + 1}_fuse.bn."),
    (
        r"^blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.",
        lambda m: f"s{int(m[1]) + 1}.pathway{m[2]}_res{m[3]}.",
    ),
    (r"^blocks\.6\.proj\.", "head.projection."),
    (r"\.branch1_conv\.", ".branch1."),
    (r"\.branch1_norm\.", ".branch1_bn."),
    (r"\.branch2\.conv_([abc])\.", r".branch2.\1."),
    (r"\.branch2\.norm_([abc])\.", r".branch2.\1_bn."),
)


def _pyslowfast_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _find(weights: str) -> Path:
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.exists() or weights.count("/") != 1 or path.suffix:
        raise FileNotFoundError(
            f"no file of SlowFast weights {weights}. Download SLOWFAST_8x8_R50.pyth from the model zoo of PySlowFast "
            "(github.com/facebookresearch/SlowFast), and pass its path as the video encoder slowfast:PATH"
        )
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download

    try:
        files = HfApi().list_repo_files(weights)
        names = [name for name in files if name.endswith((".safetensors", ".pyth", ".pth", ".pt"))]
        if len(names) == 1:
            return Path(hf_hub_download(weights, names[0]))
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise FileNotFoundError(
            f"{weights} is neither a file of SlowFast weights nor a readable repository on the Hub: {error}"
        ) from error
    raise FileNotFoundError(f"{weights} must contain a single file of weights; found {', '.join(names) or 'none'}")


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Unpickling may fail in any way, e.g. for PySlowFast's oldest weights, which are Caffe2 pickles.
        with path.open("rb") as file:
            fault = content_fault(file) or "Caffe2 files (.pkl) are not supported, use the .pyth file"
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__}): {fault}") from error
    return content.get("model_state", content.get("state_dict", content)) if isinstance(content, dict) else {}
