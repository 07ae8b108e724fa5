"""The harness around every stage: parameters, inputs, outputs, lock, scratch space, progress, tracking, exit codes.

    stages/<name>/__main__.py:
        def main(stage: Stage) -> None: ...
        if __name__ == "__main__":
            run("<name>", main)

Exit codes: 0 done, 2 bad input (one readable line), 1 a defect (traceback), 130 Ctrl-C, 143 terminated.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from webdistill.core import determinism, files
from webdistill.core.errors import UserError
from webdistill.engine import choice
from webdistill.engine.running import RankDoneError
from webdistill.harness import closure, dependencies, params, recorded, spool
from webdistill.harness.dvc_hash import dvc_hash
from webdistill.harness.lifetime import INTERRUPTED, die_with_parent
from webdistill.harness.progress import progress
from webdistill.harness.records import StageRun
from webdistill.harness.slices import short_slices

T = TypeVar("T")
CODE = Path(__file__).parents[2]  # where `stages` and `webdistill` are


class Stage:
    """Parameters, inputs, outputs and tracking of one run of a stage: the argument of the stage's main().

    Outputs are written to a work folder and moved into place together after main() has returned, so that a stage that
    fails or is killed publishes nothing. `task` is the section of shared facts, `params` the stage's own section.

    Example:
        def main(stage: Stage) -> None:
            kept = read_table(stage.input("data/filter/kept.parquet"), ["id"])
            with stage.output("selection.parquet") as path:
                write_table(choose(kept, stage.params), path)
            stage.metrics({"selected": len(kept)})
    """

    def __init__(
        self, name: str, settings: params.Params, cell: Path | None, source: Path = Path("data")
    ) -> None:
        self.name = name
        self.task = settings.task
        self.params: Any = settings.sections[name]
        self.settings = settings
        self.root = Path.cwd()
        self._cell = cell
        self._source = source  # of a cell: where the outputs of earlier stages are
        self.data = (cell if cell is not None else self.root / "data") / name
        scratch = self.root / ".work"
        self.tags: dict[str, str] = {}  # for tracking
        if cell is not None:  # outside the cell, which DVC empties before it runs
            scratch = scratch / "cells" / "-".join(_relative(cell, self.root).parts)
            self.tags = {"cell": str(_relative(cell, self.root))}
        self.work = scratch / name
        self.track_values: dict[str, float] = {}
        self.inputs: dict[str, str] = {}  # path -> sha256
        self.hashes: dict[str, str] = {}  # path -> DVC's hash, for tracking
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.artifacts: list[Path] = []
        self._metrics: dict[str, float] = {}
        self._outputs: list[str] = []
        self._out = self.work / "out"
        self._cleanup: list[Callable[[], object]] = []
        self._families: set[Path] = set()  # code of the networks in use

    def input(self, name: str) -> Path:
        """Open an output of an earlier stage, or a file of the user, and record it as an input of this run.

        Arguments:
            name: path from the project's root, as dvc.yaml has it, such as "data/filter/kept.parquet".

        Returns:
            The path to read. In a cell (`--cell`) it is the cell's own `<stage>/...` if there is one, otherwise the
            file of the same name in the folder given by `--from`.

        Raises:
            UserError: the path does not exist, dvc.yaml does not declare it, its folder differs from the manifest, or
                it differs from what dvc.lock recorded.

        Example:
            pool = stage.input("data/fetch/pool")
        """
        path, made_by = self._place(name), _made_by_stage(name)
        if not path.exists():
            if made_by is None:
                raise UserError(f"{name} does not exist; check the path in params.yaml")
            if path != Path(name):
                raise UserError(f"{path} does not exist; make it first, or check --from")
            raise UserError(f"{name} does not exist; run `dvc repro {made_by}` or `dvc pull` first")
        self.check_declared(path)
        if listed := path.is_dir() and made_by is not None:
            files.check_manifest(path)
        recorded.check_recorded(self.root, path, listed=listed)
        read = name if path == Path(name) else os.path.relpath(path, self.root)
        afresh = (
            made_by is None
        )  # a manifest in a folder of the user's own is nobody's word for what lies there
        self.inputs[read] = files.digest(path)
        self.hashes[read] = dvc_hash(path, self.root, afresh=afresh)
        return path

    def check_declared(self, *paths: Path) -> None:
        """Check paths that are read without `input`, such as code.

        Arguments:
            paths: files or folders, from the project's root.

        Raises:
            UserError: DVC runs this stage and dvc.yaml does not declare one of them, so that DVC would not notice its
                changes.
        """
        if self._cell is None:
            dependencies.check_declared(self.root, self.name, paths, self.settings.raw)

    def _place(self, name: str) -> Path:
        """Where `data/<stage>/...` is for a cell: its own, or what `--from` has; else `name` as it stands."""
        path = Path(name)
        if self._cell is None or path.parts[0] != "data":
            return path
        own = self._cell.joinpath(*path.parts[1:])
        if own.exists():
            return own
        return self._source.joinpath(*path.parts[1:]) if _made_by_stage(name) else path

    def scratch(self, *facts: object) -> Path:
        """A folder for unfinished work that survives a kill, from which the next run resumes.

        Arguments:
            facts: everything that decides the content of the folder: parameters, digests of inputs, device. A fact that
                is missing here makes a later run resume from a wrong state.

        Returns:
            An existing folder in `.work`, the same for the same facts and the same code of the stage. Folders of other
            facts are removed.

        Example:
            shards = stage.scratch(stage.params.model_dump(), stage.inputs)
        """
        key = hashlib.sha256(
            json.dumps([self.code_digest(), facts], default=str, sort_keys=True).encode()
        )
        folder = self.work / f"resume-{key.hexdigest()[:16]}"
        if choice.chosen() != "array":  # where another rank may be at work
            for other in self.work.glob("resume-*"):
                if other != folder:
                    files.remove(other)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def networks(self, *architectures: str) -> list[str]:
        """Make the code of networks part of this run's key.

        Arguments:
            architectures: names as in params.yaml, such as "wrn-16-1" or "nets.small:make".

        Returns:
            The user's own files among them, now recorded as inputs.

        Raises:
            UserError: DVC runs this stage and dvc.yaml does not declare the file of a family or of the user.
        """
        from webdistill.models.names import own_code

        self._families |= set(families(*architectures))
        self.check_declared(*(path.relative_to(CODE) for path in sorted(self._families)))
        own = own_code(*architectures)
        for file in own:
            self.input(file)
        return own

    def code_digest(self) -> str:
        """sha256 of the code that decides the stage's bytes: its imports, and the families of its networks."""
        return closure.digest(CODE, [CODE / file for file in self.code_files()])

    def code_files(self) -> list[str]:
        """The code of `code_digest`, relative to where it is installed."""
        own = closure.closure(CODE, closure.of_stage(CODE, self.name)) | self._families
        return sorted(path.relative_to(CODE).as_posix() for path in own)

    def when_published(self, action: Callable[[], object]) -> None:
        """Call `action` once the outputs are in place, such as removing a work folder: no earlier kill loses work."""
        self._cleanup.append(action)

    @contextlib.contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """Write an output.

        Arguments:
            name: file or folder below `data/<stage>/`, as in the `outs` of dvc.yaml.

        Returns:
            A context manager that gives the path to write. Create a folder at the path to publish a folder; its
            manifest is written when the block ends. The output is moved to `data/<stage>/<name>` after the whole stage
            has succeeded.

        Example:
            with stage.output("kept.parquet") as path:
                write_table(kept, path)
        """
        path = self._out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
        if path.is_dir():
            files.write_manifest(path)
        self._outputs.append(name)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Add counts and quality metrics to metrics.json and tracking.

        Durations belong to `track_metrics`: equal work gives an equal file.
        """
        self._metrics.update(values)

    def track_metrics(self, values: Mapping[str, float]) -> None:
        """Add metrics to tracking alone: durations, rates, memory."""
        self.track_values.update(values)

    def curve(self, name: str, value: float, step: int) -> None:
        """Add a point to the curve `name` in tracking; `step` is usually the epoch."""
        self.curves.setdefault(name, []).append((step, float(value)))

    def artifact(self, path: Path) -> None:
        """Attach a file to the run in tracking; it may be an output of this stage."""
        self.artifacts.append(path)

    def picture(self, name: str, data: bytes) -> None:
        """Attach an encoded picture to the run in tracking, as a file `name`."""
        path = self.work / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.artifact(path)

    def log(self, message: str) -> None:
        """One sentence for the user, on stderr."""
        print(f"{self.name}: {message}", file=sys.stderr, flush=True)

    def progress(
        self,
        items: Iterable[T],
        *,
        total: int,
        unit: str = "img",
        label: str | None = None,
        size: Callable[[T], int] | None = None,
    ) -> Iterator[T]:
        """Iterate over `items` while a bar on stderr shows count, rate and remaining time.

        Arguments:
            total: expected number of units.
            label: text before the bar; default: the stage's name.
            size: number of units of one item; default: one.

        Example:
            for shard in stage.progress(shards, total=count, size=len):
                ...
        """
        return progress(items, total=total, unit=unit, label=label or self.name, size=size)

    def publish(self) -> dict[str, str]:
        """Move all outputs in place and write metrics.json. -> {path: DVC's hash}"""
        with self.output("metrics.json") as path:
            files.write_json(self._metrics, path)
        published = {}
        for name in self._outputs:
            files.replace(self._out / name, self.data / name)
            path = self.data / name
            published[str(_relative(path, self.root))] = dvc_hash(path, self.root)
        for action in self._cleanup:
            action()
        return published

    def record(self, started: float, status: str, outputs: Mapping[str, str]) -> StageRun:
        """The record of this run for tracking, as plain data; `outputs`: path -> DVC's hash, as from `publish`."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        flat = self.settings.flat()
        ended = time.time()
        lock, measured = spool.locked(self.root) if self._cell is None else ("", {})
        return StageRun(
            stage=self.name,
            params={k: v for k, v in flat.items() if k.split(".")[0] in (self.name, "task")},
            parent_key=spool.experiment_key(flat, self.root),
            parent_params=flat,
            inputs=dict(self.hashes),
            outputs=dict(outputs),
            lock=lock,
            measured=measured,
            metrics=dict(self._metrics),
            track_metrics={
                **self.track_values,
                "seconds": ended - started,
                "peak_memory_mib": memory,
            },
            curves=self.curves,
            artifacts=[
                self.data / p.relative_to(self._out) if p.is_relative_to(self._out) else p
                for p in self.artifacts
            ],
            tags=self.tags,
            started=started,
            ended=ended,
            status=status,
        )


def families(*architectures: str) -> list[Path]:
    """The project's own files that make these networks, beyond what every network needs."""
    from webdistill.models.names import family_file

    found = closure.closure(CODE, {CODE / family_file(name) for name in architectures})
    return sorted(path for path in found if path.is_relative_to(CODE / closure.FAMILIES))


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else Path(path.name)


def _made_by_stage(name: str) -> str | None:
    """`data/filter/kept.parquet` -> `filter`; None for the user's own files."""
    parts = Path(name).parts
    return parts[1] if len(parts) > 1 and parts[0] == "data" and parts[1] in params.STAGES else None


@contextlib.contextmanager
def _locked(work: Path, *, shared: bool = False) -> Iterator[None]:
    """`shared`: with the other ranks of an array job."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run of stage '{work.name}' is under way in this folder; wait for it"
            ) from None
        yield


def _arguments(name: str, argv: list[str] | None, *, dry: bool) -> argparse.Namespace:
    package = importlib.import_module(f"stages.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: params.yaml"
    )
    parser.add_argument(
        "--cell",
        type=Path,
        metavar="FOLDER",
        help="write to FOLDER/<stage>/ instead of data/<stage>/, and prefer inputs found in FOLDER",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FOLDER",
        help="with --cell: take outputs of earlier stages that the cell lacks from FOLDER/<stage>/; default: data",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one parameter for this run (value in YAML)",
    )
    if dry:
        parser.add_argument(
            "--dry-run", action="store_true", help="show what would be found, write nothing"
        )
    return parser.parse_args(argv)


def run(
    name: str,
    main: Callable[[Stage], None],
    argv: list[str] | None = None,
    *,
    dry: Callable[[Stage], None] | None = None,
) -> NoReturn:
    """Run a stage as a program, and exit.

    Arguments:
        name: of the stage, as its folder.
        main: does the work with a Stage.
        argv: command line; default: that of the process.
        dry: called instead of `main` with `--dry-run`; it writes nothing and takes no lock.

    Example:
        if __name__ == "__main__":
            run("filter", main)
    """
    arguments = _arguments(name, argv, dry=dry is not None)
    try:
        settings = params.load(arguments.params, arguments.set)
        engine = choice.check(name)
        die_with_parent()
        short_slices()
        determinism.prepare(settings.task.threads, settings.task.seed)
        cell = arguments.cell.resolve() if arguments.cell is not None else None
        if arguments.source is not None and cell is None:
            raise UserError("--from is for cells; name the cell's folder with --cell")
        stage = Stage(name, settings, cell, arguments.source or Path("data"))
        if dry is not None and arguments.dry_run:
            dry(stage)
            sys.exit(0)
        with files.room_on_disk(stage.work), _locked(stage.work, shared=engine == "array"):
            _run_locked(stage, main)
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command resumes from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _run_locked(stage: Stage, main: Callable[[Stage], None]) -> None:
    started = time.time()
    files.remove(stage._out)
    status, outputs = "FAILED", {}
    try:
        with files.room_on_disk(stage.work):
            main(stage)
            outputs = stage.publish()
        status = "FINISHED"
    except RankDoneError as done:
        status = "RANK"
        stage.log(str(done))
    except UserError:
        raise
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        files.remove(stage._out)
        if status != "RANK":  # which is no run of the stage
            spool.submit(stage.record(started, status, outputs), stage.root / ".work" / "spool")
    stage.log(f"done in {time.time() - started:.1f} s")
