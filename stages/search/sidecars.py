"""What stands beside an image under the same name: key.json and key.txt, as img2dataset and WebDataset write them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from stages.search.columns import TEXTS, known, matching, text

IMAGES = ("jpg", "jpeg", "jpe", "jfif", "png", "webp")
MAX_BYTES = 1 << 20  # of a sidecar that is read; longer ones say nothing


def describe(sidecars: Mapping[str, bytes]) -> dict[str, str]:
    """Our text columns from the sidecars' bytes by ending; what cannot be read says nothing."""
    texts = _from_json(sidecars.get("json", b""))
    if not texts.get("caption"):
        texts["caption"] = text(sidecars.get("txt", b""))
    return texts


def _from_json(data: bytes) -> dict[str, str]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    flat = {key: value for key, value in content.items() if isinstance(value, (str, int, list))}
    texts = {}
    for ours in TEXTS:
        if found := matching(ours, list(flat)):
            texts[ours] = known(ours, text(flat[found[0]]))
    return texts
