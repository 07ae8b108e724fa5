"""The harness around every stage: parameters, inputs, outputs, lock, scratch space, progress, tracking, exit codes.

    stages/<name>/__main__.py:
        def main(stage: Stage) -> None: ...
        if __name__ == "__main__":
            run("<name>", main)

Exit codes: 0 done, 2 bad input (one readable line), 1 a defect (traceback), 143 terminated.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from webdistill.core import dependencies, files, params, recorded, tracking
from webdistill.core.dvc_hash import dvc_hash
from webdistill.core.errors import UserError
from webdistill.core.progress import progress

T = TypeVar("T")


class Stage:
    """What a stage's main() works with."""

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
        if cell is not None:  # outside the cell, which DVC empties before it runs
            scratch = scratch / "cells" / "-".join(_relative(cell, self.root).parts)
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

    def input(self, name: str) -> Path:
        """A file or folder an earlier stage made, or the user's own. Folders are checked against their manifest,
        both against dvc.lock.

        In a cell (`--cell`) the cell's own `<stage>/...` is taken when it has it, else the one in `--from`.
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
        self.inputs[read], self.hashes[read] = files.digest(path), dvc_hash(path, self.root)
        return path

    def check_declared(self, path: Path) -> None:
        """For what is read without `input`. Raises UserError when DVC would not notice that `path` has changed."""
        if self._cell is None:
            dependencies.check_declared(self.root, self.name, path, self.settings.raw)

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
        """A folder for work that survives a kill. It is another one when the code or `facts` have changed.

        Put every fact into `facts` that decides what is kept there: parameters, inputs, device. Folders of other
        facts are removed.
        """
        code = tracking.code_digest(Path(__file__).parents[2], f"stages/{self.name}", "webdistill")
        key = hashlib.sha256(json.dumps([code, facts], default=str, sort_keys=True).encode())
        folder = self.work / f"resume-{key.hexdigest()[:16]}"
        for other in self.work.glob("resume-*"):
            if other != folder:
                files.remove(other)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def when_published(self, action: Callable[[], object]) -> None:
        """Clean up only when the outputs are in place: a kill before that loses no work."""
        self._cleanup.append(action)

    @contextlib.contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """A path to write; it becomes `data/<stage>/<name>` when the whole stage has succeeded.

        Create a folder at the path to publish a folder; its manifest is written here.
        """
        path = self._out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
        if path.is_dir():
            files.write_manifest(path)
        self._outputs.append(name)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Counts and quality figures for metrics.json and tracking. Never a duration: see `track_metrics`."""
        self._metrics.update(values)

    def track_metrics(self, values: Mapping[str, float]) -> None:
        """Figures for tracking only: durations, rates, memory."""
        self.track_values.update(values)

    def curve(self, name: str, value: float, step: int) -> None:
        """One point of a per-epoch series, for tracking."""
        self.curves.setdefault(name, []).append((step, float(value)))

    def artifact(self, path: Path) -> None:
        """A file to keep with the tracked run; may be an output of this stage."""
        self.artifacts.append(path)

    def picture(self, name: str, data: bytes) -> None:
        """A picture to keep with the tracked run."""
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
        """Yield items while a bar on stderr shows count, rate and time left."""
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

    def record(self, started: float, status: str, outputs: Mapping[str, str]) -> tracking.Record:
        """What tracking gets to know about this run."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        flat = self.settings.flat()
        ended = time.time()
        lock, measured = tracking.locked(self.root) if self._cell is None else ("", {})
        return tracking.Record(
            stage=self.name,
            params={k: v for k, v in flat.items() if k.split(".")[0] in (self.name, "task")},
            parent_key=tracking.experiment_key(flat, self.root),
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
            tags={"cell": str(_relative(self._cell, self.root))} if self._cell is not None else {},
            started=started,
            ended=ended,
            status=status,
        )


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else Path(path.name)


def _made_by_stage(name: str) -> str | None:
    """`data/filter/kept.parquet` -> `filter`; None for the user's own files."""
    parts = Path(name).parts
    return parts[1] if len(parts) > 1 and parts[0] == "data" and parts[1] in params.STAGES else None


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run of stage '{work.name}' is under way in this folder; wait for it"
            ) from None
        yield


def die_with_parent() -> None:
    """A killed `dvc repro` must not leave its stage running (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _prepare(settings: params.Params) -> None:
    """Threads and seeds, before torch, numpy or faiss are imported."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(settings.task.threads)
    random.seed(settings.task.seed)


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
    """Run a stage as a program. `dry`: what `--dry-run` calls instead; it writes nothing and takes no lock."""
    arguments = _arguments(name, argv, dry=dry is not None)
    try:
        settings = params.load(arguments.params, arguments.set)
        die_with_parent()
        _prepare(settings)
        cell = arguments.cell.resolve() if arguments.cell is not None else None
        if arguments.source is not None and cell is None:
            raise UserError("--from is for cells; name the cell's folder with --cell")
        stage = Stage(name, settings, cell, arguments.source or Path("data"))
        if dry is not None and arguments.dry_run:
            dry(stage)
            sys.exit(0)
        with files.room_on_disk(stage.work), _locked(stage.work):
            _run_locked(stage, main)
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
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
    except UserError:
        raise
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        files.remove(stage._out)
        tracking.submit(stage.record(started, status, outputs), stage.root / ".work" / "spool")
    stage.log(f"done in {time.time() - started:.1f} s")
