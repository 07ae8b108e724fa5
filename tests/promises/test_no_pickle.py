"""Promise M1 in the source, and where an .npy file is read: nothing of the project unpickles a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.clusterings import Setting, judge

ROOT = Path(__file__).parents[2]
FOLDERS = ("stages", "webdistill", "pipelines", "benchmarks")
MODULES = {
    "pickle", "_pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve", "torch.serialization", "torch.package",
}  # fmt: skip
LOADERS = {"torch.load", "numpy.load"}  # harmless with the arguments that `guarded` wants
FUNCTIONS = {
    "torch.jit.load", "torch.hub.load", "torch.hub.load_state_dict_from_url", "pandas.read_pickle", "yaml.load",
    "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.Loader", "yaml.CLoader", "yaml.UnsafeLoader",
}  # fmt: skip
ALLOWED = {
    "stages/distill/training.py": {
        "import pickle",
        "pickle.UnpicklingError",
    },  # torch.load's refusal
    # of torch.load with weights_only: classes that hold values and run nothing
    "webdistill/models/checkpoint.py": {"torch.serialization.safe_globals"},
    "webdistill/harness/dvc_lock.py": {"yaml.load"},  # its loader builds text alone
}


def imported(nodes: list[ast.AST]) -> dict[str, str]:
    """Local name -> full name, of all imports wherever they stand."""
    names: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                short = alias.name if alias.asname else alias.name.partition(".")[0]
                names[alias.asname or short] = short
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """`t.load` after `import torch as t` -> torch.load; empty for what no import gave."""
    if isinstance(node, ast.Attribute):
        base = full_name(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return names.get(node.id, "") if isinstance(node, ast.Name) else ""


def guarded(name: str, call: ast.Call) -> bool:
    """torch.load with weights_only=True, numpy.load without a word about objects."""
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "torch.load":
        return given.get("weights_only") == "True"
    return len(call.args) == 1 and given.keys() <= {"mmap_mode"}


def dangerous(name: str) -> bool:
    parts = name.split(".")
    parents = {".".join(parts[: n + 1]) for n in range(len(parts))}
    return bool(parents & MODULES) or name in FUNCTIONS | LOADERS


def faults(source: str) -> Iterator[str]:
    """What in a source could unpickle a file, by its full name and whatever it is called there."""
    nodes = list(ast.walk(ast.parse(source)))
    names = imported(nodes)
    harmless: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Attribute):
            harmless.add(id(node.value))  # looked at as a part of the whole
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = full_name(node.func, names)
            if name in LOADERS and guarded(name, node):
                harmless.add(id(node.func))
    for node in nodes:
        match node:
            case ast.Import():
                yield from (f"import {each.name}" for each in node.names if dangerous(each.name))
            case ast.ImportFrom():
                given = [f"{node.module}.{each.name}" for each in node.names]
                yield from (name for name in given if dangerous(name) or name == "torch.*")
            case ast.Constant(value=str(text)) if text in MODULES | LOADERS:
                yield text  # import_module("pickle")
            case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
                yield "allow_pickle"
            case ast.Name() | ast.Attribute() if id(node) not in harmless:
                name = full_name(node, names)
                if dangerous(name) or name in ("torch", "numpy"):  # to be called by another name
                    yield name


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_code_of_the_project_unpickles(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        assert set(faults(path.read_text())) == ALLOWED.get(name, set()), name


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.Unpickler(f).load()",
        "def f():\n    from pickle import load as read\n    return read(file)",
        "from torch import load as read\nread(path, weights_only=False)",
        "from torch import load\nload(path, weights_only=True)",
        "import torch as t\nt.load(path, weights_only=False)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, **{'weights_only': False})",
        "import torch\nread = torch.load\nread(path)",
        "import torch\nt = torch\nt.load(path)",
        "import torch\ngetattr(torch, 'load')(path)",
        "import torch.serialization as s\ns.load(path)",
        "from torch import *",
        "import importlib\nimportlib.import_module('pickle')",
        "import joblib",
        "import dill as d",
        "import marshal",
        "from shelve import open",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, None, True)",
        "import numpy as np\nnp.lib.format.read_array(file, allow_pickle=True)",
        "import yaml\nyaml.unsafe_load(text)",
    ],
)
def test_no_spelling_passes(source: str) -> None:
    assert list(faults(source))


def test_what_reads_no_objects_passes() -> None:
    source = """
import numpy as np, torch
from torch import nn
torch.load(path, map_location="cpu", weights_only=True)
np.load(path, mmap_mode="r")
json.load(file); self.load(path); load(path)
"""
    assert not list(faults(source))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('executed').touch()",))


def test_an_array_of_objects_is_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only benchmarks read .npy files."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        judge(Path("x.npy"), Setting(1, 1, 1, 1, 1, 1), {})
    assert not Path("executed").exists()
