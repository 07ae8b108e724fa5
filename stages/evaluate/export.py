"""ONNX export of the student with its normalisation inside, and the gate it must pass.

The graph takes `images` [batch, 3, size, size] float32 in [0, 1] and gives `logits` [batch, K] float32;
`batch` is free. Weights keep their names. Equal weights give equal bytes. What the outputs mean and how a picture
becomes an input stands in the file's own metadata, so that it can travel alone.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.evaluate.forward import Pixels, as_input
from webdistill.core.errors import UserError

OPSET = 17
MAX_DIFFERENCE = 1e-4  # of an image's logits, as a share of its largest one, fp32
UNDECIDED = 0.01  # share of undecided images from which on a student counts as hardly trained
BATCHES = (1, 7, 256)  # sizes the gate runs the graph with: the batch axis must really be free


class Deployable(nn.Module):
    """A network that takes images in [0, 1] and normalises them itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] float32 in [0, 1] -> logits [B, K]."""
        logits: Tensor = self.net((images - self.mean) / self.std)
        return logits


@dataclass(frozen=True)
class Parity:
    """How far the exported graph is from torch on `images` test images."""

    images: int
    difference: float  # largest absolute difference of any logit
    relative: float  # the same as a share of the image's largest logit, the worst image
    agreement: float  # share of equal top-1 classes
    undecided: float  # share of images whose two largest logits are nearer than the gate can tell


def export(net: Deployable, image_size: int, path: Path) -> None:
    """Write the ONNX file. `net` must be in eval mode."""
    example = torch.zeros(2, 3, image_size, image_size)
    with warnings.catch_warnings():
        # The TorchScript exporter is announced as the older one; unlike its successor it needs no further
        # package and keeps weight names, and its bytes do not depend on where or when it runs.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (example,),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
        )


def describe(path: Path, classes: Sequence[str], image_size: int) -> None:
    """Say in the file's metadata what `python -m webdistill predict` and others need to know."""
    model = onnx.load(path)
    facts = {
        "classes": json.dumps(list(classes)),
        "image_size": str(image_size),
        "preprocessing": (
            f"decode to RGB, upright, transparency over white; shorter side to {image_size} px, bicubic, antialiased; "
            f"centre {image_size} x {image_size}; divide by 255; the graph subtracts mean and divides by std itself"
        ),
    }
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU with a fixed number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads would keep the processor busy between its own runs, while torch or another graph is at work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(graph: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images [B, 3, H, W] -> logits [B, K]."""
    return np.asarray(graph.run(["logits"], {"images": images})[0])


def parity(
    graph: onnxruntime.InferenceSession, images: Pixels, expected: NDArray[np.float32]
) -> Parity:
    """Compare the graph with torch's logits `expected` [N, K] on `images` [N, H, W, 3] uint8."""
    edges = [sum(BATCHES[:n]) for n in range(len(BATCHES))]
    edges += range(edges[-1] + BATCHES[-1], len(images), BATCHES[-1])
    parts = [
        run(graph, as_input(part).numpy()) for part in np.split(images, edges[1:]) if len(part)
    ]
    return compare(np.concatenate(parts), expected)


def compare(found: NDArray[np.float32], expected: NDArray[np.float32]) -> Parity:
    """Logits [N, K] of the graph against torch's."""
    known = expected.astype(np.float64)
    gaps = np.abs(found - known).max(axis=1)
    size = np.abs(known).max(axis=1)
    top = np.sort(known, axis=1)[:, -2:]
    return Parity(
        images=len(known),
        difference=float(gaps.max()),
        relative=float((gaps / np.where(size > 0, size, 1)).max()),
        agreement=float((found.argmax(1) == known.argmax(1)).mean()),
        # Each of the two may move by the allowed difference.
        undecided=float((top[:, 1] - top[:, 0] <= 2 * MAX_DIFFERENCE * size).mean()),
    )


def check(result: Parity, hardly_trained: bool) -> None:
    """Raises UserError when the export is not the student.

    Where no logit moves further than allowed, the classes can differ on undecided images alone. Activations of a
    student that has hardly learnt can be so large that rounding shows; `hardly_trained` names that cause first.
    """
    if result.relative <= MAX_DIFFERENCE:  # written so that a NaN fails
        return
    cause = (
        "the likely cause is a student that has hardly learnt, train longer (distill.epochs) and look again; "
        if hardly_trained or result.undecided > UNDECIDED
        else ""
    )
    raise UserError(
        f"ONNX export is not the student: {cause}expected logits that differ by at most {MAX_DIFFERENCE:g} of the "
        f"image's largest one, found {result.relative:.3g} ({result.difference:.3g}; top-1 equal on "
        f"{result.agreement:.2%} of {result.images} images); try another onnxruntime, or report the architecture in "
        "student/config.json"
    )
