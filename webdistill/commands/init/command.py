"""The command `init`: its arguments (nothing heavy is imported before it is run) and what it writes."""

from __future__ import annotations

import argparse
import configparser
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from webdistill.commands.plan import SECONDS, check_seconds

if TYPE_CHECKING:
    from webdistill.commands.init.choices import Choices


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
    add(
        "--weights",
        metavar="FILE",
        help="of --network: .safetensors, .pt with a state dict, or `pretrained`: the library's, with its classes",
    )
    add("--mean", metavar="R,G,B", help="of --network; default: ImageNet's")
    add("--std", metavar="R,G,B", help="of --network; default: ImageNet's")
    add("--classes", metavar="A,B,C|FILE", help="default: those in the teacher's config.json")
    add("--image-size", type=int, metavar="PX", help="default: the teacher's")
    add(
        "--source",
        action="append",
        metavar="PATH|openverse|wikimedia|inaturalist",
        help="list, tar or folder of images, or an API; may be repeated",
    )
    add("--test", metavar="FOLDER", help="labelled test images, a subfolder per class")
    add("--test-images", type=Path, metavar="FILE", help="or Parquet (id, image) ...")
    add("--test-labels", type=Path, metavar="FILE", help="... and Parquet (id, label)")
    add("--student", metavar="NAME", help="default: one that is smaller than the teacher")
    add("--clip", metavar="FOLDER|NAME:TAG", help="open_clip model for the filter")
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="any other parameter; may be repeated",
    )
    add(
        "--trial",
        type=float,
        metavar="S",
        default=SECONDS,
        help="seconds of trial, to say what a run will take; 0: none (%(default)g)",
    )
    add("--yes", action="store_true", help="ask nothing")
    add("--force", action="store_true", help="replace files that exist")
    add(
        "--code",
        action="store_true",
        help="after an update of webdistill: copy stages/ and webdistill/ again, once you have removed them",
    )
    init.set_defaults(run=write_project)


def write_project(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> what was written and what comes next, and the exit code. Raises UserError naming the flag that is wrong."""
    from webdistill.commands.check_teacher.command import run
    from webdistill.commands.init import choices, template

    root = Path()
    if arguments.code:
        return _renew_code(root), 0
    check_seconds("--trial", arguments.trial)
    chosen = choices.choose(arguments)
    params = checked(template.rendered_params(chosen.values))
    clip, weights = template.named_files(params)
    pipeline = template.rendered_pipeline(clip, _networks(chosen), weights=weights)
    texts = {"params.yaml": params, "dvc.yaml": pipeline}
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
    costs = "" if failed else f"\n\n{_plan(root / 'params.yaml', arguments.trial)}"
    listed = ", ".join([*texts, *written, *(f"{name}/" for name in copied)])
    notes = "".join(f"{note}\n" for note in _notes(chosen))
    told = f"written: {listed}\n{notes}\n{table}{costs}\n\n{_next(chosen, failed=bool(failed))}"
    return told, 2 if failed else 0


def _plan(path: Path, seconds: float) -> str:
    """What the run will cost, where its pictures can be counted before `search`."""
    from webdistill.commands.plan.command import table
    from webdistill.commands.plan.counting import counted
    from webdistill.harness import params

    settings = params.load(path)
    if not counted(settings.raw).selected:
        return "what the run will cost: unknown, there are no pictures to count yet; see `webdistill plan`"
    return table(settings, None, seconds)


def _notes(chosen: Choices) -> list[str]:
    """What is missing in the test set, and folders of images that no class is named after."""
    from webdistill.commands.init import material

    classes, local = chosen.values["task.classes"], Path(chosen.values["search.local"])
    words = chosen.values.get("search.keywords", {})
    found = [
        material.untested(chosen.test, classes),
        material.nameless(local, classes, words) if local.is_dir() else "",
    ]
    return [f"note: {text}" for text in found if text]


def _renew_code(root: Path) -> str:
    """The installed code folders in place of those that were removed."""
    from webdistill.commands.init import template
    from webdistill.core.errors import UserError

    copied = template.copy_code(root)
    if not copied:
        raise UserError("stages and webdistill are here; remove both, --code copies the installed")
    told = f"written: {', '.join(f'{name}/' for name in copied)}\n"
    if removed := _removed_code(root):
        told += (
            f"dvc.yaml names code that this version has no more: {', '.join(removed)}; compare it with the "
            "dvc.yaml of a fresh `webdistill init` in an empty folder\n"
        )
    return f"{told}next: python -m webdistill check, dvc repro"


def _removed_code(root: Path) -> list[str]:
    """Code among the deps in dvc.yaml that is not here."""
    from webdistill.harness.dvc_status import CODE
    from webdistill.harness.params import read_yaml

    deps = [
        dep for stage in read_yaml(root / "dvc.yaml")["stages"].values() for dep in stage["deps"]
    ]
    return sorted({dep for dep in deps if dep.startswith(CODE) and not (root / dep).exists()})


def _networks(chosen: Choices) -> dict[str, list[str]]:
    """Stage -> the files that its networks are in: the project's families, and the user's own."""
    from webdistill.core.errors import UserError
    from webdistill.models.checkpoint import read_card

    new = chosen.new_teacher
    try:
        teacher = _files(*([new.network] if new else read_card(chosen.teacher).built_from))
    except UserError as error:
        raise UserError(f"--network: {error}") from None
    both = sorted({*teacher, *_files(chosen.values["distill.student"])})
    return {"score": teacher, "distill": both, "evaluate": both}


def _files(*architectures: str) -> list[str]:
    from webdistill.harness.closure import CODE, families
    from webdistill.models.names import own_code

    ours = [path.relative_to(CODE).as_posix() for path in families(*architectures)]
    return sorted({*ours, *own_code(*architectures)})


def checked(text: str) -> str:
    """The text, once it has passed as a params.yaml. Raises UserError naming the key."""
    from webdistill.core.errors import UserError
    from webdistill.harness import params

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
    from webdistill.commands.init import material
    from webdistill.commands.init.choices import NO_LISTS, TEST

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

    from webdistill.commands.init.choices import TEST

    path = TEST / "images.parquet"
    return path.is_file() and pq.read_metadata(path).num_rows > 0


def _start_dvc(root: Path) -> list[str]:
    """`dvc init` where it has not been, with its reports home switched off and plots that need no network."""
    from webdistill.commands.init import template
    from webdistill.core.errors import UserError

    if (root / ".dvc").is_dir():
        return []
    command = ["git", "rev-parse", "--show-prefix"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    flag = ["--no-scm"] if git.returncode else ["--subdir"] if git.stdout.strip() else []
    words = ["init", "-q", *flag]
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise UserError(f"`dvc {' '.join(words)}` failed: {''.join(reason)}")
    config = configparser.ConfigParser()
    config.read(root / ".dvc" / "config")  # `dvc config` would start DVC once an option
    plots = Path(template.PLOTS).name
    core = {"analytics": "false", "check_update": "false"}
    config.read_dict({"core": core, "plots": {"html_template": plots}})
    with (root / ".dvc" / "config").open("w") as file:
        config.write(file)
    (root / template.PLOTS).write_bytes(template.find(template.PLOTS).read_bytes())
    return [".dvc/"]


def _next(chosen: Choices, *, failed: bool) -> str:
    from webdistill.commands.init.choices import APIS

    lines = ["next"]
    if failed:
        lines.append(_step("python -m webdistill check-teacher", "once what failed is mended"))
    if any(chosen.values[f"search.{name}.enabled"] for name in APIS):
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
    return f"  {command:<34}  {what}"
