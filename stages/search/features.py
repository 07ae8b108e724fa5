"""What Hugging Face `datasets` writes into a Parquet header about its columns: the names behind class numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Column of class numbers -> the classes' names in their order; a header that is not understood names none."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(text)["info"]["features"].items()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    found = {column: _names(feature) for column, feature in features if column in schema.names}
    return {column: names for column, names in found.items() if names}


def class_name(value: Any, names: list[str] | None) -> Any:
    """A class's name for its number, in a column that has `names`; -1 is how the format says that none is known."""
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def query_column(classes: Mapping[str, list[str]], chosen: Mapping[str, object]) -> dict[str, str]:
    """The only column of class numbers says what was looked for, unless another one does."""
    return {"query": next(iter(classes))} if len(classes) == 1 and "query" not in chosen else {}


def _names(feature: Any) -> list[str]:
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return []
    names = feature.get("names")
    return list(map(str, names)) if isinstance(names, list) else []
