"""ONNX export of the student with its normalisation inside, and the gate it must pass.

The graph takes `images` [batch, 3, size, size] float32 in [0, 1] and gives `logits` [batch, K] float32;
`batch` is free. Weights keep their names. Equal weights give equal bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from webdistill.core.errors import UserError

OPSET = 17
MAX_DIFFERENCE = 1e-4  # of logits, absolute, fp32
MIN_AGREEMENT = 0.999  # of top-1
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
    agreement: float  # share of equal top-1 classes


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


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU with a fixed number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(graph: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images [B, 3, H, W] -> logits [B, K]."""
    return np.asarray(graph.run(["logits"], {"images": images})[0])


def parity(
    graph: onnxruntime.InferenceSession, images: NDArray[np.float32], expected: NDArray[np.float32]
) -> Parity:
    """Compare the graph with torch's logits `expected` [N, K] on `images` [N, 3, H, W]."""
    parts, start = [], 0
    for size in BATCHES:
        parts.append(run(graph, images[start : start + size]))
        start += len(parts[-1])
    parts += [
        run(graph, images[first : first + BATCHES[-1]])
        for first in range(start, len(images), BATCHES[-1])
    ]
    found = np.concatenate(parts)
    return Parity(
        images=len(images),
        difference=float(np.abs(found.astype(np.float64) - expected).max()),
        agreement=float((found.argmax(1) == expected.argmax(1)).mean()),
    )


def check(result: Parity) -> None:
    """Raises UserError when the export is not the student."""
    # Written so that a NaN fails.
    if not (result.difference <= MAX_DIFFERENCE and result.agreement >= MIN_AGREEMENT):
        raise UserError(
            f"ONNX export is not the student: expected a largest difference <= {MAX_DIFFERENCE:g} and top-1 "
            f"agreement >= {MIN_AGREEMENT:.1%}, found {result.difference:.3g} and {result.agreement:.2%} on "
            f"{result.images} images; try another onnxruntime, or report the architecture in student/config.json"
        )
