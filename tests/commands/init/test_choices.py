"""What `init` chooses where no flag says it, and how it reads names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from stages.search.keywords import Keywords
from webdistill.commands.init import choices, material
from webdistill.commands.init.class_names import class_names
from webdistill.commands.plan import sizes
from webdistill.core.errors import UserError
from webdistill.models.zoo import build

COLOURS = ("red", "green", "blue")
LOGARITHMS = """\
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes), nn.LogSoftmax(1))
"""


def test_class_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("tabby cat\n\ndog, small\n")
    assert class_names(str(tmp_path / "names.txt")) == ("tabby cat", "dog, small")
    windows = "\ufeffVögel\r\nKatze\r\n"
    (tmp_path / "names.txt").write_bytes(windows.encode())
    assert class_names(str(tmp_path / "names.txt")) == ("Vögel", "Katze")
    (tmp_path / "names.txt").write_bytes(windows[1:].encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        class_names(str(tmp_path / "names.txt"))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("list.json", '["tabby cat", "dog, small", "bird"]'),
        ("config.json", '{"a": 1, "id2label": {"0": "tabby cat", "2": "bird", "1": "dog, small"}}'),
        ("class_to_idx.json", '{"bird": 2, "tabby cat": 0, "dog, small": 1}'),
        (
            "index.json",
            '{"0": ["n0", "tabby cat"], "1": ["n1", "dog, small"], "2": ["n2", "bird"]}',
        ),
        ("data.yaml", "nc: 3\nnames:\n  0: tabby cat\n  1: dog, small\n  2: bird\n"),
        ("numbered.txt", "0: tabby cat\n1: dog, small\n2: bird\n"),
        ("spaces.txt", "0 tabby cat\n1 dog, small\n2 bird\n"),
        ("from_one.txt", "1\ttabby cat\n2\tdog, small\n3\tbird\n"),
    ],
)
def test_class_names_as_other_programs_write_them(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert class_names(str(tmp_path / file)) == ("tabby cat", "dog, small", "bird")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("gap.json", '{"0": "a", "2": "b"}', "a name for each number from 0 on"),
        ("text.json", '"a"', "expected a list of names"),
        ("deep.json", '[["a", ["b"]], ["c", ["d"]]]', "expected a list of names"),
        ("cut.json", '["a", ', "cut.json line 1 is not valid YAML"),
        ("twice.json", '["a", "A"]', "two or more different names"),
    ],
)
def test_class_names_that_are_none(tmp_path: Path, file: str, text: str, said: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        class_names(str(tmp_path / file))
    assert "\n" not in str(caught.value)


def test_names_that_begin_with_numbers_keep_them(tmp_path: Path) -> None:
    for names in (("2 euro", "1 euro", "5 euro"), ("1 cent", "2 cent")):
        (tmp_path / "names.txt").write_text("\n".join(names))
        assert class_names(str(tmp_path / "names.txt")) == names


def test_labelled_folders_are_named_as_folders_of_the_source_are(tmp_path: Path) -> None:
    keywords = Keywords(["Tabby Cat", "Vögel"], {"Vögel": ["birds"]})
    names = ("tabby_cat", unicodedata.normalize("NFD", "VÖGEL"), "Birds")
    for name in (*names, ".ipynb_checkpoints"):
        (tmp_path / name).mkdir()
        for file in ("0.png", "._0.png"):  # what other systems put beside files
            (tmp_path / name / file).touch()
    found = material.labelled(tmp_path, keywords)
    assert {(file.parent.name, file.name): label for file, label in found} == {
        (name, "0.png"): label for name, label in zip(names, (0, 1, 1), strict=True)
    }


@pytest.mark.parametrize(
    ("pictures", "width", "count", "dims"),
    [(10_000, 512, 64, 32), (10_000, 10, 64, 10), (10_000, None, 64, 32), (60, 512, 15, 15), (3, 512, 2, 1)],
)  # fmt: skip
def test_prototypes_are_no_more_than_pictures_and_features_allow(
    pictures: int, width: int | None, count: int, dims: int
) -> None:
    """A stage that nobody asked for would stop the pipeline after everything was fetched."""
    found = {"prototypes.count": count, "prototypes.dims": dims}
    assert sizes.clustered(pictures, width) == found


def test_features_of_a_network_whose_logits_count_as_them_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("logarithms.py").write_text(LOGARITHMS)
    new = material.NewTeacher("logarithms:Net", Path("unread"), COLOURS, 32, *[(0.5, 0.5, 0.5)] * 2)
    net = choices._network(Path("unread"), new, len(COLOURS), 32)
    assert net is not None
    assert net.fc.in_features == 3
    assert choices._method(net) == {"distill.method": "kd"}, "there are no maps to imitate"
    assert choices._method(build("resnet8", 3)) == {}


@pytest.mark.parametrize(
    ("teacher", "size", "student"),
    [
        ("resnet56", 32, "wrn-16-1"),
        ("timm:tf_efficientnet_lite1", 64, "torchvision:mobilenet_v3_small"),
        ("resnet8", 32, "resnet8"),  # nothing is smaller
        ("torchvision:resnet18", 128, "torchvision:mobilenet_v3_small"),
        ("torchvision:shufflenet_v2_x1_0", 128, "torchvision:shufflenet_v2_x0_5"),
    ],
)
def test_student_that_nobody_named_is_smaller_than_its_teacher(
    teacher: str, size: int, student: str
) -> None:
    assert choices._student(build(teacher, len(COLOURS), size), len(COLOURS), size) == student
