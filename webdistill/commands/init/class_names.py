"""Names of classes in the order of a network's outputs: from a flag, or from a file in one of its usual forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from webdistill.core.errors import UserError
from webdistill.harness.params import read_yaml

STRUCTURED = (".json", ".yaml", ".yml")
# Keys under which the files of other programs have them.
INNER = ("id2label", "names", "label2id", "class_to_idx", "classes")
NUMBERED = re.compile(r"(\d+)(\s*[:,;\t]\s*| +)(\S.*)")


def class_names(text: str) -> tuple[str, ...]:
    """`a, b, c`, or a file: a name per line, perhaps behind its number; JSON or YAML with a list or with numbers.

    Raises UserError naming --classes.
    """
    file = Path(text)
    if text and file.is_file():
        names = _of_file(file)
    elif "," not in text and (file.suffix or len(file.parts) > 1):
        raise UserError(f"--classes {text}: there is no such file, and no comma between names")
    else:
        names = [part.strip() for part in text.split(",")]
    names = [name for name in names if name]
    if len(names) < 2 or len({name.casefold() for name in names}) != len(names):
        raise UserError(
            f"--classes {text!r}: expected two or more different names, as a,b,c or in a file, one per line"
        )
    return tuple(names)


def _of_file(file: Path) -> list[str]:
    if file.suffix.lower() in STRUCTURED:
        return _of_structure(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"--classes {file}: the file is not UTF-8 text; save it as such") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [NUMBERED.fullmatch(line) for line in lines]
    numbers = [int(each[1]) for each in found if each]
    # "1 cent", "2 cent" are names; "0 cent", "1 cent" or "1: cent", "2: cent" are numbered ones.
    first = 0 if any(each and not each[2].strip(" ") for each in found) else min(numbers, default=0)
    if len(lines) > 1 and first < 2 and numbers == list(range(first, first + len(lines))):
        return [each[3] for each in found if each]
    return lines


def _of_structure(file: Path) -> list[str]:
    found = read_yaml(file)  # JSON is YAML
    if isinstance(found, Mapping):
        keys = (key for key in INNER if isinstance(found.get(key), Mapping | list))
        found = next((found[key] for key in keys), found)
    entries = _in_order(found) if isinstance(found, Mapping) else found
    names = [_name(each) for each in entries] if isinstance(entries, list) else []
    if not names or None in names:
        raise UserError(
            f"--classes {file}: expected a list of names, or a name for each number from 0 on"
        )
    return [str(name).strip() for name in names]


def _in_order(found: Mapping[Any, Any]) -> list[Any] | None:
    """{number: name} or {name: number} -> names by number; None unless the numbers are 0, 1, 2, ..."""
    for numbers, names in ((found.keys(), found.values()), (found.values(), found.keys())):
        pairs = zip(map(str, numbers), names, strict=True)
        by_number = {int(number): name for number, name in pairs if number.isdecimal()}
        if sorted(by_number) == list(range(len(found))):
            return [by_number[number] for number in range(len(found))]
    return None


def _name(entry: object) -> str | int | float | None:
    """Of an entry such as "tench", or ["n01440764", "tench"] as ImageNet's own index has it; None of anything else."""
    last = entry[-1] if isinstance(entry, list) and entry else entry
    return last if isinstance(last, str | int | float) else None
