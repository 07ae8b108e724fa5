"""The model card."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from ruamel.yaml import YAML

from stages.report.__main__ import main
from stages.report.card import card, plain
from stages.report.gather import gather
from tests.stages.report_stage import Stage

ROOT = Path(__file__).parents[2]


def test_card_text_cannot_break_out_of_its_table_cell() -> None:
    assert plain("a|b\n<script>") == "a\\|b &lt;script&gt;"
    assert (
        plain("half \ud800 of a sign\x9b") == "half ? of a sign"
    )  # of a teacher's JSON; no file can hold it


def test_the_card_states_accuracy_data_and_limits(project: Path) -> None:
    main(Stage(project, True))
    text = (project / "card.md").read_text()
    for part in (
        "80.0 %",
        "90.0 %",
        "78,042",
        "student.onnx",
        "## Limits",
        "Test bed",
        "kept by the filter",
    ):
        assert part in text
    assert "<script" not in text


def test_parameters_are_named_as_in_params_yaml(project: Path) -> None:
    evidence = gather(Stage(project))
    distill = {**evidence.params["distill"], "batch_size": 8}
    text = card(dataclasses.replace(evidence, params={**evidence.params, "distill": distill}))
    assert "| `batch_size` | 8 |" in text, "between backticks a backslash would be shown"


def test_the_card_says_how_a_picture_becomes_an_input(project: Path) -> None:
    text = card(gather(Stage(project)))
    for part in (
        "resize the shorter side to 32 px, bicubic",
        "centre, 32 x 32 px",
        "divide by 255",
        "subtract the mean (",
        "python -m webdistill predict data/evaluate/student.onnx",
        "`int8/student_int8.onnx` has the same input",
        "| top-1 of the int8 export | 79.0 % |",
    ):
        assert part in text


def test_the_front_matter_is_yaml_whatever_a_name_holds(project: Path) -> None:
    evidence = gather(Stage(project))
    odd = 'resnet8"}\n---\n# injected: <script>\x00'
    student = {**evidence.measured.student, "architecture": odd}
    measured = dataclasses.replace(evidence.measured, student=student)
    text = card(dataclasses.replace(evidence, measured=measured))
    front = re.match(r"---\n(.*?)\n---\n\n", text, re.DOTALL)
    assert front is not None
    value = YAML(typ="safe", pure=True).load(front[1])
    assert value["pipeline_tag"] == "image-classification"
    assert value["license"] == "unknown", "nobody but the user can say it"
    (model,) = value["model-index"]
    assert model["name"] == odd.replace("\x00", " ")
    (result,) = model["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]} == {"accuracy": 0.8, "ece": 0.04}
    assert result["dataset"]["name"] == "30 test images of 3 classes"
    assert "<script" not in text.removeprefix(front[0])


def test_the_example_runs_on_a_model_of_that_shape(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = card(gather(Stage(project)))
    examples = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("data/evaluate").mkdir(parents=True)
    box = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("GlobalAveragePool", ["images"], ["means"]),
            onnx.helper.make_node("Flatten", ["means"], ["logits"]),
        ],
        "student",
        [box("images", onnx.TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [box("logits", onnx.TensorProto.FLOAT, ["batch", 3])],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(model, "data/evaluate/student.onnx")
    names: dict[str, Any] = {}
    exec(examples[0], names)
    assert names["logits"].shape == (1, 3)
    # the other one needs weights: that what it calls exists and takes a folder is read from the source
    source = ast.parse((ROOT / "webdistill/models/checkpoint.py").read_text())
    functions = {node.name: node.args for node in source.body if isinstance(node, ast.FunctionDef)}
    assert functions["load_network"].args[0].arg == "folder"
    assert "from webdistill.models.checkpoint import load_network" in examples[1]
    assert 'load_network(Path("data/distill/student"))' in examples[1]


def test_the_training_states_the_method_with_its_own_options_and_no_others(project: Path) -> None:
    evidence = gather(Stage(project))
    settings = {
        "method": "kd3",
        "lr": 5.0,
        "kd3": {"selection": True},
        "dfnd": {"keep": 0.5},
        "deconfound": {"dictionary": "prototypes", "query": "logits"},
    }
    text = card(dataclasses.replace(evidence, params={**evidence.params, "distill": settings}))
    for line in ("| `kd3.selection` | True |", "| `lr` | 5.0 |", "| `deconfound.query` | logits |"):
        assert line in text.replace("\\_", "_")
    assert "dfnd" not in text
