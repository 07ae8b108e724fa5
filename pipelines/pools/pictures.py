"""What is done to a picture, noise, and the teacher's answers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from webdistill.images.gate import decode
from webdistill.images.pool import square

SIZE = 64
BLUR = 4.0  # px, standard deviation
NOISE = 60.0  # grey levels, standard deviation
COPIES = 16
BATCH = 250


def blurred(data: bytes, _rng: Generator) -> bytes:
    return _png(square(decode(data), SIZE).filter(ImageFilter.GaussianBlur(BLUR)))


def noisy(data: bytes, rng: Generator) -> bytes:
    pixels = np.asarray(square(decode(data), SIZE), np.float64)
    return _png(_image(pixels + rng.normal(0, NOISE, pixels.shape)))


def copies(data: bytes, rng: Generator) -> list[bytes]:
    """Near-duplicates as the web makes them: cropped by up to 4 px, 10 % brighter or darker, JPEG of some quality."""
    image = square(decode(data), SIZE)
    out = []
    for _ in range(COPIES):
        left, top, right, low = (int(cut) for cut in rng.integers(0, 5, 4))
        part = image.crop((left, top, SIZE - right, SIZE - low)).resize((SIZE, SIZE))
        part = ImageEnhance.Brightness(part).enhance(float(rng.uniform(0.9, 1.1)))
        file = io.BytesIO()
        part.save(file, "JPEG", quality=int(rng.integers(60, 96)))
        out.append(file.getvalue())
    return out


def noise(rng: Generator, *, pink: bool) -> bytes:
    """White: every pixel uniform. Pink: amplitude 1/f in every channel, mean 128, standard deviation 50."""
    if not pink:
        return _png(_image(rng.uniform(0, 256, (SIZE, SIZE, 3)) - 0.5))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    scale = np.where(frequency > 0, 1 / np.where(frequency > 0, frequency, 1), 0)[..., None]
    spectrum = np.fft.fft2(rng.normal(size=(SIZE, SIZE, 3)), axes=(0, 1)) * scale
    field = np.fft.ifft2(spectrum, axes=(0, 1)).real
    return _png(_image(128 + 50 * field / field.std()))


def answers(folder: Path, data: list[bytes]) -> NDArray[np.float64]:
    """The teacher's probabilities [N, K] of encoded pictures."""
    import torch

    from webdistill.models.checkpoint import load_network

    network = load_network(folder)
    card = network.card
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.mean, card.std))
    parts = []
    with torch.inference_mode():
        for start in range(0, len(data), BATCH):
            batch = data[start : start + BATCH]
            pixels = np.stack([np.asarray(square(decode(each), card.image_size)) for each in batch])
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            parts.append(network.net((x - mean) / std).double().softmax(dim=1).numpy())
    return np.concatenate(parts)


def _image(pixels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
