"""The project's own files as templates: params.yaml with its comments, dvc.yaml, and the code that DVC hashes.

DVC re-runs a stage when the code folders in its deps change. In a clone they are there; an empty folder gets copies,
and `python -m stages.<name>` runs these copies, so what is hashed is what runs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter

from stages.distill.params import NO_FILES
from webdistill.core.errors import UserError
from webdistill.harness import closure

CODE = ("webdistill", "stages")
PLOTS = ".dvc/plots.html"
KEPT = (
    "takedown.txt",
    ".dvcignore",
    "experiments/README.md",
)  # written where they are absent, never replaced
FILES = ("params.yaml", "dvc.yaml", PLOTS, *KEPT)
SHARED = "share/webdistill"  # where pyproject.toml installs FILES
POOL, TEACHER = "data/fetch/pool", "${task.teacher}"
QUICKSTART_CLIP, QUICKSTART_TRUTH = "data/quickstart/clip", "data/quickstart/truth.parquet"
IGNORED = """\
__pycache__/
.venv/
/.work/
/mlflow.db
/mlflow.db.new
/mlflow.db-*
/mlruns/
/dvc_plots/
"""


def find(name: str) -> Path:
    """A file of FILES: beside the package in a clone or an editable installation, else where pip has put it."""
    root = Path(__file__).parents[3]
    if (root / name).is_file() and (root / "stages").is_dir():
        return root / name
    try:
        files = importlib.metadata.files("webdistill") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(f"{SHARED}/{name}"):
            return Path(str(file.locate()))
    raise UserError(f"{name} was not installed with webdistill; run init in a clone of the project")


def rendered_params(values: Mapping[str, Any]) -> str:
    """params.yaml with `section.key` -> value changed in place; every comment stays.

    Raises UserError for a key that the file does not have.
    """
    yaml = _round_trip()
    data = yaml.load(find("params.yaml").read_text(encoding="utf-8"))
    for key, value in values.items():
        *sections, last = key.split(".")
        target: Any = data
        for part in sections:
            target = target.get(part) if isinstance(target, Mapping) else None
        if not isinstance(target, CommentedMap) or last not in target:
            raise UserError(f"--set {key}: params.yaml has no such key")
        target[last] = _flow(value)
    return _dumped(yaml, data)


def rendered_pipeline(
    clip: str | None, code: Mapping[str, Sequence[str]] | None = None, *, weights: str | None = None
) -> str:
    """dvc.yaml without what belongs to the quickstart, or to the project's own earlier params.yaml.

    `clip`: folder of a local CLIP, which embed depends on; `code`: stage -> files that its networks are in; `weights`:
    the file or folder that `distill.student_weights` names.
    """
    yaml = _round_trip()
    data = yaml.load(find("dvc.yaml").read_text(encoding="utf-8"))
    stages = data["stages"]
    own_clip, own_weights = named_files(find("params.yaml").read_text(encoding="utf-8"))
    _replace(stages["embed"]["deps"], own_clip, clip, POOL)
    _replace(stages["report"]["deps"], QUICKSTART_TRUTH, None, POOL)
    for stage, files in (code or {}).items():
        _replace_families(stages[stage]["deps"], files)
    _replace(stages["distill"]["deps"], own_weights, weights, TEACHER)
    return _dumped(yaml, data)


def named_files(params: str) -> tuple[str | None, str | None]:
    """CLIP's folder and the file or folder of the student's weights, as the text of a params.yaml names them."""
    values = YAML(typ="safe", pure=True).load(params)
    kind, _, folder = values["embed"]["model"].partition(":")
    weights = values["distill"]["student_weights"]
    return folder if kind == "local-dir" else None, None if weights in NO_FILES else weights


def _replace(deps: CommentedSeq, old: str | None, new: str | None, before: str) -> None:
    """`new` among the deps in place of `old`, or before another one; None: there is none."""
    at = deps.index(old) if old in deps else deps.index(before) if before in deps else len(deps)
    if old in deps:
        del deps[at]
    if new is not None and new not in deps:
        deps.insert(at, new)


def _replace_families(deps: CommentedSeq, files: Sequence[str]) -> None:
    """These files in place of the networks' families among `deps`; what is there, alone or in a folder, stays."""
    places = [n for n, dep in enumerate(deps) if Path(str(dep)).is_relative_to(closure.FAMILIES)]
    at = places[0] if places else len(deps)
    for place in reversed(places):
        del deps[place]
    new = [file for file in files if not any(Path(file).is_relative_to(str(dep)) for dep in deps)]
    deps[at:at] = new


def copy_code(root: Path) -> list[str]:
    """The code folders that `root` lacks. -> their names"""
    missing = [name for name in CODE if not (root / name).is_dir()]
    for name in missing:
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise UserError(f"the package {name} is not installed; run init in a clone instead")
        source = Path(next(iter(found.submodule_search_locations)))
        shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return missing


class _Representer(RoundTripRepresenter):
    """Writes `null`, which the template says, where ruamel would write nothing."""


_Representer.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _round_trip() -> YAML:
    yaml = YAML(typ="rt")
    yaml.Representer = _Representer
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    return yaml


def _dumped(yaml: YAML, data: Any) -> str:
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _flow(value: Any) -> Any:
    """Lists and maps on one line, as in the template."""
    if isinstance(value, list):
        value = CommentedSeq(value)
        value.fa.set_flow_style()
    elif isinstance(value, dict):
        value = CommentedMap(value)
        value.fa.set_flow_style()
    return value
