"""Residual networks with pre-activation for small images."""

from __future__ import annotations

from torch import Tensor, nn

from perception.errors import InputError


class PreActivationBlock(nn.Module):
    """Add to the input two 3x3 convolutions, each after normalisation and rectification."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm_1 = nn.BatchNorm2d(in_channels)
        self.relu_1 = nn.ReLU()
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(out_channels)
        self.relu_2 = nn.ReLU()
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.projects = stride != 1 or in_channels != out_channels
        if self.projects:
            self.projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (frame, in, h, w) to (frame, out, h/stride, w/stride)."""
        activated = self.relu_1(self.norm_1(x))
        shortcut = self.projection(activated) if self.projects else x
        return self.conv_2(self.relu_2(self.norm_2(self.conv_1(activated)))) + shortcut


class ResNet18(nn.Module):
    """Classify small images: blocks 2-2-2-2 at 1, 2, 4 and 8 times `channels`, and a 3x3 stem of stride 1.

    At 64 channels, 10 classes and RGB the network has 11,172,170 parameters.
    Raises InputError when a parameter is out of range.
    Source: He, Zhang, Ren, Sun, "Identity mappings in deep residual networks", ECCV 2016, with the CIFAR stem.
    """

    def __init__(self, classes: int, channels: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        if min(classes, channels, in_channels) < 1:
            raise InputError(f"ResNet18: classes {classes}, channels {channels}, in_channels {in_channels}; each >= 1")
        self.arguments = {"classes": classes, "channels": channels, "in_channels": in_channels}
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        stages, width = [], channels
        for stride in (1, 2, 2, 2):
            wider = width if stride == 1 else 2 * width
            stages.append(nn.Sequential(PreActivationBlock(width, wider, stride), PreActivationBlock(wider, wider, 1)))
            width = wider
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(width, classes)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (frame, in, h, w) float to features (frame, 8 channels, h/8, w/8)."""
        return self.relu(self.norm(self.stages(self.stem(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (frame, in, h, w) float to logits (frame, class)."""
        return self.classifier(self.flatten(self.pool(self.encode(x))))
