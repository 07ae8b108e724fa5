"""Networks that the user wrote: `mynets:small` calls `small(num_classes=K)` of ./mynets.py.

The name may stand in the card of a downloaded teacher. Only a function or class that is defined in a .py file below
the current folder is called, and not in the teacher's own surroundings (`refuse_beside`).
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from torch import nn

from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier
from webdistill.models.families.wrapped import SIDES, wrap
from webdistill.models.names import code_file


def from_code(architecture: str, num_classes: int, image_size: int | None) -> Classifier:
    """The user's network; one that is no Classifier is wrapped. Raises UserError with the line that failed."""
    name, _, function = architecture.partition(":")
    path = code_file(name)
    try:
        module = _load(name)
        make = getattr(module, function, None)
        if not callable(make) or getattr(make, "__module__", None) != name:
            raise UserError(f"{path} defines no function or class '{function}'")
        net = make(num_classes=num_classes)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything; its own line is named
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = (str(error) or "no message").splitlines()[0]
        raise UserError(
            f"{architecture}: {type(error).__name__} in {place.filename}, line {place.lineno}: {text}"
        ) from None
    if isinstance(net, Classifier):
        return net
    if not isinstance(net, nn.Module):
        raise UserError(f"{architecture} must return a torch.nn.Module, not {type(net).__name__}")
    try:
        net.eval()
    except Exception as error:  # such as a module of torch.export, which has no modes
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{architecture}: its eval() fails ({text}); return a torch.nn.Module that keeps it in a tuple"
        ) from None
    sides = SIDES if image_size is None else (image_size,)
    return wrap(net, num_classes, sides, architecture)


def _load(name: str) -> ModuleType:
    """Import a.b from ./a/b.py and, before it, its packages below the current folder; nothing from elsewhere."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        full = ".".join(parts[:count])
        folder = Path.cwd().resolve().joinpath(*parts[:count])
        file = folder / "__init__.py"
        if not file.is_file():
            file = folder.with_name(f"{folder.name}.py") if count == len(parts) else folder
        known = sys.modules.get(full)
        if known is None:
            _execute(full, file, folder)
        elif _origin(known) != file.resolve():
            raise UserError(
                f"{file} cannot be imported: another module named '{full}' is in use; rename yours"
            )
    return sys.modules[name]


def _origin(module: ModuleType) -> Path | None:
    """The file of a module; the folder of a package without __init__.py."""
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return next((Path(place).resolve() for place in places if place), None)


def _execute(name: str, file: Path, folder: Path) -> None:
    if file == folder:  # a package without __init__.py
        module = ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
        return
    inside = [str(folder)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
