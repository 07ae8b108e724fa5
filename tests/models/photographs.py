"""Images like photographs, and a network whose statistics are those of one normalisation."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from webdistill.commands.check_teacher import normalisation
from webdistill.models.classifier import Classifier
from webdistill.models.zoo import build

CLASSES = ["ant", "bee", "cat", "dog"]
KNOWN = {candidate.name: candidate for candidate in normalisation.CANDIDATES}


def photographs(count: int, seed: int = 0) -> np.ndarray:
    """[N, 32, 32, 3] uint8: smooth colours with the mean and spread of photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    grey = torch.randn(count, 1, 5, 5, generator=generator)
    smooth = F.interpolate(0.3 * coarse + grey, 32, mode="bilinear")
    values = 0.47 + 0.24 * smooth / smooth.std()
    return (values.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()


def trained_with(
    name: str, images: np.ndarray, border: bool, architecture: str = "resnet8"
) -> Classifier:
    """A network whose BatchNorms remember the images in the normalisation `name`."""
    torch.manual_seed(0)
    net = build(architecture, len(CLASSES))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    if border:  # random crops of images with 4 black pixels around them
        rng = np.random.default_rng(5)
        padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
        images = np.stack(
            [
                p[t : t + 32, u : u + 32]
                for p, (t, u) in zip(padded, rng.integers(0, 9, (len(padded), 2)), strict=True)
            ]
        )
    known = KNOWN[name]
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(known.mean).view(3, 1, 1)) / torch.tensor(known.std).view(3, 1, 1)
    with torch.no_grad():
        net.train()(x)
    return net
