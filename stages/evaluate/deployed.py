"""What is deployed, side by side: teacher, student, its ONNX export and that export in int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import torch

from stages.evaluate import export, int8, latency, measures
from stages.evaluate.forward import Answer, Logits, answering, as_input, logits
from stages.evaluate.results import DIGITS, Outcome
from stages.evaluate.testset import TestSet
from webdistill.core.files import sha256_file, write_json
from webdistill.harness.stage import Stage
from webdistill.models.checkpoint import Given, Network, load_network
from webdistill.models.cost import multiply_adds, parameters

FLOAT = 4  # bytes of a parameter
SPEED = "speed.json"  # of this machine, for `python -m webdistill results`: no output, so it may hold durations


@dataclass(frozen=True)
class Exports:
    """The written files and ONNX Runtime's sessions on them."""

    paths: Mapping[str, Path]  # "onnx", and "int8" unless it is left out
    graphs: Mapping[str, onnxruntime.InferenceSession]


def deployable(network: Network) -> export.Deployable:
    """The network with its normalisation inside."""
    return export.Deployable(network.net, network.card.mean, network.card.std).eval()


def write(stage: Stage, student: Network) -> Exports:
    """student.onnx and, in the folder int8, the same in int8."""
    size, count = student.card.image_size, stage.params.int8_images
    paths = {}
    with stage.output("student.onnx") as path:
        export.export(deployable(student), size, path)
        export.describe(path, student.card.classes, size)
        paths["onnx"] = path
    with stage.output("int8") as path:
        path.mkdir(parents=True, exist_ok=True)
        if count and len(images := _calibration_images(stage, 2 * count, size)):
            paths["int8"] = path / "student_int8.onnx"
            stage.log(int8.quantise(paths["onnx"], paths["int8"], images, stage.task.threads))
            export.describe(paths["int8"], student.card.classes, size)
    for each in paths.values():
        stage.artifact(each)
    graphs = {name: export.session(each, stage.task.threads) for name, each in paths.items()}
    return Exports(paths, graphs)


def _calibration_images(stage: Stage, count: int, size: int) -> np.ndarray:
    """Images of the selection, uint8 (n, 3, size, size); n is 0 where nothing was selected."""
    pool = stage.input("data/fetch/pool")
    selection = stage.input("data/select/selection.parquet")
    images = int8.calibration_images(pool, selection, count, size)
    if not len(images):
        stage.log("no int8 export: nothing was selected, so there is no picture to calibrate it on")
    return images


def twins(student: Network, folder: Path) -> dict[str, Network]:
    """Of a compensated student the answers that it does not export, by their name."""
    if student.card.compensation is None:
        return {}
    others = set(get_args(Given)) - {student.card.compensation.inference}
    return {name: load_network(folder, name) for name in sorted(others)}


def answers(
    stage: Stage,
    test: TestSet,
    networks: Mapping[str, Network],
    exports: Exports,
    device: torch.device,
) -> dict[str, Logits]:
    """One pass over the test set: name -> logits [N, K] of the networks, on the device, and of "int8" where it is."""
    asked: dict[str, Answer] = {
        name: answering(deployable(network), device) for name, network in networks.items()
    }
    if "int8" in exports.graphs:
        asked["int8"] = exported(exports.graphs["int8"])
    batches = stage.progress(test.batches(), total=len(test.ids), label="test images", size=len)
    found = logits(batches, asked)
    for network in networks.values():
        network.net.cpu()
    return found


def exported(graph: onnxruntime.InferenceSession) -> Answer:
    """A graph as a function of pixels."""
    return lambda images: export.run(graph, as_input(images).numpy())


def parity(
    stage: Stage,
    test: TestSet,
    expected: Logits,
    student: Network,
    exports: Exports,
    device: torch.device,
) -> export.Parity:
    """How near the float32 export is to torch on the CPU, for the first test images, of which `expected` has logits."""
    images = test.some(test.ids[: stage.params.parity_images])
    expected = expected[: len(images)]
    if device.type != "cpu":  # it rounds otherwise than the graph's processor
        parts = np.array_split(images, -(-len(images) // export.BATCHES[-1]))
        here = answering(deployable(student), torch.device("cpu"))
        expected = logits(parts, {"student": here})["student"]
    return export.parity(exports.graphs["onnx"], images, expected)


def check(
    stage: Stage, outcome: Outcome, found: Mapping[str, Logits], nearness: export.Parity
) -> None:
    """Both exports against their gates. Raises UserError."""
    right = outcome.student.argmax(1) == outcome.labels
    classes = outcome.student.shape[1]
    export.check(nearness, measures.at_chance(float(right.mean()), len(right), classes))
    if "int8" in found:
        int8.check(found["int8"].argmax(1) == outcome.labels, right, stage.params.int8_max_loss)


def figures(
    outcome: Outcome,
    found: Mapping[str, Logits],
    student: Network,
    teacher: Network,
    exports: Exports,
) -> dict[str, float]:
    """Accuracy of what is no plain student or teacher, and what everything costs.

    What a teacher costs that has no weights of its own, such as an ONNX file, is not known and left out.
    """
    size = student.card.image_size
    own, other = parameters(student.net), parameters(teacher.net)
    values: dict[str, float] = {
        "parameters": own,
        "multiply_adds": multiply_adds(student.net, size),
        "onnx_bytes": exports.paths["onnx"].stat().st_size,
    }
    if other:
        values |= {
            "teacher_parameters": other,
            "parameter_ratio": round(own / other, DIGITS),
            "teacher_multiply_adds": multiply_adds(teacher.net, size),
            "teacher_bytes": FLOAT * other,
        }
    for name in found.keys() - {"student", "teacher"}:
        values[f"{name}_top1"] = round(measures.top_k(found[name], outcome.labels, 1), DIGITS)
    if student.card.compensation is not None:
        right = measures.top_k(outcome.student, outcome.labels, 1)
        values[f"{student.card.compensation.inference}_top1"] = round(right, DIGITS)
    if "int8" in found:
        same = measures.agreement(found["int8"].argmax(1), outcome.student.argmax(1))
        values["int8_agreement"] = round(same, DIGITS)
        values["int8_bytes"] = exports.paths["int8"].stat().st_size
    return values


def speed(stage: Stage, student: Network, teacher: Network, exports: Exports) -> dict[str, float]:
    """Milliseconds on this machine's CPU, tracked, and kept for `python -m webdistill results`."""
    here = torch.device("cpu")
    asked = {
        "teacher": answering(deployable(teacher), here),
        "torch": answering(deployable(student), here),
        **{name: exported(graph) for name, graph in exports.graphs.items()},
    }
    times = latency.latencies(asked, student.card.image_size)
    stage.track_metrics({**times, "latency_threads": stage.task.threads})
    facts = {"student": sha256_file(exports.paths["onnx"]), "threads": stage.task.threads}
    write_json(
        {**facts, **{key: round(value, 3) for key, value in times.items()}}, stage.work / SPEED
    )
    return times


def lines(values: Mapping[str, float], times: Mapping[str, float], threads: int) -> list[str]:
    """The table for the screen."""
    rows = [
        ("", "top-1", "MB", *(f"ms, {batch} image{'s' * (batch > 1)}" for batch in latency.BATCHES))
    ]
    kinds = [
        ("teacher", "teacher_top1", "teacher_bytes", "teacher"),
        ("student", "top1", "onnx_bytes", "torch"),
        ("student, ONNX", "top1", "onnx_bytes", "onnx"),
        ("student, int8", "int8_top1", "int8_bytes", "int8"),
    ]
    for title, top1, size, name in kinds:
        if top1 in values:
            spent = [f"{times[f'latency_{name}_b{batch}_ms']:.2f}" for batch in latency.BATCHES]
            held = f"{values[size] / 1e6:.2f}" if size in values else ""
            rows.append((title, f"{values[top1]:.1%}", held, *spent))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return [*shown, f"ms per call on this machine's CPU, {threads} thread{'s' * (threads > 1)}"]
