"""How to rebuild this page: commands, parameters, digests of the inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from stages.report.evidence import Evidence
from stages.report.html import Child, Html, section, table, tag

COMMANDS = """dvc pull     # the data of this commit, if a remote has it
dvc repro    # or compute it: only missing or changed stages run
dvc metrics show
dvc plots show"""


def params_digest(params: Mapping[str, Any]) -> str:
    """sha256 of all parameters as canonical JSON."""
    text = json.dumps(params, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def rebuild(evidence: Evidence) -> Html:
    """Section `rebuild`."""
    inputs: list[list[Child]] = [
        [tag("code", name), tag("code", digest[:16], title=digest)]
        for name, digest in sorted(evidence.inputs.items())
    ]
    digest = params_digest(evidence.params)
    return section(
        "rebuild",
        "How to rebuild",
        "The same code, parameters and inputs give this page byte for byte on one machine.",
        tag("pre", COMMANDS),
        tag("p", "parameters, sha256 ", tag("code", digest)),
        tag("details", tag("summary", "all parameters"), _settings(evidence.flat), open="open"),
        tag(
            "details",
            tag(
                "summary",
                "what this page was made from (first 16 digits of sha256; of the manifest for a folder)",
            ),
            table(["input", "sha256"], inputs),
        ),
    )


def _settings(flat: Mapping[str, str]) -> Html:
    """All parameters in columns, a block per section."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for name, value in flat.items():
        section_name, _, key = name.partition(".")
        sections.setdefault(section_name, []).append((key, value))
    blocks = [
        tag(
            "div",
            tag("h4", name),
            *(tag("p", tag("code", key), " ", tag("code", value)) for key, value in values),
        )
        for name, values in sections.items()
    ]
    return tag("div", *blocks, class_="settings")
