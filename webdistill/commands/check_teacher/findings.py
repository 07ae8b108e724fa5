"""What a check found, and the table that says so."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]
WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """`text` gives the meaning and, unless all is well, the fix; `details` are lines printed as they are."""

    level: Level
    about: str
    text: str
    details: tuple[str, ...] = ()


def table(title: str, findings: Sequence[Finding]) -> str:
    """Title, one wrapped row per finding, and a last line that counts them."""
    column = max(len(finding.about) for finding in findings)
    lines = [title, ""]
    for finding in findings:
        head = f"{finding.level:<4}  {finding.about:<{column}}  "
        indent = " " * len(head)
        lines += textwrap.wrap(
            finding.text,
            WIDTH,
            initial_indent=head,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [f"{indent}{line}" for line in finding.details]
    counts = {level: sum(f.level == level for f in findings) for level in ("ok", "warn", "fail")}
    return "\n".join([*lines, "", ", ".join(f"{count} {level}" for level, count in counts.items())])


def failed(findings: Sequence[Finding]) -> bool:
    """Whether the pipeline would stop at one of them, or go wrong."""
    return any(finding.level == "fail" for finding in findings)
