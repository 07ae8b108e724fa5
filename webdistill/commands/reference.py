"""python -m webdistill.commands.reference > docs/parameters.md: every parameter, from the schemas of params.yaml.

Type, bounds and meaning come from the pydantic fields, the value from params.yaml, the stages that a change concerns
from dvc.yaml; tests/docs/test_parameters.py fails when the page says anything else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webdistill.core.errors import UserError
from webdistill.core.section import Section
from webdistill.harness.params import STAGES, load, read_yaml, schema

HEAD = """\
# Parameters

<!-- Written by `python -m webdistill.commands.reference`; change the fields in stages/*/params.py instead. -->

Every key of [params.yaml](../params.yaml), with the value that comes with the repository. A wrong type, an unknown key,
a value out of bounds or an impossible combination stops with one line before any work; `python -m webdistill check`
does only that. Names that a library or a folder must know (of CLIP models, of torchvision's and timm's networks, the
teacher's folder) are looked at when their stage starts. All keys are required: the code has no second set of defaults.
Units stand in the meaning.

A section that is named after a stage is read by that stage, `task` key by key. A stage runs again when what it reads
has changed, and after it whatever reads an output that differs. `report` states all parameters, so it runs again after
any change. Of the methods' options, `distill` reads those of the chosen one alone.

Three mistakes end in DVC's words, for DVC reads the keys before any stage starts. `check` says them in its own:

- `Could not override 'distill.metod'. To append to your config use +distill.metod=kd`: `params.yaml` has no key of this
  name. Do not append it, the next stage that runs would refuse it; `python -m webdistill check -S distill.metod=kd`
  names the key that was meant.
- `failed to parse 'stages.distill.params' in 'dvc.yaml': Could not find 'distill.method'`: a key of `params.yaml` was
  renamed or removed; `python -m webdistill check` names it.
- `Parameters 'distill.kdd' are missing from 'params.yaml'.`: there is no method of this name;
  `python -m webdistill check -S distill.method=kdd` lists those that there are.
"""


@dataclass(frozen=True)
class Row:
    """One key. `allowed` holds type and choices, `bounds` the limits of numbers and lengths.

    A sub-section comes as a row of its own before its keys: `kd3:`, without type and value.
    """

    key: str
    allowed: str
    bounds: str
    value: Any
    meaning: str


def rows(model: type[Section], values: Mapping[str, Any]) -> Iterator[Row]:
    """The keys of one section in the order of the schema, those of sub-sections as `kd3.selection`."""
    whole = model.model_json_schema()
    yield from _leaves(whole, whole.get("$defs", {}), values, "")


def _leaves(
    node: Mapping[str, Any], named: Mapping[str, Any], values: Mapping[str, Any], prefix: str
) -> Iterator[Row]:
    for key, field in node["properties"].items():
        inner = named[field["$ref"].rpartition("/")[2]] if "$ref" in field else field
        if "properties" in inner:
            yield Row(f"{prefix}{key}:", "", "", None, field["description"])
            yield from _leaves(inner, named, values[key], f"{prefix}{key}.")
        else:
            allowed, bounds = _type(inner), _bounds(inner)
            yield Row(prefix + key, allowed, bounds, values[key], field["description"])


def _type(node: Mapping[str, Any]) -> str:
    """A JSON schema's type in words."""
    if "anyOf" in node:
        return " or ".join(_type(option) for option in node["anyOf"])
    if "enum" in node:
        return ", ".join(f"`{choice}`" for choice in node["enum"])
    match node["type"]:
        case "boolean":
            return "`true`, `false`"
        case "array":
            inner = _type(node["items"])
            return f"list of {inner}" if "enum" in node["items"] else f"list of {inner}s"
        case "object":
            return "mapping"
        case "null":
            return "`null`"
        case other:
            return str(other)


def _bounds(node: Mapping[str, Any]) -> str:
    """`>= 1, < 10`, also of the alternatives and of the length of texts and lists."""
    if "anyOf" in node:
        return "; ".join(text for option in node["anyOf"] if (text := _bounds(option)))
    found = []
    for word, sign in (
        ("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"),
    ):  # fmt: skip
        if word in node:
            found.append(f"{sign} {node[word]:,}")
    if "minItems" in node:
        found.append(f"at least {node['minItems']}")
    if "pattern" in node:
        found.append("0% to 100%")
    if "minLength" in node:
        found.append("not empty")
    return ", ".join(found)


def readers(pipeline: Mapping[str, Any], key: str) -> list[str]:
    """Stages of dvc.yaml that run again when `section` or `section.key` changes; `report` reads all."""
    section = key.partition(".")[0]
    return [
        name
        for name, stage in pipeline["stages"].items()
        if name != "report" and {key, section} & set(stage["params"])
    ]


def page(root: Path) -> str:
    """The whole page for the project below `root`."""
    values, pipeline = load(root / "params.yaml").raw, read_yaml(root / "dvc.yaml")
    return "\n".join(
        [HEAD, *(_section(name, values[name], pipeline) for name in ("task", *STAGES))]
    )


def _section(name: str, values: Mapping[str, Any], pipeline: Mapping[str, Any]) -> str:
    shared = name == "task"  # its keys are read one by one, the other sections as a whole
    titles = ["key", "type or choices", "bounds", "value", "meaning"]
    titles += ["read by"] if shared else []
    lines = [f"## {name}", "", _line(titles), _line(["---"] * len(titles))]
    for row in rows(schema(name), values):
        value = f"`{json.dumps(row.value, ensure_ascii=False)}`" if row.allowed else ""
        cells = [f"`{row.key}`", row.allowed, row.bounds, value, row.meaning]
        cells += [", ".join(readers(pipeline, f"{name}.{row.key}"))] if shared else []
        lines.append(_line(cells))
    return "\n".join([*lines, ""])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m webdistill.commands.reference",
        description="Print docs/parameters.md for the project in the current folder.",
    )
    parser.parse_args(argv)
    try:
        sys.stdout.write(page(Path.cwd()))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
