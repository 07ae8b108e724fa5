"""The model card that travels with the student."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from stages.report.evidence import Evidence
from stages.report.html import printable
from stages.report.sections.cautions import cautions, origin
from stages.report.sections.funnel import steps
from stages.report.sections.rebuild import params_digest
from stages.report.sections.sources import licences, used
from stages.report.sections.truth import BANNER
from stages.report.wording import NO_BREAK, count, half_width, known, percent, short

MOST_LICENCES = 20
CITATION = (
    "## Citation\n\nCite webdistill by its `CITATION.cff`, the paper of the method "
    "(docs/methods.md names it), and the creators of the images where you show any."
)


def plain(value: object) -> str:
    """One line of text from anywhere, safe inside a Markdown table."""
    text = re.sub(r"\s+", " ", printable(str(value))).strip()
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", text)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def card(evidence: Evidence) -> str:
    """Markdown with front matter: what the student is, for whom, how good, from which images, and its limits."""
    parts = [
        _front(evidence),
        _head(evidence),
        _use(evidence),
        _accuracy(evidence),
        _training(evidence),
        _data(evidence),
        _limits(evidence),
        _rebuild(evidence),
        CITATION,
    ]
    return "\n\n".join(parts).replace(NO_BREAK, " ") + "\n"


def _front(evidence: Evidence) -> str:
    """Metadata as the Hugging Face Hub reads them. YAML whose texts are quoted as JSON, which YAML 1.2 contains."""
    figures = evidence.measured.figures
    metrics = [("top-1", "accuracy", figures["top1"]), ("calibration error", "ece", figures["ece"])]
    lines = [
        "---",
        "pipeline_tag: image-classification",
        "library_name: onnx",
        "license: unknown # of the weights; it depends on teacher and images, see below",
        "tags: [knowledge-distillation, data-free, web-images, webdistill]",
        "metrics: [accuracy]",
        "model-index:",
        f"  - name: {quoted(evidence.measured.student['architecture'])}",
        "    results:",
        "      - task: {type: image-classification}",
        f"        dataset: {{type: images, name: {quoted(_test_set(evidence))}}}",
        "        metrics:",
        *(
            f"          - {{name: {name}, type: {kind}, value: {value:.4f}}}"
            for name, kind, value in metrics
        ),
        "---",
    ]
    return "\n".join(lines)


def quoted(value: object) -> str:
    """A text of unknown origin as one YAML scalar."""
    return json.dumps(printable(str(value)))


def _test_set(evidence: Evidence) -> str:
    images = count(evidence.measured.figures["test_images"])
    return f"{images} test images of {len(evidence.classes)} classes"


def _head(evidence: Evidence) -> str:
    student, teacher = evidence.measured.student, evidence.measured.teacher
    figures, method = evidence.measured.figures, evidence.params["distill"].get("method", "")
    source = origin(evidence.collected)
    text = (
        f"# {plain(student['architecture'])}, distilled with {source}\n\n"
        f"A classifier of {len(evidence.classes)} classes at {student['image_size']} px with "
        f"{count(figures['parameters'])} parameters, trained with method `{plain(method)}` on "
        f"{count(len(evidence.collected.selected))} {source}. Its teacher is "
        f"{plain(teacher.get('name') or teacher['architecture'])}{_size(figures)}; "
        "the teacher's own training images were not used."
    )
    if evidence.truth is not None:
        text += f"\n\n> {BANNER}"
    for sentence in cautions(evidence):
        text += f"\n\n> {plain(sentence)}"
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
        ("negative log-likelihood, nats", f"{figures['nll']:.4f}", ""),
        ("parameters", count(figures["parameters"]), known(count, figures, "teacher_parameters")),
        (
            "multiply-adds per image",
            short(figures["multiply_adds"]),
            known(short, figures, "teacher_multiply_adds"),
        ),
        *_int8_rows(figures),
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


def _int8_rows(figures: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Of the exported files: size, and the accuracy of int8."""
    if "int8_top1" not in figures:
        return []
    return [
        ("top-1 of the int8 export", percent(figures["int8_top1"]), ""),
        (
            "bytes, float32 and int8",
            f"{short(figures['onnx_bytes'])}, {short(figures['int8_bytes'])}",
            known(short, figures, "teacher_bytes"),
        ),
    ]


def _size(figures: Mapping[str, float]) -> str:
    """The teacher's, in brackets; nothing where it is not known."""
    told = known(count, figures, "teacher_parameters")
    return f" ({told} parameters)" if told else ""


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
        "sources state them:\n\n"
        + _table(("licence", "images"), stated[:MOST_LICENCES])
        + "\n\nThe whole pool, with source, stated licence and creator of every image, is described for other programs "
        "in `croissant.json`; pictures of it are in `report.html`."
    )


def _use(evidence: Evidence) -> str:
    size = int(evidence.measured.student["image_size"])
    return (
        "## Use\n\n"
        f"Meant for: pictures of the classes above, at {size} px, where a wrong answer costs little or a person sees "
        "it. Not meant for: decisions about people, and pictures that show none of the classes, which get one all the "
        "same.\n\n"
        f"{_preprocessing(evidence, size)}\n\n"
        "`python -m webdistill predict data/evaluate/student.onnx PICTURES ...` does all of that and prints class and "
        "probability of each; it takes the int8 file and the folder `data/distill/student`, too. In your own program:"
        "\n\n"
        "```python\nimport numpy as np, onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("data/evaluate/student.onnx")\n'
        f"images = np.zeros((1, 3, {size}, {size}), np.float32)  # RGB in [0, 1]\n"
        '(logits,) = session.run(["logits"], {"images": images})\n```\n\n'
        "As a torch module, to train it further:\n\n"
        "```python\nfrom pathlib import Path\nfrom webdistill.models.checkpoint import load_network\n\n"
        'student = load_network(Path("data/distill/student"))\n```'
    )


def _preprocessing(evidence: Evidence, size: int) -> str:
    mean, std = (
        ", ".join(f"{value:.4g}" for value in evidence.measured.student[key])
        for key in ("mean", "std")
    )
    int8 = (
        " `int8/student_int8.onnx` has the same input and output; its ranges come from training pictures."
        if "int8_top1" in evidence.measured.figures
        else ""
    )
    return (
        "How a picture becomes an input:\n\n"
        "1. decode to 8-bit RGB, turned upright as its EXIF says, transparency over white;\n"
        f"2. resize the shorter side to {size} px, bicubic with antialiasing (`Image.Resampling.BICUBIC` of Pillow);\n"
        f"3. cut out the centre, {size} x {size} px;\n"
        f"4. divide by 255 and order the axes as `[batch, 3, {size}, {size}]` float32;\n"
        f"5. for the torch module alone: subtract the mean ({mean}) and divide by the standard deviation ({std}) of "
        f"red, green and blue. The ONNX files do this themselves.\n\n"
        f"`student.onnx` was checked against torch before this card was written.{int8}"
    )


OWN = ("optimizer", "lr", "weight_decay", "temperature")  # null = the method's own


def _training(evidence: Evidence) -> str:
    settings = evidence.params["distill"]
    own = settings.get(settings["method"])
    shown = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    if isinstance(own, dict):
        shown |= {f"{settings['method']}.{key}": value for key, value in own.items()}
    if settings["deconfound"]["dictionary"] != "none":
        shown |= {f"deconfound.{key}": v for key, v in settings["deconfound"].items()}
    shown |= {key: "the method's own" for key in OWN if shown.get(key, 0) is None}
    shown |= {"trained on": evidence.measured.student.get("trained_on", "")}
    rows = [
        (f"`{key}`", plain(value)) for key, value in shown.items()
    ]  # our keys: nothing to escape
    return (
        "## Training\n\nThe last epoch is released, not the one that did best on the test images, which the training "
        "never read.\n\n" + _table(("parameter", "value"), rows)
    )


def _limits(evidence: Evidence) -> str:
    rows = [row for row in evidence.measured.per_class if row["accuracy"]]
    worst = min(rows, key=lambda row: float(row["accuracy"]), default=None)
    weak = (
        f"- It is weakest on {plain(worst['class'])}: {percent(float(worst['accuracy']))} right.\n"
        if worst
        else ""
    )
    return (
        "## Limits\n\n"
        + weak
        + "- It inherits the teacher's mistakes, and the web's: what is rare or stereotyped there is so in the pool.\n"
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
