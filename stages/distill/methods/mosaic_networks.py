"""The two networks that MosaicKD trains beside the student: a generator and a patch discriminator.

Layers and widths as in the authors' release for 32 px images. Both only ever run in train mode, so their batch
normalisation keeps no running statistics: there is nothing that a further pass could disturb.
"""

from __future__ import annotations

from torch import Tensor, nn

from stages.distill.methods.doubling import DoublingConv

WIDTH = 64  # channels before the generator's last layer; before that 4 and 2 times as many
PATCH_WIDTH = 128  # channels after the discriminator's first layer


def _norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)


def _double(inputs: int, outputs: int) -> list[nn.Module]:
    """Maps of twice the side."""
    return [DoublingConv(inputs, outputs), _norm(outputs), nn.LeakyReLU(0.2)]


class Generator(nn.Module):
    """Noise [B, latent] -> mosaics [B, 3, image_size, image_size] in the teacher's normalised image space.

    The release ends in a sigmoid and the data set's own mean and deviation. Here the sigmoid is followed by a
    normalisation without weights (our reading): every channel has mean 0 and variance 1 over the batch, as normalised
    images have over the data set.
    """

    def __init__(self, latent: int, image_size: int) -> None:
        super().__init__()
        self.size, self.side = image_size, -(-image_size // 4)
        self.project = nn.Linear(latent, 4 * WIDTH * self.side**2)
        self.layers = nn.Sequential(
            _norm(4 * WIDTH),
            *_double(4 * WIDTH, 2 * WIDTH),
            *_double(2 * WIDTH, WIDTH),
            nn.Conv2d(WIDTH, 3, 3, padding=1),
            nn.Sigmoid(),
        )
        self.standardise = _norm(3, affine=False)

    def forward(self, noise: Tensor) -> Tensor:
        maps = self.project(noise).unflatten(1, (4 * WIDTH, self.side, self.side))
        images = self.layers(maps).float()
        # a size that is no multiple of 4 is cut from the next larger one
        return self.standardise(images[:, :, : self.size, : self.size])


class PatchDiscriminator(nn.Module):
    """Images [B, 3, H, W] -> one logit per patch [B, 1, H // 4, W // 4]: from the pool (> 0) or generated.

    A logit sees 10 x 10 pixels and no more, so that only local patterns are judged (section 3.2 of the paper). The
    normalisation in between shares means and variances over the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, PATCH_WIDTH, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(PATCH_WIDTH, 2 * PATCH_WIDTH, 4, stride=2, padding=1, bias=False),
            _norm(2 * PATCH_WIDTH),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * PATCH_WIDTH, 1, 1, bias=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
