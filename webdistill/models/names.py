"""Names in parameters, understood without importing torch: a mistyped one stops before any work.

resnet20, resnet18, resnet50, wrn-16-2, vgg13, mobilenetv3-small, shufflenetv2, ...   for 32 and 64 px
torchvision:resnet50, timm:convnext_tiny   a network of the library, unchanged
mynets:small   the function `small` of the file mynets.py below the current folder
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from webdistill.core.errors import UserError

Family = Literal["resnet", "wide", "vgg", "compact", "torchvision", "timm", "code"]
Precision = Literal["auto", "float32", "bfloat16"]
Attention = Literal["additive", "dot", "random"]  # of webdistill.models.compensation,
Query = Literal["logits", "features"]  # what of the student asks,
Fuse = Literal["add", "linear"]  # and how the answer is joined


@dataclass(frozen=True)
class Architecture:
    """A name taken apart: `numbers` are depths or (depth, widen), `name` what the library or the file calls it."""

    family: Family
    name: str
    numbers: tuple[int, ...] = ()


BIG = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),  # of bottleneck blocks
}  # blocks per stage, widths 64-128-256-512
VGG = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}  # convolutions per stage, widths 64-128-256-512-512
COMPACT = {
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3-small": "mobilenet_v3_small",
    "mobilenetv3-large": "mobilenet_v3_large",
    "shufflenetv2": "shufflenet_v2_x1_0",
    "shufflenetv2-x0.5": "shufflenet_v2_x0_5",
}  # what torchvision calls the network
OURS = ("webdistill", "stages", "pipelines", "tests")
EXAMPLES = (
    "resnet8, resnet20, resnet56, resnet18, resnet34, resnet50, wrn-16-1, wrn-16-2, wrn-40-2, "
    f"{', '.join(VGG)}, {', '.join(COMPACT)}, torchvision:NAME, timm:NAME, MODULE:FUNCTION"
)


def parse(architecture: str) -> Architecture:
    """`resnet20` -> resnet, (3, 3, 3); `wrn-16-2` -> wide, (16, 2); `timm:NAME` -> timm. Else UserError.

    Whether a library has the network is told when it is built; whether a file of the user exists, here.
    """
    if architecture in BIG:
        return Architecture("resnet", architecture, BIG[architecture])
    if architecture in VGG:
        return Architecture("vgg", architecture, VGG[architecture])
    if architecture in COMPACT:
        return Architecture("compact", COMPACT[architecture])
    if match := re.fullmatch(r"resnet([0-9]{1,4})", architecture):
        depth = int(match[1])
        if depth >= 8 and (depth - 2) % 6 == 0:
            return Architecture("resnet", architecture, ((depth - 2) // 6,) * 3)
    if match := re.fullmatch(r"wrn-([0-9]{1,4})-([0-9]{1,2})", architecture):
        depth, widen = int(match[1]), int(match[2])
        if depth >= 10 and (depth - 4) % 6 == 0 and widen >= 1:
            return Architecture("wide", architecture, (depth, widen))
    # No further colon or slash: timm would take hf-hub:OWNER/REPO for an order to download.
    if match := re.fullmatch(r"(torchvision|timm):([A-Za-z0-9_.-]+)", architecture):
        return Architecture("timm" if match[1] == "timm" else "torchvision", match[2])
    own = re.fullmatch(r"([a-z_]\w*(?:\.[a-z_]\w*)*):[a-z_]\w*", architecture, re.A | re.I)
    if own and not own[1].endswith(".py"):
        code_file(own[1])
        return Architecture("code", architecture)
    if match := re.fullmatch(r"([\w./-]+?)(?:\.py)?:([a-z_]\w*)", architecture, re.A | re.I):
        name = f"{match[1].removeprefix('./').replace('/', '.')}:{match[2]}"
        raise UserError(f"architecture {architecture!r}: write your own file as a module: {name}")
    raise UserError(f"unknown architecture {architecture!r}; examples: {EXAMPLES}")


def family_file(architecture: str) -> str:
    """The file of this project that makes the network, as a path from the project's root."""
    files = {"torchvision": "torchvision_nets", "timm": "timm_nets", "code": "usercode"}
    family = parse(architecture).family
    return f"webdistill/models/families/{files.get(family, family)}.py"


def own_code(*architectures: str) -> list[str]:
    """The user's files among these architectures, relative to the current folder: inputs of whatever builds them."""
    named = [name.partition(":")[0] for name in architectures if parse(name).family == "code"]
    root = Path.cwd().resolve()
    return [code_file(module).relative_to(root).as_posix() for module in named]


def code_file(module: str) -> Path:
    """The user's file that a module name stands for: `nets.small` -> ./nets/small.py. Nothing is imported.

    The name may come from a downloaded card, so it must lead to a .py file below the current folder, never to the
    standard library, an installed package or this project. Raises UserError otherwise.
    """
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in OURS:
        whose = "this project" if top in OURS else "Python's standard library"
        raise UserError(
            f"architecture {module}:...: '{top}' belongs to {whose} and is never called; name a .py file of your own"
        )
    root = Path.cwd().resolve()
    base = root.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if path.is_file() and path.resolve().is_relative_to(root):
            return path
    raise UserError(
        f"architecture {module}:...: there is no file {'/'.join(module.split('.'))}.py below the current folder; "
        "only networks in files of your own are called"
    )


def refuse_beside(architecture: str, folder: Path) -> None:
    """Raises UserError when a card names code from the same top-level folder as the card's own: who sent one may
    have sent the other.
    """
    if parse(architecture).family != "code":
        return
    code, place = code_file(architecture.partition(":")[0]), folder.resolve()
    root = Path.cwd().resolve()
    if place.is_relative_to(root) and (
        place == root or code.relative_to(root).parts[0] == place.relative_to(root).parts[0]
    ):
        raise UserError(
            f"{folder} names the code {code.relative_to(root)}, which lies beside it; if you wrote or read that file, "
            "move it to another folder of the project and correct 'architecture' in the card"
        )
