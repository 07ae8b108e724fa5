"""What besides code, inputs and parameters decides the bytes of a shard: versions, and the processor that computes."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

PACKAGES = ("torch", "numpy", "pillow", "open_clip_torch", "timm")
FIXES = {
    "arithmetic": "use machines of one kind",
    "code": "update the project there, or mount the same folder",
    "files": "mount the project's folder there at the same path",
    "webdistill": "install it there with `pip install -c constraints.txt`",
}
INSTALL = "install it there with `pip install -c constraints.txt`, so that all have the same"


def facts(device: str | None) -> dict[str, str]:
    """Versions; with a device, cpu or cuda, the kind of its arithmetic, too."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found if device is None else {**found, "arithmetic": arithmetic(device)}


def arithmetic(device: str) -> str:
    """The GPU's name, or the instructions that torch uses on this processor: `AVX512 bf16`."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    extra = {
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
    }
    return " ".join(
        [torch.backends.cpu.get_cpu_capability(), *(k for k, has in extra.items() if has)]
    )


def difference(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """The first fact in which a machine differs, with what to do; empty when it would compute the same."""
    for name, value in wanted.items():
        if found.get(name) != value:
            return f"{name} is {found.get(name)} instead of {value}; {FIXES.get(name, INSTALL)}"
    return ""
