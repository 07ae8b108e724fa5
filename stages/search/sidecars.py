"""What stands beside an image under the same name: key.json and key.txt, as img2dataset and WebDataset write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stages.search.cells import DIGESTS, WEB, addresses, text
from stages.search.columns import DOUBTFUL, TEXTS, groups, letters
from stages.search.rows import facts

IMAGES = (
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif",
)  # fmt: skip
MAX_BYTES = 1 << 20  # of a sidecar that is read; longer ones say nothing


def describe(sidecars: Mapping[str, bytes]) -> dict[str, Any]:
    """Our columns from the sidecars' bytes by ending; what cannot be read says nothing."""
    texts = _from_json(sidecars.get("json", b""))
    if not texts.get("caption"):
        texts["caption"] = text(sidecars.get("txt", b""))
    return texts


def _from_json(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    flat = {
        name: value
        for name, value in content.items()
        if isinstance(value, (str, int, float, list, dict))
        and (letters(name) not in DOUBTFUL or WEB.match(text(value)))
    }
    chosen = {ours: [group[0] for group in groups(ours, list(flat))] for ours in TEXTS}
    values = {ours: [flat[name] for name in names] for ours, names in chosen.items() if names}
    found = facts(values)
    for digest in DIGESTS:  # of what was downloaded once, and then scaled and written anew
        found.pop(digest, None)
    return found | {"url": addresses(values["url"][0])[0]} if "url" in values else found
