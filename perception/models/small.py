"""Small classifiers: the compact networks that are expanded for training, and a multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from perception.errors import InputError

_KERNELS = (3, 5, 7, 9)


class SmallNet(nn.Module):
    """Classify small images by three convolutions (8, 16, 32 channels), each pooled, and two linear layers.

    A 3x3 kernel is not padded, a larger one keeps the size. With 10 classes and 32x32 RGB images the network has
    15,050 parameters at kernel 3 and 66,186 at kernel 7. Raises InputError when a parameter is out of range.
    Source: Guo, Alvarez, Salzmann, "ExpandNets", NeurIPS 2020, the authors' code.
    """

    def __init__(self, classes: int, kernel: int = 3, in_channels: int = 3, image_px: int = 32) -> None:
        super().__init__()
        padding = 0 if kernel == 3 else kernel // 2
        side = image_px
        for _ in range(3):
            side = (side - kernel + 1 + 2 * padding) // 2
        if kernel not in _KERNELS or min(classes, in_channels, side) < 1:
            raise InputError(
                f"SmallNet: classes {classes}, kernel {kernel}, in_channels {in_channels}, image_px {image_px}; "
                f"kernel is one of {_KERNELS}, the others at least 1 and the image at least 22 px"
            )
        self.arguments = {"classes": classes, "kernel": kernel, "in_channels": in_channels, "image_px": image_px}
        layers: list[nn.Module] = []
        for inputs, outputs in ((in_channels, 8), (8, 16), (16, 32)):
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(32 * side * side, 64), nn.ReLU(), nn.Linear(64, classes)
        )

    def encode(self, x: Tensor) -> Tensor:
        """Map images (frame, in, h, w) float to features (frame, 32, side, side)."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (frame, in, image_px, image_px) float to logits (frame, class)."""
        return self.classifier(self.features(x))


class MLP(nn.Module):
    """Classify flattened inputs by linear layers with rectifiers between them.

    Raises InputError when a size is below 1.
    """

    def __init__(self, inputs: int, classes: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        if min(inputs, classes, *hidden) < 1:
            raise InputError(
                f"MLP: inputs {inputs}, classes {classes}, hidden {tuple(hidden)}; each size is at least 1"
            )
        self.arguments = {"inputs": inputs, "classes": classes, "hidden": list(hidden)}
        layers: list[nn.Module] = [nn.Flatten()]
        for size, following in zip((inputs, *hidden), hidden, strict=False):
            layers += [nn.Linear(size, following), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear((inputs, *hidden)[-1], classes)

    def encode(self, x: Tensor) -> Tensor:
        """Map inputs (frame, ...) float to features (frame, last hidden size)."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (frame, ...) float to logits (frame, class)."""
        return self.classifier(self.features(x))
