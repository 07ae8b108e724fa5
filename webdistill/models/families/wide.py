"""Wide residual networks for 32 and 64 px (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from webdistill.models.classifier import Classifier, conv, initialise


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus shortcut, as in wide ResNets."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.shortcut = (
            None
            if stride == 1 and inputs == outputs
            else conv(inputs, outputs, kernel=1, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        if self.shortcut is not None:
            x = self.shortcut(out)
        out = self.conv1(out)
        return x + self.conv2(F.relu(self.bn2(out)))


class WideResNet(Classifier):
    """WRN-depth-widen for small images; depth must be 6n + 4."""

    def __init__(self, num_classes: int, depth: int, widen: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv(3, 16)
        channels = 16
        for index, base in enumerate((16, 32, 64), start=1):
            stage = []
            for block in range(blocks):
                stride = 2 if block == 0 and index > 1 else 1
                stage.append(PreActBlock(channels, base * widen, stride))
                channels = base * widen
            self.add_module(f"layer{index}", nn.Sequential(*stage))
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for index in (1, 2, 3):
            x = self.get_submodule(f"layer{index}")(x)
        return F.relu(self.bn(x))
