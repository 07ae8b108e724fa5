"""The report stage on a synthetic project: what the page says, what it must not do, equal bytes."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from stages.report import charts
from stages.report.__main__ import main
from stages.report.card import plain
from stages.report.evidence import HIDDEN, read_curve
from stages.report.gather import gather
from stages.report.html import Html, link, tag
from stages.report.page import page
from stages.report.params import Report
from stages.report.pictures import AS_IT_IS, Album, data_uri
from stages.report.sections.funnel import steps
from stages.report.sections.prototypes import clusters
from stages.report.sections.sources import UNKNOWN, host
from stages.report.sections.thresholds import just_above, just_below
from stages.report.sections.truth import Fate, fates, judge, judge_duplicates, verdicts
from webdistill.core.errors import UserError
from webdistill.core.files import sha256_file, write_json, write_manifest, write_table

CLASSES = ("cat", "dog", "<b>ship</b>")
HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>'
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FATES = (
    ["selected"] * 40
    + ["kept"] * 14
    + ["low_score"] * 12
    + ["low_margin"] * 8
    + ["too_small"] * 3
    + ["same"] * 5
    + ["leak"] * 4
    + ["takedown"] * 2
    + ["duplicate"] * 3
    + ["corrupt"] * 5
    + ["not_an_image"] * 2
    + ["opted_out"] * 2
)
CHOICES = "epoch,kept,kept_share,churn,class/cat,class/dog\n1,9,0.5,0,4,5\n2,12,0.6,0.1,6,6\n"
SHEETS = {"views.png": 20, "over_training.png": 300, "of_tomorrow.png": 21}  # -> side in px
FETCHED_NOT = ("duplicate", "corrupt", "not_an_image", "opted_out")


def _webp(number: int, side: int = 32) -> bytes:
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(
        file, "WEBP", lossless=True
    )
    return file.getvalue()


def _sheet(side: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _id(number: int) -> str:
    return f"{number:032x}"


def _kind(fate: str) -> str:
    kinds = {
        "corrupt": "broken",
        "not_an_image": "not_image",
        "same": "near_duplicate",
        "duplicate": "exact_duplicate",
        "leak": "test_leak",
        "low_score": "junk",
        "low_margin": "wrong_keyword",
        "too_small": "tiny",
        "opted_out": "opt_out",
    }
    return kinds.get(fate, "clean")


def build_project(root: Path) -> None:
    """Every file the report reads, 100 candidates; row i has id i unless nothing was fetched."""
    for name in ("fetch/pool", "embed", "filter", "score/teacher", "select", "prototypes"):
        (root / "data" / name).mkdir(parents=True)
    _write_collected(root / "data")
    _write_measured(root)


def _write_collected(data: Path) -> None:
    pooled = [i for i, fate in enumerate(FATES) if fate not in FETCHED_NOT]
    first = {"same": 0, "duplicate": 1}
    write_table(
        pa.table(
            {
                "row": pa.array(range(len(FATES)), pa.int64()),
                "id": [
                    _id(i) if i in pooled else _id(1) if f == "duplicate" else ""
                    for i, f in enumerate(FATES)
                ],
                "url": [
                    f"https://user:secret@host{i % 3}.example:8080/{i}?token=x" for i in range(100)
                ],
                "status": ["ok" if i in pooled else fate for i, fate in enumerate(FATES)],
                "licence": [("CC BY 4.0", "", HOSTILE)[i % 3] for i in range(100)],
                "licence_url": [
                    ("https://cc.example/by", "", "javascript:alert(3)")[i % 3] for i in range(100)
                ],
                "landing_page": ["" for _ in FATES],
            }
        ),
        data / "fetch/ledger.parquet",
    )
    for shard, part in enumerate((pooled[:50], pooled[50:])):
        images = pa.array([{"bytes": _webp(i), "path": None} for i in part], IMAGE)
        columns = {
            "id": [_id(i) for i in part],
            "image": images,
            "width": pa.array([32] * len(part), pa.int32()),
            "height": pa.array([20 if FATES[i] == "too_small" else 32 for i in part], pa.int32()),
            "query": ["cat"] * len(part),
            "caption": [HOSTILE] * len(part),
        }
        write_table(pa.table(columns), data / f"fetch/pool/{shard:05d}.parquet")
    write_manifest(data / "fetch/pool")
    low = {"low_score": 0.1, "low_margin": 0.3}
    score = [low.get(FATES[i], 0.4) + i / 1000 for i in pooled]
    write_table(
        pa.table(
            {
                "id": [_id(i) for i in pooled],
                "query": [HOSTILE] * len(pooled),
                "score": pa.array(score, pa.float32()),
                "margin": pa.array([s - 0.4 for s in score], pa.float32()),
            }
        ),
        data / "embed/scores.parquet",
    )
    dropped = [i for i in pooled if FATES[i] not in ("selected", "kept")]
    write_table(
        pa.table(
            {
                "id": [_id(i) for i in dropped],
                "reason": [FATES[i].replace("same", "duplicate") for i in dropped],
                "value": [0.1 + i / 1000 for i in dropped],
                "threshold": [0.25] * len(dropped),
                "other": [
                    _id(first.get(FATES[i], 7)) if FATES[i] in ("same", "leak") else ""
                    for i in dropped
                ],
            }
        ),
        data / "filter/dropped.parquet",
    )
    kept = [i for i in pooled if FATES[i] in ("selected", "kept")]
    write_table(pa.table({"id": [_id(i) for i in kept]}), data / "filter/kept.parquet")
    logits = np.zeros((len(pooled), 3), np.float16)
    logits[np.arange(len(pooled)), np.array(pooled) % 3] = np.array(pooled) / 20
    flat = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 3)
    write_table(
        pa.table({"id": [_id(i) for i in pooled], "logits": flat}),
        data / "score/teacher/00000.parquet",
    )
    write_manifest(data / "score/teacher")
    selected = [i for i in pooled if FATES[i] == "selected"]
    write_table(
        pa.table(
            {
                "id": [_id(i) for i in selected],
                "teacher_class": pa.array([i % 3 for i in selected], pa.int32()),
                "confidence": pa.array([0.5 + i / 100 for i in selected], pa.float32()),
            }
        ),
        data / "select/selection.parquet",
    )
    write_table(
        pa.table(
            {
                "id": [_id(i) for i in selected],
                "prototype": pa.array([0 if i < 12 else 1 + i % 2 for i in selected], pa.int32()),
                "distance": pa.array([float(i % 7) for i in selected], pa.float32()),
            }
        ),
        data / "prototypes/assignment.parquet",
    )


def _write_measured(root: Path) -> None:
    card = {"classes": list(CLASSES), "image_size": 32, "sha256": "0" * 64}
    for folder, architecture in (("data/distill/student", "resnet8"), ("teacher", "wrn-16-2")):
        (root / folder).mkdir(parents=True)
        write_json({**card, "architecture": architecture}, root / folder / "config.json")
        write_manifest(root / folder)
    (root / "data/distill/curve.csv").write_text("epoch,loss,lr\n1,2.0,0.1\n2,1.5,\n3,1.25,0.05\n")
    (root / "data/distill/selection_history.csv").write_text(CHOICES)
    sheets = root / "data/distill/pictures"
    sheets.mkdir()
    for name, side in SHEETS.items():
        (sheets / name).write_bytes(_sheet(side))
    write_manifest(sheets)
    folder = root / "data/evaluate"
    folder.mkdir()
    write_json(
        {
            "test_images": 30,
            "top1": 0.8,
            "teacher_top1": 0.9,
            "agreement": 0.82,
            "ece": 0.04,
            "nll": 0.6,
            "brier": 0.3,
            "parameters": 78_042,
            "teacher_parameters": 691_674,
            "parameter_ratio": 0.11,
            "multiply_adds": 12_000_000,
            "teacher_multiply_adds": 101_000_000,
            "onnx_agreement": 1.0,
        },
        folder / "metrics.json",
    )
    rows = [["actual", "predicted"]] + [[CLASSES[i % 3], CLASSES[i * i % 3]] for i in range(30)]
    _csv(folder / "confusion.csv", rows)
    accuracies = [[name, 0.8, 10, 0.9] for name in CLASSES[:2]] + [[CLASSES[2], "", 0, ""]]
    _csv(
        folder / "per_class.csv", [["class", "accuracy", "count", "teacher_accuracy"], *accuracies]
    )
    _csv(
        folder / "calibration.csv",
        [["confidence", "accuracy", "count"], [0.4, 0.3, 10], [0.95, 0.9, 20]],
    )
    ids = [_id(7), "f" * 32]
    images = pa.array([{"bytes": _webp(1000 + i), "path": None} for i in range(2)], IMAGE)
    write_table(pa.table({"id": ids, "image": images}), root / "tests.parquet")
    parents = [{"same": 0, "duplicate": 1}.get(fate, -1) for fate in FATES]
    (root / "data/quickstart").mkdir(parents=True)
    write_table(
        pa.table(
            {
                "row": pa.array(range(len(FATES)), pa.int64()),
                "kind": [_kind(fate) for fate in FATES],
                "true_class": pa.array(
                    [-1 if f == "low_score" else i % 3 for i, f in enumerate(FATES)]
                ),
                "keyword_right": [f not in ("low_score", "low_margin") for f in FATES],
                "duplicate_of": pa.array(parents, pa.int64()),
                "shift": ["grey" if i % 2 else "" for i in range(len(FATES))],
            }
        ),
        root / "data/quickstart/truth.parquet",
    )


def _csv(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


class _Stage:
    """Stands in for the harness."""

    def __init__(self, root: Path, truth: bool = False) -> None:
        self.root = root
        self.params = Report(pictures=6, prototypes=2, nearest=4, hosts=2, truth=truth)
        self.task = SimpleNamespace(
            classes=CLASSES,
            teacher="teacher",
            test_images="tests.parquet",
            model_dump=lambda mode: {"classes": list(CLASSES)},
        )
        other = SimpleNamespace(model_dump=lambda mode: {"method": "kd"})
        self.settings = SimpleNamespace(sections={"distill": other, "report": self.params})
        self.inputs: dict[str, str] = {}
        self.found: dict[str, float] = {}
        self.opened: list[str] = []

    def input(self, name: str) -> Path:
        path = self.root / name
        self.opened.append(name)
        self.inputs[name] = sha256_file(path / "manifest.json" if path.is_dir() else path)
        return path

    @contextlib.contextmanager
    def output(self, name: str) -> Iterator[Path]:
        yield self.root / name

    def metrics(self, values: Mapping[str, float]) -> None:
        self.found.update(values)

    def artifact(self, path: Path) -> None:
        assert path.exists()

    def log(self, message: str) -> None:
        assert message


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    build_project(root)
    return root


def _page(root: Path, truth: bool = True) -> str:
    return page(gather(_Stage(root, truth)))  # type: ignore[arg-type]


class _Reader(HTMLParser):
    """Collects every tag with its attributes, and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attrs)))
        if name not in ("meta", "img", "br", "hr"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name


def test_the_page_loads_nothing_and_runs_nothing(project: Path) -> None:
    tags = _Reader(_page(project)).tags
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "image", "use"} & {
        name for name, _ in tags
    }
    for name, attributes in tags:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "srcset", "poster", "background", "xlink:href", "action"):
            if key in attributes:
                assert name == "img"
                assert str(attributes[key]).startswith("data:image/")
        if "href" in attributes:
            assert name == "a"
            assert str(attributes["href"]).startswith(("#", "https://cc.example/"))
        assert "url(" not in str(attributes.get("style", ""))
    style = re.search(r"<style>(.*?)</style>", _page(project), re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "default-src 'none'" in str(tags)


def test_everything_from_outside_is_escaped(project: Path) -> None:
    text = _page(project)
    assert "<script" not in text
    assert "<b>ship</b>" not in text
    assert "&lt;b&gt;ship&lt;/b&gt;" in text
    assert "javascript:" not in text
    assert "secret" not in text
    assert "token" not in text


def test_bytes_are_equal_for_equal_inputs_and_below_the_limit(project: Path) -> None:
    outputs = []
    for _ in range(2):
        stage = _Stage(project, True)
        main(stage)  # type: ignore[arg-type]
        outputs.append([(project / name).read_bytes() for name in ("report.html", "card.md")])
    assert outputs[0] == outputs[1]
    assert len(outputs[0][0]) < 4 * 2**20
    assert stage.found["bytes"] == len(outputs[0][0])
    assert stage.found["pictures"] > 20
    assert str(project) not in outputs[0][0].decode()


def test_test_labels_are_not_read(project: Path) -> None:
    stage = _Stage(project)
    gather(stage)  # type: ignore[arg-type]
    assert not [name for name in stage.opened if "label" in name or "predictions" in name]


def test_the_funnel_adds_up(project: Path) -> None:
    found = steps(gather(_Stage(project)).collected)  # type: ignore[arg-type]
    left = [step.images for step in found if not step.loss]
    assert left == [100, 88, 54, 40]
    running = None
    for step in found:
        if step.loss:
            running -= step.images
        else:
            assert running in (None, step.images)
            running = step.images


def test_sheets_show_the_images_nearest_to_the_threshold(project: Path) -> None:
    collected = gather(_Stage(project)).collected  # type: ignore[arg-type]
    drops = [i for i, fate in enumerate(FATES) if fate == "low_score"]
    assert [d.id for d in just_below(collected, "low_score", 3)] == [_id(i) for i in drops[:-4:-1]]
    above = just_above(collected, "low_score", 0.25, 3)
    assert [name for name, _ in above] == [_id(0), _id(1), _id(2)]
    assert above[0][1] == pytest.approx(0.4)


def test_taken_down_images_are_shown_nowhere(project: Path) -> None:
    text = _page(project)
    evidence = gather(_Stage(project))  # type: ignore[arg-type]
    taken = [_id(i) for i, fate in enumerate(FATES) if fate in HIDDEN]
    assert taken
    for name in taken:
        assert base64.b64encode(evidence.collected.pool.data(name)).decode() not in text


def test_a_leak_is_shown_beside_its_test_image(project: Path) -> None:
    text = _page(project)
    assert base64.b64encode(_webp(1000)).decode() in text
    assert base64.b64encode(_webp(1001)).decode() not in text


def test_prototypes_report_the_mix_of_the_teachers_classes(project: Path) -> None:
    found = {c.index: c for c in clusters(gather(_Stage(project)).collected)}  # type: ignore[arg-type]
    assert found[0].mix == [(0, 4 / 12), (1, 4 / 12), (2, 4 / 12)]
    assert found[0].entropy == pytest.approx(np.log(3))
    assert found[0].images[:2] == [_id(0), _id(7)]


def test_choices_that_changed_over_training_are_drawn(project: Path) -> None:
    text = _page(project)
    assert "images the method chose" in text
    for name in ("kept share", "churn", "kept: cat"):
        assert f"<figcaption>{name}</figcaption>" in text
    path = project / "data/distill/selection_history.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert "images the method chose" not in _page(project)


def test_pictures_of_the_training_are_shown_under_what_they_are(project: Path) -> None:
    text = _page(project)
    shown = {name: base64.b64encode(_sheet(side)).decode() in text for name, side in SHEETS.items()}
    assert (shown["views.png"], shown["of_tomorrow.png"]) == (True, False)
    assert "<summary>what the student saw: a row per image, its first views</summary>" in text
    assert "<summary>a row per image: itself, then what the method made of it" in text
    assert "images the method kept most often" not in text, "there is no such picture"


def test_a_large_sheet_is_shown_in_its_own_size(project: Path) -> None:
    found = re.search(
        r'what the generator makes.*?<img src="data:image/\w+;base64,([^"]+)"', _page(project)
    )
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        assert image.size == (300, 300)


def test_without_truth_there_is_no_word_of_a_test_bed(project: Path) -> None:
    assert "Test bed" in _page(project)
    assert 'id="truth"' in _page(project)
    assert "Test bed" not in _page(project, False)
    assert 'id="truth"' not in _page(project, False)


def test_verdicts_on_the_planted_truth(project: Path) -> None:
    evidence = gather(_Stage(project, True))  # type: ignore[arg-type]
    assert evidence.truth is not None
    rows = fates(evidence.collected, evidence.truth.to_pylist())
    found = {item.rule: item for item in verdicts(rows)}
    for item in found.values():
        assert item.caught == item.planted > 0, item
        assert item.false_alarms == 0, item
    assert found["leak guard"].planted == 4
    assert found["broken and oversized files"].planted == 7


def _fate(row: int, end: str, kind: str = "clean", parent: int = -1) -> Fate:
    return Fate(row, kind, "", 0, True, parent, end, 0)


def test_a_rule_is_judged_by_the_rows_that_reached_it() -> None:
    rows = [
        _fate(0, "leak", "test_leak"),
        _fate(1, "kept", "test_leak"),
        _fate(2, "low_score", "test_leak"),  # passed the leak guard, so it is a miss
        _fate(6, "opted_out", "test_leak"),  # never reached it
        _fate(3, "leak"),
        _fate(4, "selected"),
        _fate(5, "corrupt", "broken"),
    ]
    found = judge("leak guard", rows, ("leak",), lambda f: f.kind == "test_leak")
    assert (found.planted, found.caught, found.flagged, found.right) == (3, 1, 2, 1)
    assert (found.false_alarms, found.harmless) == (1, 2)
    found = judge(
        "leak guard", rows, ("leak",), lambda f: f.kind == "test_leak", lambda f: f.row == 3
    )
    assert (found.planted, found.right, found.false_alarms, found.harmless) == (3, 2, 0, 1)


def test_a_pair_is_caught_whichever_of_the_two_was_dropped() -> None:
    rows = [
        _fate(0, "duplicate"),
        _fate(1, "kept", "near_duplicate", parent=0),
        _fate(2, "selected"),
        _fate(3, "kept", "near_duplicate", parent=2),
        _fate(4, "same_pixels"),
        _fate(5, "low_score"),
        _fate(6, "kept", "near_duplicate", parent=5),
    ]
    found = judge_duplicates(rows)
    assert (found.planted, found.caught) == (2, 1)
    assert (found.flagged, found.right, found.false_alarms) == (2, 1, 1)


def test_hosts_hold_no_user_port_or_query() -> None:
    assert host("", "https://user:secret@cdn.example:8080/a?token=1") == "cdn.example"
    assert host("embedded:17") == UNKNOWN
    assert host("https://[bad") == UNKNOWN


def test_markup_is_escaped_unless_made_by_tag() -> None:
    assert tag("p", "<i>", title='"x"') == '<p title="&quot;x&quot;">&lt;i&gt;</p>'
    assert tag("p", tag("i", "a"), None, 3) == "<p><i>a</i>3</p>"
    assert isinstance(tag("p"), Html)
    assert link("x", "javascript:alert(1)") == "x"
    assert tag("p", "a\x00b\ud800") == "<p>a b?</p>"


def test_card_text_cannot_break_out_of_its_table_cell() -> None:
    assert plain("a|b\n<script>") == "a\\|b &lt;script&gt;"


def test_the_card_states_accuracy_data_and_limits(project: Path) -> None:
    main(_Stage(project, True))  # type: ignore[arg-type]
    text = (project / "card.md").read_text()
    for part in (
        "80.0 %",
        "90.0 %",
        "78,042",
        "student.onnx",
        "## Limits",
        "Test bed",
        "kept by the filter",
    ):
        assert part in text
    assert "<script" not in text


def test_large_pictures_are_made_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    uri = data_uri(file.getvalue())
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 2.5 * AS_IT_IS
    small = _webp(0)
    assert data_uri(small) == "data:image/webp;base64," + base64.b64encode(small).decode()


def test_album_reads_across_row_groups_and_shards(tmp_path: Path) -> None:
    for shard in range(2):
        ids = [f"{shard}-{i}" for i in range(1500)]
        images = pa.array([{"bytes": name.encode(), "path": None} for name in ids], IMAGE)
        write_table(pa.table({"id": ids, "image": images}), tmp_path / f"{shard}.parquet")
    album = Album([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    for name in ("0-0", "1-1499", "0-1001", "1-3"):
        assert album.data(name) == name.encode()
    assert "2-0" not in album
    assert "missing" in album.figure("2-0", "gone")


def test_a_damaged_pool_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read"):
        Album([tmp_path / "x.parquet"])


def test_curve_leaves_out_what_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("epoch,loss,note\n1,2.0,a\n2,nan,b\n3,1.0,\n")
    assert read_curve(tmp_path / "c.csv") == {"loss": [(1.0, 2.0), (3.0, 1.0)]}


@pytest.mark.parametrize(
    "values",
    [
        [(0.0, 0.0)],
        [(1.0, 5.0), (2.0, 5.0)],
        [(1.0, 1e-9), (60.0, 3e9)],
        [(1.0, float("inf")), (2.0, 1.0)],
    ],
)
def test_lines_stay_inside_the_picture(values: list[tuple[float, float]]) -> None:
    text = charts.lines({"loss": values}, "epoch")
    points = re.search(r'points="([^"]*)"', text)
    assert points
    for pair in points[1].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= charts.WIDTH
        assert 0 <= y <= charts.HEIGHT


def test_no_points_no_chart() -> None:
    assert charts.lines({"loss": []}, "epoch") == ""
