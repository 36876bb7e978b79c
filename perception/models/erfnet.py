"""ERFNet: a residual encoder-decoder of one-dimensional convolutions for semantic segmentation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.errors import InputError

_BATCH_NORM_EPS = 1e-3
_FEWEST_CHANNELS = 4


class Downsampler(nn.Module):
    """Halve the resolution: a strided convolution beside a max pool, concatenated, normalised, rectified.

    The convolution gives the channels that the pooled input lacks (out - in), so `out_channels > in_channels`.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels - in_channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.norm = nn.BatchNorm2d(out_channels, eps=_BATCH_NORM_EPS)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (frame, in, h, w) to (frame, out, h/2, w/2)."""
        return self.relu(self.norm(torch.cat([self.conv(x), self.pool(x)], dim=1)))


class NonBottleneck1D(nn.Module):
    """Add to the input two factorised 3x3 convolutions (3x1 then 1x3), the second one dilated; rectify the sum."""

    def __init__(self, channels: int, dropout: float, dilation: int) -> None:
        super().__init__()
        self.conv_3x1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.relu_1 = nn.ReLU()
        self.conv_1x3 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.norm_1 = nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS)
        self.relu_2 = nn.ReLU()
        self.conv_3x1_dilated = nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
        self.relu_3 = nn.ReLU()
        self.conv_1x3_dilated = nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))
        self.norm_2 = nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS)
        self.dropout = nn.Dropout2d(dropout) if dropout > 0 else nn.Identity()
        self.relu_out = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (frame, channel, h, w) to the same shape."""
        y = self.relu_1(self.conv_3x1(x))
        y = self.relu_2(self.norm_1(self.conv_1x3(y)))
        y = self.relu_3(self.conv_3x1_dilated(y))
        y = self.norm_2(self.conv_1x3_dilated(y))
        return self.relu_out(self.dropout(y) + x)


class Upsampler(nn.Module):
    """Double the resolution by a transposed convolution, normalised and rectified."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        self.norm = nn.BatchNorm2d(out_channels, eps=_BATCH_NORM_EPS)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (frame, in, h, w) to (frame, out, 2h, 2w)."""
        return self.relu(self.norm(self.conv(x)))


class ERFNet(nn.Module):
    """Segment an image into classes.

    `width` multiplies the widths 16, 64 and 128 (rounded, at least 4). At width 1 and 19 classes the network has
    2,064,191 parameters. The dropout rates are those of the blocks at a quarter and at an eighth of the resolution.
    Weights take PyTorch's default initialisation.

    Raises InputError when a parameter is out of range.
    Source: Romera, Alvarez, Bergasa, Arroyo, "ERFNet", T-ITS 2018; layers as in the authors' PyTorch code, whose
    down-samplers, unlike the Lua ones, have no dropout.
    """

    def __init__(
        self, classes: int, width: float = 1.0, dropout_quarter: float = 0.03, dropout_eighth: float = 0.3
    ) -> None:
        super().__init__()
        _check_arguments(classes, width, dropout_quarter, dropout_eighth)
        self.arguments = {
            "classes": classes,
            "width": width,
            "dropout_quarter": dropout_quarter,
            "dropout_eighth": dropout_eighth,
        }
        half, quarter, eighth = erfnet_widths(width)
        self.encoder = _named(
            downsample_1=Downsampler(3, half),
            downsample_2=Downsampler(half, quarter),
            **_blocks(3, quarter, dropout_quarter, (1,) * 5),
            downsample_8=Downsampler(quarter, eighth),
            **_blocks(9, eighth, dropout_eighth, (2, 4, 8, 16) * 2),
        )
        self.decoder = _named(
            upsample_17=Upsampler(eighth, quarter),
            **_blocks(18, quarter, 0.0, (1, 1)),
            upsample_20=Upsampler(quarter, half),
            **_blocks(21, half, 0.0, (1, 1)),
        )
        self.classifier = nn.ConvTranspose2d(half, classes, 2, stride=2)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (frame, 3, h, w) float to features (frame, round(128 width), h/8, w/8)."""
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (frame, 3, h, w) float in [0, 1] to logits (frame, class, h, w); h and w are multiples of 8."""
        return self.classifier(self.decoder(self.encoder(x)))


def erfnet_widths(width: float) -> tuple[int, int, int]:
    """Give the channels at a half, a quarter and an eighth of the resolution.

    Raises InputError when the width is so small that a down-sampler would not widen.
    """
    half, quarter, eighth = (max(_FEWEST_CHANNELS, round(channels * width)) for channels in (16, 64, 128))
    if not half < quarter < eighth:
        raise InputError(f"width {width}: ERFNet's stages would have {half}, {quarter}, {eighth} channels; use >= 0.08")
    return half, quarter, eighth


def _check_arguments(classes: int, width: float, *dropouts: float) -> None:
    if classes < 1:
        raise InputError(f"classes {classes}: ERFNet needs at least one class; give the taxonomy's number of classes")
    if not 0 < width <= 16:
        raise InputError(f"width {width}: ERFNet's width factor lies in (0, 16]; 1 is the published network")
    for rate in dropouts:
        if not 0 <= rate < 1:
            raise InputError(f"dropout {rate}: a dropout rate lies in [0, 1); the published rates are 0.03 and 0.3")


def _named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _blocks(first: int, channels: int, dropout: float, dilations: Sequence[int]) -> dict[str, nn.Module]:
    """Make blocks that are numbered from `first`."""
    return {f"block_{n}": NonBottleneck1D(channels, dropout, each) for n, each in enumerate(dilations, first)}
