"""The hash that DVC gives a file or folder, as it stands in dvc.lock: by it a run is found again from what it made."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from pathlib import Path

from webdistill.core.errors import UserError
from webdistill.core.files import MANIFEST, md5_file, read_json


def dvc_hash(path: Path, root: Path = Path(), *, afresh: bool = False) -> str:
    """md5 of a file; of a folder, md5 of DVC's listing of it and `.dir`.

    What a manifest lists is not read again, but `afresh`: its md5s were taken when the folder was written. `root`:
    where `.dvcignore` is; its patterns apply to single names, as `__pycache__/` and `*.pyc`.
    """
    if not path.is_dir():
        return md5_file(path)
    known, ignored = {} if afresh else _listed(path), _ignored(root)
    entries = []
    for file in path.rglob("*"):
        relative = file.relative_to(path)
        if not file.is_file() or any(  # a pipe would be waited for
            fnmatch.fnmatchcase(part, pattern) for part in relative.parts for pattern in ignored
        ):
            continue
        name = relative.as_posix()
        entries.append({"md5": known.get(name) or md5_file(file), "relpath": name})
    entries.sort(key=lambda entry: entry["relpath"])
    listing = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir"


def _listed(folder: Path) -> dict[str, str]:
    """File -> md5 as the folder's manifest has it; a manifest of an older version has none."""
    if not (folder / MANIFEST).is_file():
        return {}
    try:
        entries = read_json(folder / MANIFEST)
        return {name: entry["md5"] for name, entry in entries.items() if "md5" in entry}
    except (UserError, AttributeError, TypeError):  # a folder of the user's own with such a name
        return {}


def _ignored(root: Path) -> list[str]:
    path = root / ".dvcignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    patterns = [line.strip().rstrip("/") for line in lines]
    return [each for each in patterns if each and each[0] not in "#!" and "/" not in each]
