"""The files that the stages left in a work tree: outputs, scratch space, and the cells of further pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from webdistill.harness.params import STAGES

EARLIER = frozenset(
    {"search", "fetch", "embed", "score"}
)  # their work is not repeated for a takedown
BESIDE = frozenset(
    {"metrics.json", ".gitignore"}
)  # what git keeps where nothing was pulled or built


@dataclass(frozen=True)
class Artefact:
    """`later`: made by filter or a stage after it, or by no stage at all."""

    path: Path
    label: str  # the path from the project's root, if it lies in there
    later: bool


def artefacts(data: Path) -> list[Artefact]:
    """Every file below the stages' folders, .work and what other pipelines made, in the order of the stages."""
    root = Path.cwd()
    found = [
        _artefact(root, file, stage)
        for stage in STAGES
        for folder in (data / stage, *_elsewhere(root, stage))
        for file in _files(folder)
    ]
    found += [
        _artefact(root, file, "search")  # lists that a pool is made of
        for work in sorted(root.glob("pipelines/*/work"))
        for file in _files(work)
    ]
    work = root / ".work"
    found += [_artefact(root, file, _stage_of(file, work)) for file in _files(work)]
    return found


def _elsewhere(root: Path, stage: str) -> list[Path]:
    """The stage's folders in cells and pools of other pipelines."""
    made = ("cells/*", "pool", "pool/*", "web_pool/*")
    return sorted(path for each in made for path in root.glob(f"pipelines/*/{each}/{stage}"))


def not_here(data: Path) -> list[str]:
    """Stages from filter onward without an output: they have not run, or their outputs were not pulled."""
    return [
        stage
        for stage in STAGES
        if stage not in EARLIER and not any(f.name not in BESIDE for f in _files(data / stage))
    ]


def _artefact(root: Path, file: Path, stage: str) -> Artefact:
    whole = file.absolute()
    label = whole.relative_to(root) if whole.is_relative_to(root) else file
    return Artefact(file, str(label), stage not in EARLIER)


def _stage_of(file: Path, work: Path) -> str:
    """The first part of the path that is a stage's name; "" for what belongs to none."""
    return next((part for part in file.relative_to(work).parts if part in STAGES), "")


def _files(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob("*") if path.is_file()))
