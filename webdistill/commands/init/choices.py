"""What the flags, the questions and the teacher's card say -> the parameters of the new project."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.distill.method_params import PLAIN
from stages.search.keywords import Keywords
from webdistill.commands.init.class_names import class_names
from webdistill.commands.init.material import NewTeacher, Triple, labelled
from webdistill.commands.init.template import QUICKSTART_CLIP
from webdistill.commands.plan import sizes
from webdistill.core.errors import UserError

if TYPE_CHECKING:
    from webdistill.models.classifier import Classifier

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STUDENTS = (  # for small, for large images: the first that is smaller than the teacher
    ("wrn-16-1", "torchvision:mobilenet_v3_small", "resnet8"),
    ("torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x0_5"),
)
CLIP = "ViT-B-32:laion2b_s34b_b79k"
APIS = ("openverse", "wikimedia", "inaturalist")
NO_LISTS = "data/lists"  # an empty folder, where images come from the APIs alone
TEST = Path("data/test")
FLAGS = {  # what init makes files for -> what says it
    "task.classes": "--classes or the teacher's config.json",
    "task.teacher": "--teacher",
    "task.test_images": "--test or --test-images",
    "task.test_labels": "--test or --test-labels",
}
UNKNOWN = 10_000  # pictures for which the schedule is made where nothing can be counted


@dataclass(frozen=True)
class Choices:
    """`values`: `section.key` -> value for params.yaml; `test`: files with their class, [] = there are none."""

    values: dict[str, Any]
    teacher: Path
    new_teacher: NewTeacher | None
    test: list[tuple[Path, int]]
    own_test: bool  # the user's own Parquet files are named
    clip: str | None  # folder of a local CLIP


def choose(arguments: argparse.Namespace) -> Choices:
    """Flags first, then questions on a terminal, then defaults. Raises UserError naming the flag that is wrong."""
    ask = question if sys.stdin.isatty() and not arguments.yes else unasked
    teacher = Path(arguments.teacher or ask("folder of the teacher", "teacher"))
    network = arguments.network
    if network is None and not (teacher / "config.json").is_file():
        text = f"{teacher} has no config.json; network of your weights, e.g. torchvision:resnet18"
        network = ask(text, "") or None
        if network is None:
            raise UserError(
                f"--teacher {teacher}: there is no {teacher / 'config.json'}; name a teacher's folder, or let init "
                "make it from --network and --weights"
            )
    classes, size, new = _teacher(arguments, teacher, network, ask)
    sources = arguments.source or [
        ask("images: list, folder or tar, or openverse, wikimedia, inaturalist", "")
    ]
    values: dict[str, Any] = {
        "task.classes": list(classes),
        "task.image_size": size,
        "task.teacher": teacher.as_posix(),
        **_sources(sources),
        "filter.min_score": "30%",  # of the pool itself: numbers are of one CLIP
        "filter.min_margin": "40%",
        "select.budget": 1.0,  # half, the most confident, taught less on a real task: what is easy for the teacher
        "report.truth": False,
    }
    clip = arguments.clip or (QUICKSTART_CLIP if Path(QUICKSTART_CLIP).is_dir() else CLIP)
    local = Path(clip).is_dir()
    if not local and ":" not in clip:
        raise UserError(
            f"--clip {clip}: there is no such folder; an open_clip model is named with its weights, as {CLIP}"
        )
    model, _, tag = (f"local-dir:{clip}", "", "") if local else clip.partition(":")
    if model in ("local-dir", "hf-hub"):  # as in params.yaml: weights of their own
        model, tag = clip, ""
    values |= {"embed.model": model, "embed.pretrained": tag or None}
    own = arguments.test_images is not None
    if own != (arguments.test_labels is not None):
        raise UserError("--test-images and --test-labels belong together; name both")
    images, labels = arguments.test_images, arguments.test_labels
    for flag, path in (("--test-images", images), ("--test-labels", labels)):
        if path is not None and not path.is_file():
            raise UserError(f"{flag} {path}: there is no such file")
    values["task.test_images"] = (images or TEST / "images.parquet").as_posix()
    values["task.test_labels"] = (labels or TEST / "labels.parquet").as_posix()
    given = dict(_set(text) for text in arguments.set)
    _refuse_contradictions({**values, **given}, given, _trained_at(teacher, new))
    keywords = Keywords(classes, given.get("search.keywords"))  # refuses two spellings of a class
    folder = arguments.test
    if folder is None and not own:
        folder = ask("test images, a folder per class (empty: none)", "") or None
    if folder is not None and Path(folder).resolve() == Path(values["search.local"]).resolve():
        raise UserError(
            f"--test {folder}: --source names the same folder, and the filter drops copies of test images; move some "
            "pictures of each class to a folder of their own"
        )
    side = {**values, **given}["task.image_size"]
    net = _network(teacher, new, len(classes), side)
    values |= _method(net)
    values |= _sized(values, given, teacher, new, net)
    values |= given
    if "distill.student" not in given:
        values["distill.student"] = arguments.student or _student(net, len(classes), side)
    return Choices(
        values=values,
        teacher=teacher,
        new_teacher=new,
        test=[] if folder is None else labelled(Path(folder), keywords),
        own_test=own,
        clip=clip if local else None,
    )


def question(text: str, default: str) -> str:
    sys.stderr.write(f"{text}{f' [{default}]' if default else ''}: ")
    sys.stderr.flush()
    try:
        return input().strip() or default
    except EOFError:
        raise UserError("no answer; flags say the same without questions, see --help") from None


def unasked(_text: str, default: str) -> str:
    return default


def _teacher(
    arguments: argparse.Namespace,
    teacher: Path,
    network: str | None,
    ask: Callable[[str, str], str],
) -> tuple[tuple[str, ...], int, NewTeacher | None]:
    """-> classes, image size, and what is to be made."""
    from webdistill.models.checkpoint import read_card

    named = class_names(arguments.classes) if arguments.classes else None
    if network is None:
        for flag in ("weights", "mean", "std"):
            if getattr(arguments, flag) is not None:
                raise UserError(f"--{flag} goes with --network; {teacher} has its own config.json")
        card = read_card(teacher)
        if named is not None and named != card.classes:
            raise UserError(
                f"--classes differ from those in {teacher / 'config.json'}, which say what the outputs mean; leave the "
                "flag out"
            )
        size = card.image_size if arguments.image_size is None else arguments.image_size
        return card.classes, size, None
    if named is None:
        named = class_names(ask("classes in the order of the outputs: a, b, c or a file", ""))
    weights = arguments.weights or ask(f"file with the weights of {network}", "") or None
    if weights is None:
        raise UserError(
            "--weights is missing: a .safetensors or .pt file with a state dict, or `pretrained`"
        )
    size = arguments.image_size
    if size is None:
        size = 224 if network.startswith(("torchvision:", "timm:")) else 32
    new = NewTeacher(
        network=network,
        weights=Path(weights),
        classes=named,
        image_size=size,
        mean=_triple("--mean", arguments.mean) or IMAGENET_MEAN,
        std=_std(arguments.std) or IMAGENET_STD,
    )
    return named, size, new


def _student(teacher: Classifier | None, classes: int, size: int) -> str:
    """The first default with fewer parameters and multiply-adds than the teacher, else the last."""
    from stages.distill.cost import Size
    from webdistill.models.zoo import build

    names = STUDENTS[size > sizes.SMALL]
    if teacher is None:
        return names[0]
    whole = Size.of(teacher, size)
    smaller = (
        name for name in names if not Size.of(build(name, classes, size), size).exceeds(whole)
    )
    return next(smaller, names[-1])


def _trained_at(teacher: Path, new: NewTeacher | None) -> int:
    from webdistill.models.checkpoint import read_card

    return new.image_size if new else read_card(teacher).image_size


def _refuse_contradictions(
    values: Mapping[str, Any], given: Mapping[str, Any], teachers_size: int
) -> None:
    """What `check-teacher` would refuse once all is written. `given`: by --set."""
    for key, flag in FLAGS.items():
        if key in given:
            raise UserError(f"--set {key}: leave it out, {flag} says it")
    size = values["task.image_size"]
    if size != teachers_size and not values.get("score.other_image_size"):
        raise UserError(
            f"task.image_size would be {size}, the teacher was trained at {teachers_size} px; leave it out, or add "
            "--set score.other_image_size=true if the difference is meant"
        )


def _method(teacher: Classifier | None) -> dict[str, Any]:
    """Of a teacher that does not end in a linear layer: it has logits alone, and no maps to imitate."""
    return {"distill.method": PLAIN} if teacher and teacher.logits_alone else {}


def _sized(
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    teacher: Path,
    new: NewTeacher | None,
    net: Classifier | None,
) -> dict[str, Any]:
    """Schedule, views and formats for the size of the pictures and their count, as far as it is known."""
    from ruamel.yaml import YAML

    from stages.distill.method_params import POOL_FREE
    from webdistill.commands.init.command import checked
    from webdistill.commands.init.template import rendered_params
    from webdistill.commands.plan.counting import budgeted, searched

    raw = YAML(typ="safe", pure=True).load(checked(rendered_params({**values, **given})))
    found, _ = searched(raw["search"], raw["task"]["classes"])
    source = raw["search"]["local"]
    if not found and source != NO_LISTS and raw["distill"]["method"] not in POOL_FREE:
        raise UserError(f"--source {source}: it holds no image, and no list or tar of images")
    count = budgeted(raw, found or UNKNOWN)

    def answer() -> int:
        from webdistill.commands.plan.trial import answer_bytes
        from webdistill.models.checkpoint import read_card

        network = new.network if new else read_card(teacher).architecture
        maps = raw["distill"]["method"] in ("simkd", "kd3")
        return answer_bytes(network, len(raw["task"]["classes"]), raw["task"]["image_size"], maps)

    side = raw["task"]["image_size"]
    width = net.fc.in_features if net else None
    return sizes.sized(side, count, answer, given) | sizes.clustered(count, width)


def _network(teacher: Path, new: NewTeacher | None, classes: int, size: int) -> Classifier | None:
    """The teacher without its weights; None of one that cannot be built, which is said later, with its flag."""
    from webdistill.models.checkpoint import construct, read_card
    from webdistill.models.zoo import build

    try:
        return build(new.network, classes, size) if new else construct(read_card(teacher), teacher)
    except UserError:
        return None


def _sources(sources: list[str]) -> dict[str, Any]:
    local = [source for source in sources if source and source not in APIS]
    apis = " or ".join(APIS)
    if len(local) > 1:
        raise UserError(
            f"--source: one path is possible, found {' and '.join(local)}; put them into one folder"
        )
    if not any(sources):
        raise UserError(f"--source is missing: a list, folder or tar of images, or {apis}")
    if local and not Path(local[0]).exists():
        raise UserError(f"--source {local[0]}: there is no such file or folder, nor is it {apis}")
    values: dict[str, Any] = {"search.local": Path(local[0]).as_posix() if local else NO_LISTS}
    return values | {f"search.{name}.enabled": name in sources for name in APIS}


def _triple(flag: str, text: str | None) -> Triple | None:
    if text is None:
        return None
    try:
        one, two, three = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{flag} {text!r}: expected three numbers, as 0.5,0.5,0.5") from None
    if not all(0 <= value <= 1 for value in (one, two, three)):
        raise UserError(f"{flag} {text!r}: expected numbers from 0 to 1; divide by 255")
    return one, two, three


def _std(text: str | None) -> Triple | None:
    found = _triple("--std", text)
    if found and not all(found):
        raise UserError(f"--std {text!r}: pixels are divided by it, so no number may be 0")
    return found


def _set(text: str) -> tuple[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise UserError(f"--set {text!r}: expected SECTION.KEY=VALUE")
    try:
        return key, YAML(typ="safe", pure=True).load(value)
    except (YAMLError, ValueError):
        raise UserError(f"--set {text!r}: the value is not valid YAML") from None
