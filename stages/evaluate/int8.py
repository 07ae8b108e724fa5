"""The student in int8: static quantisation of the ONNX export, and the gate it must pass.

Weights are int8, each output channel with a scale of its own, activations uint8 with ranges that were seen on pictures
of the selection (their labels are not needed, so no test image is). There are three ways, and further pictures of the
selection choose between them, on the processor that is there:

- One odd picture can stretch a range until all others share a few steps of it; average extremes avoid that.
- Processors without VNNI add pairs of products in 16 bits, which large weights overflow; 7 bits avoid that, but they
  round twice as coarsely.

The file holds QuantizeLinear / DequantizeLinear pairs (QDQ), which every ONNX runtime with int8 kernels understands;
inputs and outputs stay float32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from stages.evaluate import export, measures
from stages.evaluate.forward import Logits, Pixels, as_input
from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.images.pool import load_images

BATCH = 16  # pictures at a time: all their activations are in memory
WAYS = {  # bits of a weight, and whether ranges are average extremes
    "8-bit weights and the extremes of all pictures": (8, False),
    f"8-bit weights and the average extremes of {BATCH} pictures": (8, True),
    f"7-bit weights and the average extremes of {BATCH} pictures": (7, True),
}
SIGMAS = 3.0  # of the paired difference: what the test images cannot tell from no loss


class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    """Pictures for the ranges of the activations."""

    def __init__(self, images: Pixels) -> None:
        self._batches: Iterator[Pixels] = _batches(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        images = next(self._batches, None)
        return None if images is None else {"images": as_input(images).numpy()}


def _batches(images: Pixels) -> Iterator[Pixels]:
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def calibration_images(pool: Path, selection: Path, count: int, size: int) -> Pixels:
    """`count` pictures spread evenly over the selection, in the order of their ids, [n, size, size, 3]."""
    names = sorted(read_table(selection, ["id"])["id"].to_pylist())
    places = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))
    return load_images(pool, [names[i] for i in places], size, workers=1)[1]


def quantise(source: Path, target: Path, images: Pixels, threads: int) -> str:
    """Write the int8 graph of the float32 one. Same graph, images and processor, same bytes. -> the way, one sentence

    Every second picture is calibrated on. The others choose the way with the smallest KL divergence from float32.
    """
    seen, judged = images[::2], images[1::2] if len(images) > 1 else images
    exact = _answers(source, judged, threads)
    found: dict[str, float] = {}
    for name, (bits, average) in WAYS.items():
        path = target.with_name(f"{target.name}.other")
        _quantise(source, path, seen, bits, average=average)
        found[name] = divergence(exact, _answers(path, judged, threads))
        if min(found, key=found.__getitem__) == name:
            path.replace(target)
        path.unlink(missing_ok=True)
    chosen = min(found, key=found.__getitem__)
    told = ", ".join(f"{value:.4f}" for value in found.values())
    return f"int8: {chosen}; KL from float32 is {found[chosen]:.4f} (three ways: {told})"


def divergence(exact: Logits, found: Logits) -> float:
    """Mean KL divergence in nats of the answers `found` from `exact`, both logits [N, K]."""
    true, other = (measures.log_softmax(each) for each in (exact, found))
    return float((np.exp(true) * (true - other)).sum(axis=1).mean())


def _answers(path: Path, images: Pixels, threads: int) -> Logits:
    graph = export.session(path, threads)
    return np.concatenate([export.run(graph, as_input(part).numpy()) for part in _batches(images)])


def _quantise(source: Path, target: Path, images: Pixels, bits: int, *, average: bool) -> None:
    computed = sizes(onnx.load(source, load_external_data=False).graph)
    with _quiet():
        quantize_static(
            str(source),
            str(target),
            Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=bits < 8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=computed,
            extra_options={"CalibMovingAverage": average},
        )


def sizes(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that compute with sizes of tensors and not with pictures, such as padding that follows them.

    Rounded to a step of their range, sizes would be wrong: maps would lose a row.
    """
    fixed = {each.name for each in graph.initializer} | {""}
    known, found = set[str](), []
    for node in graph.node:  # every node stands behind those that it reads
        read = set(node.input) - fixed
        if not read:
            fixed |= set(node.output)
        elif node.op_type == "Shape" or read <= known:
            known |= set(node.output)
            found.append(node.name)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """The library recommends, through the root logger, steps that change nothing for these graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def check(right: NDArray[np.bool_], exact: NDArray[np.bool_], most: float) -> None:
    """Raises UserError when int8 is wrong where float32 is right, more often than `most` and chance allow.

    `right`, `exact` [N]: whether int8 and float32 give the label of each test image.
    """
    lost = exact.astype(np.float64) - right
    loss, error = float(lost.mean()), float(lost.std() / np.sqrt(len(lost)))
    if loss - SIGMAS * error > most:
        raise UserError(
            f"the int8 student loses {100 * loss:.1f} +- {100 * error:.1f} points of accuracy, evaluate.int8_max_loss "
            f"allows {100 * most:g}: calibrate on more pictures (evaluate.int8_images), accept it by a larger "
            "evaluate.int8_max_loss, or leave int8 out by evaluate.int8_images: 0"
        )
