"""The student as MLflow serves it: raw images in, class names and probabilities out.

MLflow keeps a copy of this file in the model and runs it there, so it imports nothing of this project.

    model = mlflow.pyfunc.load_model("models:/webdistill-student@latest")
    model.predict({"image": [Path("dog.jpg").read_bytes(), array]})

An image is the bytes of a JPEG, PNG or WebP file (in JSON: base64) or an array [height, width, 3] of uint8. The answer
has one row per image: `class`, its `probability`, and `probabilities` by class name.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from PIL import Image, ImageOps, UnidentifiedImageError

BATCH = 64
MAX_PIXELS = 25_000_000  # read from the header, before decoding


class Student(PythonModel):
    """student.onnx, which takes [N, 3, size, size] float32 in [0, 1] and gives logits, and its card."""

    def load_context(self, context: Any) -> None:
        card = json.loads(Path(context.artifacts["card"]).read_text(encoding="utf-8"))
        self.classes: list[str] = card["classes"]
        self.size: int = card["image_size"]
        self.graph = onnxruntime.InferenceSession(
            context.artifacts["student"], providers=["CPUExecutionProvider"]
        )

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """A column `image` -> one row per image. Raises ValueError with the number of an image that is none."""
        images = list(model_input["image"])
        parts = [
            self._probabilities(images[start : start + BATCH], start)
            for start in range(0, len(images), BATCH)
        ]
        rows = [row for part in parts for row in part.tolist()]
        best = [max(range(len(row)), key=row.__getitem__) for row in rows]
        return pd.DataFrame(
            {
                "class": [self.classes[k] for k in best],
                "probability": [row[k] for row, k in zip(rows, best, strict=True)],
                "probabilities": [dict(zip(self.classes, row, strict=True)) for row in rows],
            }
        )

    def _probabilities(self, images: list[Any], first: int) -> np.ndarray:
        """[N, K] float64 of images, the number of the first of which is `first`."""
        pixels = np.empty((len(images), self.size, self.size, 3), np.uint8)
        for at, image in enumerate(images):
            try:
                pixels[at] = np.asarray(square(as_picture(image), self.size))
            except ValueError as error:
                raise ValueError(f"image {first + at}: {error}") from None
        scaled = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        logits = self.graph.run(["logits"], {"images": scaled})[0].astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def as_picture(image: Any) -> Image.Image:
    """RGB, upright. Raises ValueError for what is no image."""
    if isinstance(image, str):
        try:
            image = base64.b64decode("".join(image.split()), validate=True)
        except binascii.Error:
            raise ValueError("a text must be base64 of a JPEG, PNG or WebP file") from None
    if isinstance(image, bytes | bytearray | memoryview):
        return _decoded(bytes(image))
    pixels = np.asarray(image)
    whole = np.issubdtype(pixels.dtype, np.integer)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or not whole:
        raise ValueError(
            f"expected bytes or uint8 [height, width, 3], found {pixels.dtype} {list(pixels.shape)}"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"expected values 0-255, found {pixels.min()} to {pixels.max()}")
    return Image.fromarray(pixels.astype(np.uint8))


def _decoded(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} px are more than {MAX_PIXELS:,}; shrink it"
                )
            upright: Image.Image = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"no JPEG, PNG or WebP that can be decoded: {error}") from None


def square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size` px (bicubic, antialiased), then the centre, as `evaluate` does."""
    short = min(image.size)
    if short != size:
        width, height = (max(size, round(side * size / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


set_model(Student())
