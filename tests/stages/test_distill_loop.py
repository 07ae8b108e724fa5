"""What the training loop asks of a method and of the machine: hooks, no names, few libraries, a full disk."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.distill import checkpoint
from stages.distill.loop import Run
from stages.distill.methods import Batch, Choice, Method, Pool, Reads
from stages.distill.methods.kd import Kd
from stages.distill.params import Distill
from tests.stages.feature_methods import pool_views, settings
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[2]
STAGE = ROOT / "stages" / "distill"
METHODS = get_args(Distill.model_fields["method"].annotation)
KNOWING = {STAGE / "params.py", STAGE / "method_params.py"}  # the settings, beside methods/ itself


# -- no names --------------------------------------------------------------------------------------------------
def words(path: Path) -> set[str]:
    """All words of a file's code: names, imports and texts, but neither comments nor docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return set(re.findall(r"\w+", ast.unparse(tree).lower()))


@pytest.mark.parametrize(
    "path", sorted({*STAGE.glob("*.py")} - KNOWING), ids=lambda path: path.name
)
def test_no_file_around_the_methods_knows_one_by_name(path: Path) -> None:
    assert not words(path) & {*METHODS}


def test_the_search_for_names_finds_them() -> None:
    assert {*METHODS} <= words(STAGE / "methods" / "__init__.py")
    assert "augkd" in words(STAGE / "params.py")


# -- hooks -----------------------------------------------------------------------------------------------------
class Turns(Kd):
    """Reads nothing, then images, then answers, an epoch each; keeps half of the images from the second on."""

    def __init__(self, student: Any) -> None:
        super().__init__(student, 4.0)
        self.calls: list[tuple[str, int]] = []
        self.turn, self.seen = -1, list[tuple[int, int]]()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.calls.append(("begin", epoch))
        assert epochs == 3
        self.turn = epoch

    @property
    def reads(self) -> Reads:
        return get_args(Reads)[self.turn]

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        self.calls.append(("select", epoch))
        keep = torch.arange(len(pool.labels)) % 2 == 0
        return Choice(keep, torch.zeros(40, dtype=torch.int64), torch.ones(40)) if epoch else None

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        self.seen.append((len(batch.images), len(batch.teacher_logits)))
        images = torch.zeros(8, 3, 16, 16) if self.turn == 0 else batch.images
        logits = self.net(images).float()
        self.reference = logits.detach()
        return {"size": logits.square().mean()}, logits


def make() -> Run:
    torch.manual_seed(0)
    teacher = build("resnet8", 3).eval().requires_grad_(False)
    return Run(
        settings=settings(method="kd", epochs=3, steps_per_epoch=2), seed=0, views=pool_views(),
        teacher=teacher, method=Turns(build("resnet8", 3)), weight=torch.ones(40),
        ids=[str(i) for i in range(40)], classes=("a", "b", "c"),
    )  # fmt: skip


def turns_of(run: Run) -> Turns:
    assert isinstance(run.method, Turns)
    return run.method


def test_a_method_is_told_of_every_epoch_before_it_chooses_and_then_says_what_it_reads() -> None:
    run = make()
    for number in range(3):
        list(run.epoch(number))
    assert turns_of(run).calls == [(name, n) for n in range(3) for name in ("begin", "select")]
    assert turns_of(run).seen == [(0, 0)] * 2 + [(8, 0)] * 2 + [(8, 8)] * 2
    assert [row["kept"] for row in run.history.rows] == [20, 20]


def test_a_resumed_run_tells_the_method_of_its_first_epoch_too(tmp_path: Path) -> None:
    whole, first, second = make(), make(), make()
    for number in range(3):
        list(whole.epoch(number))
    for number in range(2):
        list(first.epoch(number))
    checkpoint.save(first, tmp_path / "state.pt")
    assert checkpoint.restore(second, tmp_path / "state.pt") == 2
    list(second.epoch(2))
    assert turns_of(second).calls == [("begin", 2), ("select", 2)]
    assert second.rows == whole.rows


HOOKS = [name for name, each in vars(Method).items() if inspect.isfunction(each)] + ["reads"]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_says_what_it_is_given_and_what_it_returns(name: str) -> None:
    hook = getattr(Method, name)
    function = hook.fget if isinstance(hook, property) else hook
    text, signature = inspect.getdoc(hook) or "", inspect.signature(function)
    for argument in list(signature.parameters)[1:]:
        assert re.search(rf"^Arguments:\n(    .*\n)*    {argument}: ", text, re.M), argument
    assert ("Returns:" in text) == (signature.return_annotation != "None")


# -- a full disk -----------------------------------------------------------------------------------------------
def test_a_full_disk_is_told_as_such_and_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = make(), tmp_path / "state.pt"
    list(run.epoch(0))
    checkpoint.save(run, path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  # as torch does

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(run, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["state.pt"]


# -- few libraries ---------------------------------------------------------------------------------------------
# Of all that is installed, only torch, numpy, pydantic, ruamel.yaml, PyYAML and what these need may be imported.
ALONE = """
import importlib, json, sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions

NEEDED = {"torch", "torchgen", "functorch", "triton", "numpy", "sympy", "mpmath", "networkx", "jinja2", "markupsafe",
    "fsspec", "filelock", "setuptools", "cuda", "nvidia", "pydantic", "pydantic_core", "annotated_types",
    "typing_extensions", "typing_inspection", "ruamel", "yaml", "_yaml", "stages", "webdistill"}
ABSENT = set(packages_distributions()) - NEEDED

class Found(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Found
for name in ("mlflow", "dvc", "pyarrow", "pandas", "safetensors", "PIL", "rich", "faiss", "timm"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is not absent")

import numpy as np
import torch
from stages.distill import checkpoint, loop, methods, params
from webdistill.images.views import Views
from webdistill.models.zoo import build
from ruamel.yaml import YAML

for name in params.Distill.model_fields["method"].annotation.__args__:
    importlib.import_module(f"stages.distill.methods.{name}")

def train(method):
    given = YAML(typ="safe").load(open("params.yaml"))["distill"]
    given |= {"student": "resnet8", "epochs": 3, "steps_per_epoch": 1, "batch_size": 4, "mixup": 0.0, "device": "cpu",
        "warmup_epochs": 0.0, "method": method}
    given["augkd"] |= {"free_epochs": 1, "anchor_epochs": 1}
    settings = params.Distill.model_validate(given)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    teacher, half = build("resnet8", 3).eval().requires_grad_(False), (0.5, 0.5, 0.5)
    run = loop.Run(
        settings=settings, seed=0, teacher=teacher, weight=torch.ones(12), ids=list(map(str, range(12))),
        views=Views(torch.from_numpy(pixels), half, half, seed=0, min_scale=0.5, mixup=0.0),
        method=methods.build(settings, build("resnet8", 3), teacher, 16),
        classes=("a", "b", "c"), labels=torch.arange(12) % 3,
    )
    for number in range(3):
        list(run.epoch(number))
    return [row["loss"] for row in run.rows]

print(json.dumps([train("kd"), train("augkd")]))
"""


def test_the_loop_trains_where_no_more_is_installed_than_torch_numpy_and_the_parameters() -> None:
    """Tables, tracking and images belong to the stage around it."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(np.array(json.loads(done.stdout))).all()
