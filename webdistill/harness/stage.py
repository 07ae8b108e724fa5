"""A stage as a program: what its main() is given, and how it starts and ends.

    stages/<name>/__main__.py:
        def main(stage: Stage) -> None: ...
        if __name__ == "__main__":
            run("<name>", main)

Exit codes: 0 done, 2 bad input (one readable line), 1 a defect (traceback), 130 Ctrl-C, 143 terminated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from webdistill.core import determinism, files
from webdistill.core.errors import UserError
from webdistill.engine import choice
from webdistill.harness import closure, dependencies, params, places, recorded
from webdistill.harness.arguments import parse
from webdistill.harness.dvc_hash import dvc_hash
from webdistill.harness.lifetime import INTERRUPTED, die_with_parent
from webdistill.harness.progress import progress
from webdistill.harness.slices import short_slices
from webdistill.harness.underway import carry_out

T = TypeVar("T")


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
        self.places = places.Places(self.root, cell, source)
        self.data, self.work = self.places.outputs(name), self.places.work(name)
        self.inputs: dict[str, str] = {}  # path -> sha256
        # for tracking
        self.hashes: dict[str, str] = {}  # path -> DVC's hash
        self.tags = {} if cell is None else {"cell": str(self.places.relative(cell))}
        self.metric_values: dict[str, float] = {}
        self.track_values: dict[str, float] = {}
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.artifacts: list[Path] = []  # where they are once the outputs are in place

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
        path = self.places.existing(name)
        self.check_declared(path)
        own = places.made_by_stage(name) is None
        if listed := path.is_dir() and not own:
            files.check_manifest(path)
        recorded.check_recorded(self.root, path, listed=listed)
        read = name if path == Path(name) else os.path.relpath(path, self.root)
        self.inputs[read] = files.digest(path)
        # a manifest in a folder of the user's own is nobody's word for what lies there
        self.hashes[read] = dvc_hash(path, self.root, afresh=own)
        return path

    def check_declared(self, *paths: Path) -> None:
        """Check paths that are read without `input`, such as code.

        Arguments:
            paths: files or folders, from the project's root.

        Raises:
            UserError: DVC runs this stage and dvc.yaml does not declare one of them, so that DVC would not notice its
                changes.
        """
        if self.places.cell is None:
            dependencies.check_declared(self.root, self.name, paths, self.settings.raw)

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

        self._families |= set(closure.families(*architectures))
        self.check_declared(*(path.relative_to(closure.CODE) for path in sorted(self._families)))
        own = own_code(*architectures)
        for file in own:
            self.input(file)
        return own

    def code_digest(self) -> str:
        """sha256 of the code that decides the stage's bytes: its imports, and the families of its networks."""
        return closure.digest(closure.CODE, [closure.CODE / file for file in self.code_files()])

    def code_files(self) -> list[str]:
        """The code of `code_digest`, relative to where it is installed."""
        root = closure.CODE
        own = closure.closure(root, closure.of_stage(root, self.name)) | self._families
        return sorted(path.relative_to(root).as_posix() for path in own)

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
        self.metric_values.update(values)

    def track_metrics(self, values: Mapping[str, float]) -> None:
        """Add metrics to tracking alone: durations, rates, memory."""
        self.track_values.update(values)

    def curve(self, name: str, value: float, step: int) -> None:
        """Add a point to the curve `name` in tracking; `step` is usually the epoch."""
        self.curves.setdefault(name, []).append((step, float(value)))

    def artifact(self, path: Path) -> None:
        """Attach a file to the run in tracking; it may be an output of this stage."""
        if path.is_relative_to(self._out):
            path = self.data / path.relative_to(self._out)
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
            files.write_json(self.metric_values, path)
        published = {}
        for name in self._outputs:
            files.replace(self._out / name, self.data / name)
            path = self.data / name
            published[str(self.places.relative(path))] = dvc_hash(path, self.root)
        for action in self._cleanup:
            action()
        return published

    def discard(self) -> None:
        """Remove outputs that are not published."""
        files.remove(self._out)


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
    arguments = parse(name, argv, dry=dry is not None)
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
        carry_out(stage, main, shared=engine == "array")
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command resumes from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)
