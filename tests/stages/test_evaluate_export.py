"""The exports of evaluate against torch, in float32 and int8, and the gate between them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from stages.evaluate import export, int8
from stages.evaluate.forward import answering, as_input, logits
from webdistill.core.errors import UserError
from webdistill.models.zoo import build

CLASSES = tuple(f"class {i}" for i in range(7))


def test_export_is_the_student_at_any_batch_size_and_has_equal_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = export.Deployable(build("resnet8", 7), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)).eval()
    paths = [tmp_path / "a.onnx", tmp_path / "other" / "b.onnx"]
    paths[1].parent.mkdir()
    for path in paths:
        export.export(net, 32, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    batches = [images[:7], images[7:]]
    expected = logits(batches, {"net": answering(net, torch.device("cpu"))})["net"]
    by_hand = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.25])
    with torch.inference_mode():
        plain = net.net(torch.from_numpy(by_hand.transpose(0, 3, 1, 2)).float())
    assert np.abs(plain.numpy() - expected).max() < 1e-4
    graph = export.session(paths[0], 1)
    for size in (1, 7, 20):
        found = export.run(graph, as_input(images[:size]).numpy())
        assert found.shape == (size, 7)
        assert np.abs(found - expected[:size]).max() <= 1e-4
    result = export.parity(graph, images, expected)
    assert (result.images, result.agreement) == (20, 1.0)
    export.check(result, hardly_trained=False)


def test_a_file_says_what_its_outputs_mean_and_how_to_make_its_input(tmp_path: Path) -> None:
    net = export.Deployable(build("resnet8", 7), (0.5,) * 3, (0.2,) * 3).eval()
    export.export(net, 32, tmp_path / "a.onnx")
    export.describe(tmp_path / "a.onnx", CLASSES, 32)
    facts = export.session(tmp_path / "a.onnx", 1).get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert facts["image_size"] == "32"
    assert "shorter side to 32 px, bicubic" in facts["preprocessing"]


def test_the_gate_is_relative_to_the_size_of_the_logits() -> None:
    values = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
    for factor in (1e-3, 1.0, 1e5):
        near = (values * np.float32(factor)).astype(np.float32)
        export.check(export.compare(near * np.float32(1 + 5e-5), near), hardly_trained=False)
        with pytest.raises(UserError, match="ONNX export is not the student: expected"):
            export.check(export.compare(near * np.float32(1 + 5e-4), near), hardly_trained=False)
    broken = values.copy()
    broken[3, 2] = np.nan
    with pytest.raises(UserError, match="ONNX export is not the student"):
        export.check(export.compare(broken, values), hardly_trained=False)


def test_a_hardly_trained_student_is_the_first_cause_that_is_named() -> None:
    values = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32) * 3
    off = values * np.float32(1.01)
    flat = np.ones_like(values)
    first = "ONNX export is not the student: the likely cause is a student that has hardly learnt"
    with pytest.raises(UserError, match=first):
        export.check(export.compare(off, values), hardly_trained=True)
    with pytest.raises(UserError, match=first):
        export.check(export.compare(flat * 1.01, flat), hardly_trained=False)
    # Other classes where no logit moves further than allowed: nothing is wrong with the export.
    random = np.random.default_rng(0).normal(size=flat.shape)
    equal = export.compare(flat + 1e-6 * random.astype(np.float32), flat)
    assert equal.agreement < 0.5
    export.check(equal, hardly_trained=True)


def padded() -> torch.nn.Module:
    """A network whose padding follows the size of its maps, as that of timm's `tf_` networks does."""
    from timm.layers import Conv2dSame

    torch.manual_seed(0)
    layers = [Conv2dSame(a, 8, 3, stride=2, bias=True) for a in (3, 8, 8)]
    parts = [part for layer in layers for part in (layer, torch.nn.ReLU())]
    ends = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4))
    return torch.nn.Sequential(*parts, *ends)


def test_int8_leaves_the_arithmetic_of_sizes_alone(tmp_path: Path) -> None:
    net = export.Deployable(padded(), [0.5] * 3, [0.5] * 3).eval()
    exact, small = tmp_path / "exact.onnx", tmp_path / "int8.onnx"
    export.export(net, 51, exact)
    graph = onnx.load(exact).graph
    kinds = {node.name: node.op_type for node in graph.node}
    computed = {kinds[name] for name in int8.sizes(graph)}
    assert {"Shape", "Add"} <= computed
    assert not computed & {"Conv", "Relu", "Pad", "Gemm", "GlobalAveragePool"}
    images = np.random.default_rng(0).integers(0, 256, (32, 51, 51, 3), np.uint8)
    int8.quantise(exact, small, images, 1)
    rounded = onnx.load(small).graph
    left = {node.name: node.op_type for node in rounded.node}
    assert "QuantizeLinear" in left.values()
    assert "QuantizeLinear" not in {left[name] for name in int8.sizes(rounded)}
    told, near = (
        export.session(path, 1).run(None, {"images": as_input(images).numpy()})[0]
        for path in (exact, small)
    )
    assert np.abs(near - told).max() < 0.1 * told.std()


def test_divergence_is_that_of_a_loop() -> None:
    exact, found = np.random.default_rng(0).normal(size=(2, 5, 3))
    total = 0.0
    for a, b in zip(exact, found, strict=True):
        p, q = (np.exp(x) / np.exp(x).sum() for x in (a, b))
        total += sum(p[k] * np.log(p[k] / q[k]) for k in range(3))
    assert int8.divergence(exact, found) == pytest.approx(total / 5, rel=1e-12)


@pytest.mark.parametrize(
    ("bright", "best"), [([0], "average extremes"), (range(1, 128, 2), "extremes of all")]
)
def test_other_pictures_choose_the_int8_ranges(
    tmp_path: Path, bright: Sequence[int], best: str
) -> None:
    net = padded()
    net[-1].weight.data *= 100
    exact, small = tmp_path / "exact.onnx", tmp_path / "int8.onnx"
    export.export(export.Deployable(net, [0.0] * 3, [0.1] * 3).eval(), 19, exact)
    images = np.random.default_rng(0).integers(0, 4, (128, 19, 19, 3), np.uint8)
    images[[0, *bright]] *= 85  # the first is calibrated on
    told = int8.quantise(exact, small, images, 1)
    assert re.match(f"int8: [78]-bit weights and the ({best} |same)", told)
    whole, *averages = map(float, re.findall(r"[\d.]+", told.partition("ways: ")[2]))
    best_average = min(averages)
    assert (best_average < whole / 2) is best.startswith("average")
    assert (whole < best_average / 2) is best.startswith("extremes")
    assert f"KL from float32 is {min(whole, best_average):.4f} " in told
    assert [path.name for path in tmp_path.iterdir() if "int8" in path.name] == ["int8.onnx"]


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (7, 64)])
def test_weights_have_as_many_bits_as_they_may(tmp_path: Path, bits: int, largest: int) -> None:
    exact, small = tmp_path / "exact.onnx", tmp_path / "int8.onnx"
    export.export(export.Deployable(padded(), [0.5] * 3, [0.5] * 3).eval(), 19, exact)
    images = np.random.default_rng(0).integers(0, 256, (16, 19, 19, 3), np.uint8)
    int8._quantise(exact, small, images, bits, average=False)
    weights = [
        onnx.numpy_helper.to_array(each)
        for each in onnx.load(small).graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1
    ]
    assert len(weights) == 4
    assert max(abs(each.astype(int)).max() for each in weights) == largest
