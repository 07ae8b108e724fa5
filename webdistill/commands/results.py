"""python -m webdistill results: the figures of the last run, what to open, `--keep`; or DVC's experiments, ranked."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from webdistill.commands.behind import behind
from webdistill.commands.ranking import ranking
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, sha256_file
from webdistill.harness import spool
from webdistill.harness.wording import plural

SPEED = Path(".work/evaluate/speed.json")  # of this machine
KINDS = {"teacher": "teacher", "torch": "student", "onnx": "ONNX", "int8": "int8"}


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`results`"""
    command = commands.add_parser("results", help="the figures of the last run and what to open")
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--experiments",
        action="store_true",
        help="instead: DVC's experiments of this commit, the best student by held-out agreement first",
    )
    which.add_argument(
        "--keep",
        metavar="NAME",
        help="also write them to experiments/NAME.json; the report compares later runs with these files",
    )
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> tuple[str, int]:
    root = Path.cwd()
    return ranking(root) if arguments.experiments else shown(root, arguments.keep), 0


def results(root: Path) -> str:
    """The figures of the last run below `root` and what to open. Raises UserError when there was none."""
    report = root / "data" / "report" / "report.html"
    metrics = root / "data" / "evaluate" / "metrics.json"
    for file in (report, metrics):  # the second may have come with git alone
        if not file.is_file():
            raise UserError(
                f"there is no {file}; run `dvc repro`, or `dvc pull` what others have run"
            )
    measured = read_json(metrics)
    return "\n".join(
        (
            *_older(root),
            (
                f"student  {measured['top1']:.1%} on the test images, teacher {measured['teacher_top1']:.1%}; "
                f"{measured['parameters']:,}{_of_teacher(measured)} parameters"
            ),
            *_deployed(root, measured),
            f"report   {report}",
            *_tracked(root),
            "metrics  dvc metrics show",
            "plots    dvc plots show",
        )
    )


def _older(root: Path) -> Iterator[str]:
    """A line where a run since was not finished, or would make other figures."""
    if stages := behind(root):
        yield (
            "older    these figures are not of the present parameters, code and inputs, or a run was not finished: "
            f"`dvc repro` would run {', '.join(stages)} and what follows"
        )


def _of_teacher(measured: Mapping[str, float]) -> str:
    """Nothing of a teacher without weights of its own, whose size is not known."""
    return f" of {measured['teacher_parameters']:,}" if "teacher_parameters" in measured else ""


def _tracked(root: Path) -> Iterator[str]:
    """How to see all runs: the program, and the page with the columns that matter."""
    file = root / ".work" / "spool" / spool.PAGE  # once the first record has arrived
    page = file.read_text() if file.is_file() else "#/experiments"
    if os.environ.get("MLFLOW_TRACKING_URI"):  # which may hold a password
        yield f"MLflow   the server that MLFLOW_TRACKING_URI names, page /{page}"
        return
    store = f"sqlite:///{root / 'mlflow.db'}"
    yield f"MLflow   mlflow ui --backend-store-uri '{store}'"
    yield f"         and open http://127.0.0.1:5000/{page}"


def _deployed(root: Path, measured: Mapping[str, float]) -> Iterator[str]:
    """The int8 export, and the speed where this machine measured the very student."""
    if "int8_top1" in measured:
        yield (
            f"int8     {measured['int8_top1']:.1%}, {measured['int8_bytes'] / 1e6:.2f} MB; float32 "
            f"{measured['onnx_bytes'] / 1e6:.2f} MB"
        )
    graph, path = root / "data/evaluate/student.onnx", root / SPEED
    if not (graph.is_file() and path.is_file()):
        return
    times = read_json(path)
    if times["student"] == sha256_file(graph):
        found = ", ".join(
            f"{title} {times[key]:.2f}"
            for name, title in KINDS.items()
            if (key := f"latency_{name}_b1_ms") in times
        )
        threads = times["threads"]
        yield f"speed    ms an image, CPU, {plural(threads, 'thread')}: {found}"


def shown(root: Path, name: str | None) -> str:
    """What `results` says; keeps the last run under `name` before."""
    from webdistill.experiments import keep

    text = results(root)
    if name is None:
        return text
    path = keep(root, name)
    return f"{text}\nkept     {path}; `dvc repro report` compares with it, `git add` shares it"
