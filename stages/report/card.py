"""The model card that travels with the student."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stages.report.evidence import Evidence
from stages.report.sections.funnel import steps
from stages.report.sections.rebuild import params_digest
from stages.report.sections.sources import licences, used
from stages.report.sections.truth import BANNER
from stages.report.wording import NO_BREAK, count, half_width, percent


def plain(value: object) -> str:
    """One line of text from anywhere, safe inside a Markdown table."""
    text = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", str(value)).strip()
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", text)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def card(evidence: Evidence) -> str:
    """Markdown: what the student is, how good, from which images, and what not to use it for."""
    parts = [
        _head(evidence),
        _accuracy(evidence),
        _data(evidence),
        _use(evidence),
        _limits(evidence),
        _rebuild(evidence),
    ]
    return "\n\n".join(parts).replace(NO_BREAK, " ") + "\n"


def _head(evidence: Evidence) -> str:
    student, teacher = evidence.measured.student, evidence.measured.teacher
    figures, method = evidence.measured.figures, evidence.params["distill"].get("method", "")
    text = (
        f"# {plain(student['architecture'])}, distilled with images from the web\n\n"
        f"A classifier of {len(evidence.classes)} classes at {student['image_size']} px with "
        f"{count(figures['parameters'])} parameters, trained with method `{plain(method)}` on "
        f"{count(len(evidence.collected.selected))} images from the web. Its teacher is "
        f"{plain(teacher.get('name') or teacher['architecture'])} ({count(figures['teacher_parameters'])} parameters); "
        "the teacher's own training images were not used."
    )
    if evidence.truth is not None:
        text += f"\n\n> {BANNER}"
    return (
        text
        + "\n\nClasses, in output order: "
        + ", ".join(plain(name) for name in evidence.classes)
        + "."
    )


def _accuracy(evidence: Evidence) -> str:
    figures = evidence.measured.figures
    margin = half_width(figures["top1"], int(figures["test_images"]))
    rows: list[tuple[str, ...]] = [
        (
            "top-1",
            f"{percent(figures['top1'])} ± {100 * margin:.1f}",
            percent(figures["teacher_top1"]),
        )
    ]
    if "top5" in figures:
        rows.append(("top-5", percent(figures["top5"]), ""))
    rows += [
        ("same class as the teacher", percent(figures["agreement"]), ""),
        ("expected calibration error", f"{figures['ece']:.4f}", ""),
        ("parameters", count(figures["parameters"]), count(figures["teacher_parameters"])),
    ]
    by_class = [
        (
            plain(r["class"]),
            percent(float(r["accuracy"] or "nan")),
            percent(float(r["teacher_accuracy"] or "nan")),
        )
        for r in evidence.measured.per_class
    ]
    return (
        f"## Accuracy\n\nOn {count(figures['test_images'])} labelled test images, read once after the last epoch; "
        "± is the 95 % interval of the sample, seeds vary besides.\n\n"
        + _table(("", "student", "teacher"), [*rows, *by_class])
    )


def _data(evidence: Evidence) -> str:
    funnel = [
        (("− " if s.loss else "") + plain(s.name), count(s.images))
        for s in steps(evidence.collected)
    ]
    stated = [(plain(name), count(n)) for name, _, n in licences(used(evidence.collected))]
    return (
        "## Training images\n\n"
        + _table(("step", "images"), funnel)
        + "\n\nLicences of the selected images, as their "
        "sources state them:\n\n" + _table(("licence", "images"), stated[:20])
    )


def _use(evidence: Evidence) -> str:
    size = int(evidence.measured.student["image_size"])
    return (
        "## Use\n\n`student.onnx` takes RGB images in [0, 1], `[batch, 3, "
        f"{size}, {size}]` float32, and normalises them itself; it was checked against torch before this card was "
        "written.\n\n```python\nimport numpy as np, onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("data/evaluate/student.onnx")\n'
        f"images = np.zeros((1, 3, {size}, {size}), np.float32)\n"
        '(logits,) = session.run(["logits"], {"images": images})\n```'
    )


def _limits(evidence: Evidence) -> str:
    del evidence  # these hold for every student
    return (
        "## Limits\n\n"
        "- It inherits the teacher's mistakes, and the web's: what is rare or stereotyped there is so in the pool.\n"
        "- Filters reduce wrong, unwanted and unlawful images; nobody has shown that none is left.\n"
        "- A stated licence is a statement, not a clearance; opt-outs are honoured where they could be read.\n"
        "- Calibration was measured on the test images above and nowhere else; every picture gets one of the classes."
    )


def _rebuild(evidence: Evidence) -> str:
    weights = evidence.measured.student.get("sha256", "")
    return (
        "## Rebuild\n\n`dvc repro` with the same code, data and parameters.\n\n"
        f"- parameters, sha256: `{params_digest(evidence.params)}`\n"
        f"- weights, sha256: `{plain(weights)}`\n"
        f"- teacher weights, sha256: `{plain(evidence.measured.teacher.get('sha256', ''))}`"
    )
