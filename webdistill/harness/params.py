"""params.yaml -> frozen, strict models; one per section, one section per stage plus `task`.

A stage's own section lives beside it in `stages/<name>/params.py`, so that a new training parameter does not
invalidate a crawl. The file is always validated as a whole, by importing every stage's schema: validation decides
whether a stage starts, never what it writes, so it is no dependency of any output.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from webdistill.core.errors import UserError
from webdistill.core.section import Section

STAGES = (
    "search", "fetch", "embed", "filter", "score", "select", "prototypes", "distill", "evaluate", "report",
)  # fmt: skip


class Task(Section):
    """Facts that several stages share."""

    seed: Annotated[int, Field(ge=0, lt=2**31, description="seed of everything random")]
    threads: Annotated[
        int, Field(ge=1, le=256, description="CPU threads; results may differ between counts")
    ]
    classes: Annotated[
        tuple[str, ...],
        Field(min_length=2, description="class names, in the teacher's output order"),
    ]
    image_size: Annotated[int, Field(ge=8, le=1024, description="side of the training images, px")]
    teacher: Annotated[
        str, Field(description="folder with weights (.safetensors, .pt) and config.json")
    ]
    test_images: Annotated[
        str, Field(description="Parquet of test images (id, image); the leak guard reads it")
    ]
    test_labels: Annotated[
        str, Field(description="Parquet of test labels (id, label); only evaluate reads it")
    ]


@dataclass(frozen=True)
class Params:
    """All sections: `sections["filter"]` is the model, `raw["filter"]["min_score"]` the plain value."""

    task: Task
    sections: Mapping[str, Section]
    raw: Mapping[str, Any]

    def flat(self) -> dict[str, str]:
        """`{"filter.min_score": "0.2", ...}` for tracking and for the experiment's key."""
        out: dict[str, str] = {}

        def visit(prefix: str, value: Any) -> None:
            if isinstance(value, dict):
                for key, inner in value.items():
                    visit(f"{prefix}.{key}" if prefix else str(key), inner)
            else:
                out[prefix] = value if isinstance(value, str) else json.dumps(value)

        visit("", {name: model.model_dump(mode="json") for name, model in self._models().items()})
        return out

    def _models(self) -> dict[str, Section]:
        return {"task": self.task, **self.sections}


def read_yaml(path: Path) -> Any:
    """The file as YAML 1.2 plain data, read as DVC reads it: builds no objects, `1e-4` is a number."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}; go to the project's root, or make a project by `python -m webdistill init`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    try:
        return copy.deepcopy(_file(text))
    except (YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{line} is not valid YAML: {problem}") from None


def _parse_yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


# Kept, since a study reads the same files and overrides for each of its cells; a file takes tens of milliseconds.
_file = functools.lru_cache(maxsize=16)(_parse_yaml)
_value = functools.lru_cache(maxsize=1024)(_parse_yaml)


def schema(name: str) -> type[Section]:
    """The model of one section."""
    if name == "task":
        return Task
    module = importlib.import_module(f"stages.{name}.params")
    found = getattr(module, name.capitalize())
    assert issubclass(found, Section)
    return found


def load(path: Path, overrides: Sequence[str] = ()) -> Params:
    """Read and check the whole file. Raises UserError with one line that names the key and the fix.

    `overrides`: `section.key=value` with the value in YAML, applied before the check.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(
            f"{path} must hold sections such as 'task:' and 'fetch:', found {type(raw).__name__}"
        )
    for text in overrides:
        _override(raw, text)
    names = ("task", *STAGES)
    for key in raw:
        if key not in names:
            raise UserError(f"{path}: unknown section '{key}'{_suggest(str(key), names)}")
    models: dict[str, Section] = {}
    for name in names:
        if not isinstance(raw.get(name), dict):
            raise UserError(f"{path}: section '{name}:' is missing or empty")
        models[name] = _parse(path, name, raw[name])
    task = models.pop("task")
    assert isinstance(task, Task)
    folded = [name.strip().casefold() for name in task.classes]
    if "" in folded or len(set(folded)) != len(folded):
        raise UserError(f"{path}: task.classes has an empty name, or names a class twice")
    _check_together(path, raw)
    return Params(task, models, raw)


def _check_together(path: Path, raw: Mapping[str, Any]) -> None:
    """Combinations over several sections that cannot work, whatever the images are."""
    if raw["filter"]["max_unsafe"] < 1 and not raw["embed"]["unsafe_texts"]:
        raise UserError(
            f"{path}: filter.max_unsafe is below 1, but embed.unsafe_texts names no texts to compare with; "
            "write some, or set filter.max_unsafe: 1.0"
        )
    budget, rule = raw["select"]["budget"], raw["select"]["rule"]
    if not isinstance(budget, int) or rule == "all":
        return
    for section, key in (("distill", "batch_size"), ("prototypes", "count")):
        if raw[section][key] > budget:
            raise UserError(
                f"{path}: {section}.{key} = {raw[section][key]} is more than select.budget = {budget} images; "
                "lower it or raise the budget"
            )


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *sections, last = key.split(".")
    target: Any = raw
    for part in sections:
        target = target.get(part) if isinstance(target, dict) else None
    if not equals or not sections or not isinstance(target, dict):
        raise UserError(f"--set {text!r}: expected SECTION.KEY=VALUE with a section of params.yaml")
    try:
        target[last] = copy.deepcopy(_value(value))
    except (YAMLError, ValueError):
        raise UserError(f"--set {text!r}: the value is not valid YAML") from None


def _parse(path: Path, name: str, values: dict[str, Any]) -> Section:
    model = schema(name)
    try:
        text = json.dumps(values)  # JSON mode: lists become tuples, yet "5" never becomes 5
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: section '{name}' holds a value that is no plain data: {error}"
        ) from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(name, model, error)}") from None


def _explain(name: str, model: type[Section], error: ValidationError) -> str:
    errors = error.errors(include_url=False)
    unknown = [e for e in errors if e["type"] == "extra_forbidden"]  # explains a missing key, too
    first = (unknown or errors)[0]
    key = ".".join([name, *(str(part) for part in first["loc"] if "-" not in str(part))])
    if first["type"] == "extra_forbidden":
        *above, field = (str(part) for part in first["loc"])
        return f"unknown key '{key}'{_suggest(field, tuple(_inner(model, above).model_fields))}"
    if first["type"] == "missing":
        *above, field = (str(part) for part in first["loc"])
        meaning = _inner(model, above).model_fields[field].description
        return f"key '{key}' is missing" + (f" ({meaning})" if meaning else "")
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if first["type"] == "value_error":  # a rule over several keys, already a sentence
        return f"section '{name}': {message}"
    return f"{key} = {json.dumps(first['input'], default=str)}: {message}"


def _inner(model: type[Section], path: Sequence[str]) -> type[Section]:
    """The model of a section's sub-section, `["kd3"]` of Distill."""
    for name in path:
        field = model.model_fields.get(name)
        if field is None or not isinstance(field.annotation, type):
            return model
        if not issubclass(field.annotation, Section):
            return model
        model = field.annotation
    return model


def _suggest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(known)}"
