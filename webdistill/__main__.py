"""python -m webdistill: begin, check, look at a pool, run stages side by side, follow an image, say what to open."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from webdistill.core import params
from webdistill.core.errors import UserError
from webdistill.core.files import read_json
from webdistill.fit import command as fitting
from webdistill.init import command as starting
from webdistill.kept import keep
from webdistill.life import command as life
from webdistill.lineage import workspace
from webdistill.repro import command as parallel


def check(path: Path) -> str:
    """Validate the whole file. -> one line"""
    settings = params.load(path)
    return f"{path} is valid: {len(settings.flat())} parameters in {len(settings.sections) + 1} sections"


def results(root: Path) -> str:
    """The figures of the last run below `root` and what to open. Raises UserError when there was none."""
    report = root / "data" / "report" / "report.html"
    if not report.is_file():  # while metrics.json may have come with git
        raise UserError(
            f"there is no {report}; run `dvc repro`, or `dvc pull` what others have run"
        )
    measured = read_json(root / "data" / "evaluate" / "metrics.json")
    if os.environ.get("MLFLOW_TRACKING_URI"):
        tracked = "the server that MLFLOW_TRACKING_URI names"
    else:
        store = f"sqlite:///{root / 'mlflow.db'}"
        tracked = (
            f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri '{store}'"
        )
    return "\n".join(
        (
            (
                f"student  {measured['top1']:.1%} on the test images, teacher {measured['teacher_top1']:.1%}; "
                f"{measured['parameters']:,} of {measured['teacher_parameters']:,} parameters"
            ),
            f"report   {report}",
            f"MLflow   {tracked}",
            "metrics  dvc metrics show",
            "plots    dvc plots show",
        )
    )


def shown(root: Path, name: str | None) -> str:
    """What `results` says; keeps the last run under `name` before."""
    text = results(root)
    if name is None:
        return text
    path = keep(root, name)
    return f"{text}\nkept     {path}; `dvc repro report` compares with it, `git add` shares it"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m webdistill", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="validate params.yaml, all sections")
    checking.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: params.yaml"
    )
    showing = commands.add_parser("results", help="the figures of the last run and what to open")
    showing.add_argument(
        "--keep",
        metavar="NAME",
        help="also write them to experiments/NAME.json; the report compares later runs with these files",
    )
    _add_check_teacher(commands)
    starting.add_command(commands)
    fitting.add_command(commands)
    life.add_commands(commands)
    workspace.add_command(commands)
    parallel.add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        text, code = _answer(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    _write(text)
    return code


def _answer(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> what to say, and the exit code."""
    match arguments.command:
        case "check":
            return check(arguments.params), 0
        case "check-teacher":
            text, failed = check_teacher(arguments)
            return text, 2 if failed else 0
        case "init":
            return starting.init(arguments)
        case "fit":
            return fitting.fit(arguments), 0
        case "why":
            return life.why(arguments)
        case "lost":
            return life.lost(arguments)
        case "prove-absent":
            return life.prove_absent(arguments)
        case "track":
            return workspace.track(Path.cwd())
        case "repro":
            return parallel.repro(arguments)
        case _:
            return shown(Path.cwd(), arguments.keep), 0


def _write(text: str) -> None:
    """A terminal that cannot show a letter gets its code; a reader that has seen enough (`| head`) is no error."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor at exit


def _add_check_teacher(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    checking = commands.add_parser(
        "check-teacher",
        help="will a teacher work with this task: weights, classes, size, normalisation, speed",
        description="Exit code 0 when nothing failed, else 2.",
    )
    add = checking.add_argument
    add("folder", type=Path, nargs="?", help="of the teacher; default: task.teacher")
    add(
        "--images",
        type=Path,
        help="pool or Parquet file (id, image) of real images; default: data/fetch/pool if it is there, else "
        "task.test_images",
    )
    add(
        "--labels",
        type=Path,
        help="Parquet file (id, label) for the accuracy; default: none, the task's labels are not read unless named "
        "here. With it the default of --images is task.test_images",
    )
    add("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")


def check_teacher(arguments: argparse.Namespace) -> tuple[str, bool]:
    """-> the table of findings, and whether one of them failed."""
    from webdistill.check_teacher.command import run  # torch takes a second

    return run(arguments.folder, arguments.images, arguments.labels, arguments.params)


if __name__ == "__main__":
    sys.exit(main())
