"""Networks of one-dimensional convolutions: a vertical one, then a horizontal one, in place of a square one."""

from __future__ import annotations

from torch import Tensor, nn

from perception.errors import InputError


class DecomposedConv(nn.Module):
    """Convolve by a d x 1 kernel, rectify, convolve by a 1 x d kernel, rectify; stride 1, the size is kept.

    `inner_channels` of the vertical convolution default to `out_channels`. Without the inner rectifier the pair is one
    convolution by the separable kernels sum_l h_l (x) v_l. Parameters: d (in inner + inner out) + inner + out, against
    d^2 in out + out of the square convolution.
    Source: Alvarez, Petersson, "DecomposeMe", arXiv 1606.05426.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        inner_channels: int | None = None,
        inner_relu: bool = True,
    ) -> None:
        super().__init__()
        inner = inner_channels or out_channels
        # An even kernel pads one pixel more at the end, which only "same" can say.
        padding: tuple[str, str] | tuple[tuple[int, int], tuple[int, int]] = (
            ((kernel // 2, 0), (0, kernel // 2)) if kernel % 2 else ("same", "same")
        )
        self.vertical = nn.Conv2d(in_channels, inner, (kernel, 1), padding=padding[0])
        self.relu_1 = nn.ReLU() if inner_relu else nn.Identity()
        self.horizontal = nn.Conv2d(inner, out_channels, (1, kernel), padding=padding[1])
        self.relu_2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (frame, in, h, w) to (frame, out, h, w)."""
        return self.relu_2(self.horizontal(self.relu_1(self.vertical(x))))


class Dec3(nn.Module):
    """Classify characters by three decomposed convolutions, each max-pooled by 2, and one linear layer.

    Channels 96-128, 256-512, 512-512 and kernels 9, 9, 8 are a template: the papers give six one-dimensional layers,
    pooling and the last two widths, but no table. 6,077,284 parameters at 36 classes and 32x32 grey images.
    Raises InputError when a parameter is out of range.
    Source: Alvarez, Salzmann, "Learning the number of neurons in deep networks", NIPS 2016.
    """

    def __init__(self, classes: int, in_channels: int = 1, image_px: int = 32, width: float = 1.0) -> None:
        super().__init__()
        _check("Dec3", classes, in_channels, width)
        if image_px < 8:
            raise InputError(f"Dec3: image_px {image_px}; three poolings need at least 8")
        self.arguments = {"classes": classes, "in_channels": in_channels, "image_px": image_px, "width": width}
        c96, c128, c256, c512 = (max(1, round(channels * width)) for channels in (96, 128, 256, 512))
        self.features = nn.Sequential(
            DecomposedConv(in_channels, c128, 9, inner_channels=c96),
            nn.MaxPool2d(2),
            DecomposedConv(c128, c512, 9, inner_channels=c256),
            nn.MaxPool2d(2),
            DecomposedConv(c512, c512, 8),
            nn.MaxPool2d(2),
        )
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(c512 * (image_px // 8) ** 2, classes)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (frame, in, h, w) float to features (frame, 512 width, h/8, w/8)."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (frame, in, image_px, image_px) float to logits (frame, class)."""
        return self.classifier(self.flatten(self.features(x)))


class Dec8(nn.Module):
    """Classify natural images by eight decomposed 3x3 convolutions, global average pooling and one linear layer.

    Channels 64, 128, 256, 256 and four times `widest`, pooled by 2 after the pairs 1, 2, 4, 6, are a template: the
    papers give 16 one-dimensional layers of at most 512 (or 640, 768) channels, but no table. Parameters at 1000
    classes: 7,191,464 at 512 and 14,527,400 at 768 (the paper's figures imply about 16.0 million).
    Raises InputError when a parameter is out of range.
    Source: Alvarez, Salzmann, "Learning the number of neurons in deep networks", NIPS 2016.
    """

    def __init__(self, classes: int, widest: int = 512, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        _check("Dec8", classes, min(widest, in_channels), width)
        self.arguments = {"classes": classes, "widest": widest, "in_channels": in_channels, "width": width}
        layers: list[nn.Module] = []
        previous = in_channels
        for number, channels in enumerate((64, 128, 256, 256, widest, widest, widest, widest), start=1):
            following = max(1, round(channels * width))
            layers.append(DecomposedConv(previous, following, 3))
            if number in (1, 2, 4, 6):
                layers.append(nn.MaxPool2d(2))
            previous = following
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(previous, classes)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (frame, in, h, w) float to features (frame, widest, h/16, w/16)."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (frame, in, h, w) float, at least 16 px each way, to logits (frame, class)."""
        return self.classifier(self.flatten(self.pool(self.features(x))))


def _check(name: str, classes: int, in_channels: int, width: float) -> None:
    if min(classes, in_channels) < 1 or not 0 < width <= 16:
        raise InputError(f"{name}: classes and channels are at least 1 and width in (0, 16], not {width}; correct them")
