"""The command `init`: its arguments (nothing heavy is imported before it is run) and what it writes."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webdistill.init.choices import Choices


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`init`"""
    init = commands.add_parser(
        "init",
        help="make a project of your own here: params.yaml, dvc.yaml, teacher, test set",
        description="In an empty folder or a clone. On a terminal it asks for what no flag says. An empty folder gets "
        "copies of the code folders stages/ and webdistill/: DVC hashes them, and they are what runs.",
    )
    add = init.add_argument
    add("--teacher", metavar="FOLDER", help="with config.json and weights; default: teacher")
    add("--network", metavar="NAME", help="make that folder: torchvision:resnet18, resnet20, ...")
    add("--weights", metavar="FILE", help="of --network: .safetensors, or .pt with a state dict")
    add("--mean", metavar="R,G,B", help="of --network; default: ImageNet's")
    add("--std", metavar="R,G,B", help="of --network; default: ImageNet's")
    add("--classes", metavar="A,B,C|FILE", help="default: those in the teacher's config.json")
    add("--image-size", type=int, metavar="PX", help="default: the teacher's")
    add(
        "--source",
        action="append",
        metavar="PATH|openverse|wikimedia",
        help="list, tar or folder of images, or an API; may be repeated",
    )
    add("--test", metavar="FOLDER", help="labelled test images, a subfolder per class")
    add("--test-images", type=Path, metavar="FILE", help="or Parquet (id, image) ...")
    add("--test-labels", type=Path, metavar="FILE", help="... and Parquet (id, label)")
    add("--student", metavar="NAME", help="default: wrn-16-1, for large images mobilenet_v3_small")
    add("--clip", metavar="FOLDER|NAME:TAG", help="open_clip model for the filter")
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="any other parameter; may be repeated",
    )
    add("--yes", action="store_true", help="ask nothing")
    add("--force", action="store_true", help="replace files that exist")
    add(
        "--code",
        action="store_true",
        help="after an update: only copy stages/ and webdistill/, which you have removed, anew",
    )


def init(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> what was written and what comes next, and the exit code. Raises UserError naming the flag that is wrong."""
    from webdistill.check_teacher.command import run
    from webdistill.init import choices, template

    root = Path()
    if arguments.code:
        return _renew_code(root), 0
    chosen = choices.choose(arguments)
    texts = {
        "params.yaml": checked(template.rendered_params(chosen.values)),
        "dvc.yaml": template.rendered_pipeline(chosen.clip, _own_code(chosen)),
    }
    _refuse_overwriting(chosen, list(texts), arguments.force)
    written = _write_material(chosen)
    copied = template.copy_code(root)
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    for name in template.KEPT:
        if not (root / name).exists():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(template.find(name).read_bytes())
            written.append(name)
    if not (root / ".gitignore").exists():
        (root / ".gitignore").write_text(template.IGNORED, encoding="utf-8")
        written.append(".gitignore")
    written += _start_dvc(root)
    table, failed = run(None, None, None, root / "params.yaml")
    listed = ", ".join([*texts, *written, *(f"{name}/" for name in copied)])
    return f"written: {listed}\n\n{table}\n\n{_next(chosen)}", 2 if failed else 0


def _renew_code(root: Path) -> str:
    """The installed code folders in place of those that were removed."""
    from webdistill.core.errors import UserError
    from webdistill.init import template

    copied = template.copy_code(root)
    if not copied:
        raise UserError("stages and webdistill are here; remove both, --code copies the installed")
    return f"written: {', '.join(f'{name}/' for name in copied)}\nnext: python -m webdistill check, dvc repro"


def _own_code(chosen: Choices) -> dict[str, list[str]]:
    """Stage -> the user's files that its networks are in."""
    from webdistill.core.errors import UserError
    from webdistill.models.checkpoint import read_card
    from webdistill.models.names import own_code

    new = chosen.new_teacher
    try:
        teacher = own_code(new.network if new else read_card(chosen.teacher).architecture)
    except UserError as error:
        raise UserError(f"--network: {error}") from None
    both = sorted({*teacher, *own_code(chosen.values["distill.student"])})
    return {"score": teacher, "distill": both, "evaluate": both}


def checked(text: str) -> str:
    """The text, once it has passed as a params.yaml. Raises UserError naming the key."""
    from webdistill.core import params
    from webdistill.core.errors import UserError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            params.load(path)
        except UserError as error:
            problem = str(error).removeprefix(f"{path}: ")
            raise UserError(f"the flags do not give a valid params.yaml: {problem}") from None
    return text


def _refuse_overwriting(chosen: Choices, names: list[str], force: bool) -> None:
    """Everything is looked at before anything is written."""
    from webdistill.core.errors import UserError

    paths = [Path(name) for name in names]
    if chosen.new_teacher is not None:
        paths.append(chosen.teacher / "config.json")
    if chosen.test:
        paths += [Path(chosen.values[f"task.test_{what}"]) for what in ("images", "labels")]
    existing = [str(path) for path in paths if path.exists()]
    if existing and not force:
        raise UserError(f"{', '.join(existing)} exist already; --force replaces them")


def _write_material(chosen: Choices) -> list[str]:
    """Teacher folder and test set. -> what was written"""
    from webdistill.init import material
    from webdistill.init.choices import NO_LISTS, TEST

    written = []
    if chosen.new_teacher is not None:
        material.write_teacher(chosen.new_teacher, chosen.teacher)
        written.append(f"{chosen.teacher}/")
    if chosen.test or not (chosen.own_test or _labelled()):  # without --test, what is there stays
        count = material.write_test(chosen.test, chosen.values["fetch.store_size"], TEST)
        written.append(f"{TEST}/ ({count:,} labelled images)")
    if chosen.values["search.local"] == NO_LISTS:
        Path(NO_LISTS).mkdir(parents=True, exist_ok=True)
    return written


def _labelled() -> bool:
    """Whether there are test images from before."""
    import pyarrow.parquet as pq

    from webdistill.init.choices import TEST

    path = TEST / "images.parquet"
    return path.is_file() and pq.read_metadata(path).num_rows > 0


def _start_dvc(root: Path) -> list[str]:
    """`dvc init` where it has not been, with its reports home switched off."""
    from webdistill.core.errors import UserError

    if (root / ".dvc").is_dir():
        return []
    command = ["git", "rev-parse", "--show-prefix"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    flag = ["--no-scm"] if git.returncode else ["--subdir"] if git.stdout.strip() else []
    dvc = [sys.executable, "-m", "dvc"]
    for command in (
        [*dvc, "init", "-q", *flag],
        [*dvc, "config", "core.analytics", "false"],
        [*dvc, "config", "core.check_update", "false"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise UserError(f"`dvc {' '.join(command[3:])}` failed: {''.join(reason)}")
    return [".dvc/"]


def _next(chosen: Choices) -> str:
    lines = ["next"]
    if any(chosen.values[f"search.{name}.enabled"] for name in ("openverse", "wikimedia")):
        lines.append(
            _step("export WEBDISTILL_CONTACT=...", "mail address or page, sent to servers")
        )
    lines += [
        _step("dvc repro embed", "collects the images"),
        _step("python -m webdistill fit", "how they relate to the teacher, before any training"),
    ]
    if chosen.test or chosen.own_test or _labelled():
        lines.append(_step("dvc repro", "student, accuracy, report"))
    else:
        lines += [
            _step("dvc repro distill", "the student"),
            "There are no test images: its accuracy stays unknown, and nothing guards against copies of them.",
            "Label some hundred images of your own, a folder per class, and run init again with --test and --force.",
        ]
    if chosen.clip is None:
        model = chosen.values["embed.model"]
        lines.append(
            f"open_clip downloads the weights of {model} once; --clip names another or a folder."
        )
    return "\n".join(lines)


def _step(command: str, what: str) -> str:
    return f"  {command:<31}  {what}"
