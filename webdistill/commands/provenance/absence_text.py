"""A proof of absence as text."""

from __future__ import annotations

from webdistill.commands.provenance.absence import Finding, Proof
from webdistill.commands.provenance.text import labelled, table
from webdistill.harness.wording import plural

LIMITS = (
    "Not searched: DVC's cache and remotes, MLflow's artifacts, git, and the lists that search read; earlier "
    "versions may be there. Weights, averages and pictures hold no ids: they were made from the images that the "
    "tables beside them list."
)


def tell(named: str, proof: Proof, *, everywhere: bool) -> str:
    """What was looked for, file by file what was found, and the conclusion."""
    lines = labelled(
        "looked for",
        f"{named}: {plural(proof.images, 'image')}, {proof.addresses:,} address{'es' * (proof.addresses != 1)}",
    )
    if not proof.images and not proof.addresses:
        lines += labelled("", "warning: no candidate matches this name; check its spelling")
    for title, later in (("before filter", False), ("from filter onward", True)):
        lines += ["", title, *_listed([f for f in proof.findings if f.later == later])]
    if proof.missing:
        text = f"{', '.join(proof.missing)} (not run, or not pulled)"
        lines += ["", *labelled("not here", text)]
    return "\n".join([*lines, "", *labelled("limits", LIMITS), "", conclusion(proof, everywhere)])


def _listed(findings: list[Finding]) -> list[str]:
    if not findings:
        return ["  nothing"]
    return table(
        [], [[f"  {f.verdict}", f"{f.file}{f': {f.detail}' * bool(f.detail)}"] for f in findings]
    )


def conclusion(proof: Proof, everywhere: bool) -> str:
    """One line."""
    if not (proof.proven_everywhere if everywhere else proof.proven):
        return "NOT proven absent " + ("everywhere" if everywhere else "from filter onward")
    return "absent " + ("everywhere" if everywhere else "from filter onward")
