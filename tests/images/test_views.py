"""Views against naive references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from webdistill.images.views import Views

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def make(count: int = 6, side: int = 8, **changes: float) -> Views:
    generator = torch.Generator().manual_seed(3)
    pool = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)
    settings = {"min_scale": 0.4, "mixup": 0.0} | changes
    return Views(pool, MEAN, STD, seed=5, **settings)


def naive_crop(image: np.ndarray, scale: float, centre: np.ndarray, mirror: float) -> np.ndarray:
    """Float64 loop: bilinear sampling of a crop; pixel centres at (i + 0.5) / side."""
    side = image.shape[0]
    out = np.zeros_like(image, dtype=np.float64)
    for row in range(side):
        for column in range(side):
            u = scale * mirror * ((2 * column + 1) / side - 1) + centre[0] * (1 - scale)
            v = scale * ((2 * row + 1) / side - 1) + centre[1] * (1 - scale)
            x, y = ((u + 1) * side - 1) / 2, ((v + 1) * side - 1) / 2
            x, y = (abs(t + 0.5) - 0.5 if t < -0.5 else t for t in (x, y))
            x, y = (min(max(t, 0), side - 1) for t in (x, y))
            left, top = int(np.floor(x)), int(np.floor(y))
            right, bottom = min(left + 1, side - 1), min(top + 1, side - 1)
            a, b = x - left, y - top
            out[row, column] = (1 - b) * (
                (1 - a) * image[top, left] + a * image[top, right]
            ) + b * ((1 - a) * image[bottom, left] + a * image[bottom, right])
    return out


def denormalise(x: torch.Tensor) -> np.ndarray:
    out = x.double() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return (out * 255).permute(0, 2, 3, 1).numpy()


def test_a_crop_equals_the_naive_loop() -> None:
    views = make()
    got = denormalise(views(2, torch.arange(6)))
    draw = views.draw(2)
    for i in range(6):
        image = views.pool[i].permute(1, 2, 0).numpy().astype(np.float64)
        wanted = naive_crop(
            image, float(draw.scale[i]), draw.centre[i].numpy(), float(draw.mirror[i])
        )
        np.testing.assert_allclose(got[i], wanted, atol=2e-3)


def test_a_shifted_crop_is_the_image_in_whole_pixels_and_its_mirror_beyond() -> None:
    side, shift = 8, 0.25
    views = make(side=side, min_scale=1.0, shift=shift)
    moves = set()
    for number in range(8):
        got = denormalise(views(number, torch.arange(6)))
        draw = views.draw(number)
        for i in range(6):
            image = views.pool[i].permute(1, 2, 0).numpy().astype(np.float64)
            right, down = (round(float(c) * shift * side) for c in draw.centre[i])
            wide = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="symmetric")
            wanted = wide[2 + down : 2 + down + side, 2 + right : 2 + right + side]
            if draw.mirror[i] < 0:
                wanted = wanted[:, ::-1]
            np.testing.assert_allclose(got[i], wanted, atol=2e-3)
            moves |= {right, down}
    assert moves == {-2, -1, 0, 1, 2}


def test_a_view_does_not_depend_on_its_batch() -> None:
    views = make()
    whole = views(3, torch.arange(6))
    assert torch.equal(views(3, torch.tensor([4, 1])), whole[[4, 1]])
    views(0, torch.tensor([0]))
    assert torch.equal(views(3, torch.tensor([5])), whole[[5]])


def test_views_differ_by_number_and_by_seed() -> None:
    views = make()
    assert not torch.equal(views(0, torch.arange(6)), views(1, torch.arange(6)))


def test_whole_crops_without_mixture_are_the_images_or_their_mirrors() -> None:
    views = make(min_scale=1.0)
    got, plain = views(0, torch.arange(6)), views.plain(torch.arange(6))
    mirrored = views.draw(0).mirror < 0
    assert 0 < int(mirrored.sum()) < 6
    wanted = torch.where(mirrored.view(-1, 1, 1, 1), plain.flip(3), plain)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


def test_a_mixture_is_the_weighted_sum_of_two_crops() -> None:
    plain, mixed = make(), make(mixup=0.8)
    draw = mixed.draw(1)
    share = draw.share.view(-1, 1, 1, 1)
    assert float(draw.share.min()) >= 0.6
    assert float(draw.share.max()) <= 1
    base = plain(1, torch.arange(6))  # same seed: same crops
    torch.testing.assert_close(
        mixed(1, torch.arange(6)), share * base + (1 - share) * base[draw.partner]
    )


@pytest.mark.parametrize("area", [0.25, 0.64])
def test_crop_areas_are_uniform_between_min_scale_and_one(area: float) -> None:
    pool = torch.zeros(4000, 2, 2, 3, dtype=torch.uint8)
    scale = Views(pool, MEAN, STD, seed=0, min_scale=area, mixup=0.0).draw(0).scale
    assert float((scale**2).min()) >= area - 1e-6
    assert float((scale**2).mean()) == pytest.approx((1 + area) / 2, abs=0.02)
