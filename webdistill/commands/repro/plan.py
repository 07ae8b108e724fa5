"""What `dvc repro` would go through, and what must be done before what.

The only place that uses DVC's Python interface, and no more of it than this: `Repo`, its `index.graph`, the three
functions of `dvc.repo.reproduce` by which DVC itself makes its plan, and of a stage `addressing` and `changed()`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from webdistill.core.errors import UserError
from webdistill.harness import params


@dataclass(frozen=True)
class Step:
    """One stage of the plan."""

    name: str  # as `dvc repro` takes it there: `filter`, `compare/dvc.yaml:cell@kd-0`
    after: frozenset[str]  # the stages that make what it reads
    changed: bool  # DVC would run it although nothing before it runs


def project(targets: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of the DVC project that the targets belong to, and their names as seen from there.

    This folder's project, but for paths into another one below it, as pipelines/ is.
    """
    homes = {target: _home(target) for target in targets}
    folders = sorted(set(homes.values()))
    if len(folders) > 1:
        names = " and ".join(str(folder) for folder in folders)
        raise UserError(f"the targets belong to different DVC projects, {names}; run one at a time")
    folder = folders[0] if folders else Path()
    if folder == Path():
        return folder, list(targets)
    return folder, [str(target).removeprefix(f"{folder.as_posix()}/") for target in targets]


def _home(target: str) -> Path:
    inside = Path(target.partition(":")[0]).parents
    return next((folder for folder in inside if (folder / ".dvc").is_dir()), Path())


def plan(targets: Sequence[str], folder: Path = Path()) -> list[Step]:
    """All stages behind `targets` (default: dvc.yaml) of the project in `folder`, each after those it needs.

    A frozen stage waits for none. Raises UserError with DVC's own words for unknown targets or a broken dvc.yaml, and
    naming the key where dvc.yaml asks for one that params.yaml has under another name.
    """
    from dvc.exceptions import DvcException
    from dvc.parsing import ResolveError
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    try:
        with contextlib.chdir(folder), Repo(_wait_for_lock=True) as repo, repo.lock:
            graph = get_active_graph(repo.index.graph)
            stages = plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"]))
            return [
                Step(
                    name=stage.addressing,
                    after=frozenset(before.addressing for before in graph.successors(stage)),
                    changed=stage.changed(),
                )
                for stage in stages
            ]
    except DvcException as error:
        if isinstance(error, ResolveError) and folder == Path():
            params.load(Path("params.yaml"))
        raise UserError(" ".join(str(error).split())) from None


def to_do(steps: Sequence[Step]) -> list[Step]:
    """The steps that have changed, and those after them: whether these change only shows then."""
    found: dict[str, Step] = {}
    for step in steps:
        if step.changed or not step.after.isdisjoint(found):
            found[step.name] = step
    return list(found.values())
