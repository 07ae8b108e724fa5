"""pipelines/out_of_domain: layouts of data sets -> pictures by domain and class."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.out_of_domain.readers import open_source
from tests.pipelines.domains import (
    CLASSES,
    counts,
    parquet,
    picture,
    put,
    tree,
)
from webdistill.core.errors import UserError


@pytest.mark.parametrize(
    ("domains", "names"),
    [
        (["amazon/images", "dslr/images", "webcam/images"], ["amazon", "dslr", "webcam"]),
        (
            ["Art", "Clipart", "Product", "Real World"],
            ["art", "clipart", "product", "real_world"],
        ),
        (["amazon", "caltech", "dslr", "webcam"], ["amazon", "caltech", "dslr", "webcam"]),
        (
            ["kfold/art_painting", "kfold/cartoon", "kfold/photo", "kfold/sketch"],
            ["art_painting", "cartoon", "photo", "sketch"],
        ),
        (["inner/data/one", "inner/data/two"], ["one", "two"]),
        (["train", "validation"], ["train", "validation"]),
    ],
)
def test_folder_layouts_are_recognised(
    tmp_path: Path, domains: list[str], names: list[str]
) -> None:
    put(tmp_path / "README.md", b"about")
    put(tmp_path / "splits" / "a.txt", b"x")
    source = open_source(tree(tmp_path, *domains))
    assert list(source.domains) == names
    assert source.classes == ("bike", "mug")
    assert counts(source) == {name: {"bike": 2, "mug": 2} for name in names}
    assert not source.notes


def test_pictures_come_sorted_with_their_bytes(tmp_path: Path) -> None:
    tree(tmp_path, "b")
    for name in ("mug/b.jpg", "mug/a.JPEG", "bike/c.png"):
        put(tmp_path / "a" / name)
    found = list(open_source(tmp_path).domains["a"].read(CLASSES))
    order = [("bike/c.png", "bike"), ("mug/a.JPEG", "mug"), ("mug/b.jpg", "mug")]
    assert found == [((tmp_path / "a" / name).read_bytes(), label) for name, label in order]


def test_hidden_files_links_and_other_files_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path / "data", "one", "two")
    real = tmp_path / "data" / "one" / "mug" / "000.png"
    for name in ("one/.DS_Store", "one/mug/.hidden.png", "one/mug/notes.txt", "one/mug/._000.png"):
        put(tmp_path / "data" / name, b"x")
    put(tmp_path / "data" / "__MACOSX" / "mug" / "a.png")
    put(tmp_path / "data" / "__MACOSX" / "bike" / "a.png")
    put(tmp_path / "data" / ".cache" / "mug" / "a.png")
    (tmp_path / "data" / "one" / "mug" / "link.png").symlink_to(real)
    (tmp_path / "data" / "one" / "linked").symlink_to(real.parent)
    (tmp_path / "data" / "three").symlink_to(tmp_path / "data" / "one")
    (tmp_path / "place").symlink_to(tmp_path / "data")  # the data set itself may be a link
    source = open_source(tmp_path / "place")
    assert counts(source) == {name: {"bike": 2, "mug": 2} for name in ("one", "two")}


def test_only_classes_of_all_domains_are_used_and_that_is_said(tmp_path: Path) -> None:
    tree(tmp_path, "one", "two")
    tree(tmp_path, "two", classes=["lamp"])
    source = open_source(tmp_path)
    assert source.classes == ("bike", "mug")
    assert source.notes == ("1 classes are not in all domains: lamp",)
    assert counts(source)["two"] == {"bike": 2, "mug": 2}


def test_visda_test_images_get_their_classes_from_the_numbered_list(tmp_path: Path) -> None:
    tree(tmp_path, "train", "validation", classes=["car", "person", "train"])
    for trunk, number in itertools.product(("trunk00", "trunk01"), range(3)):
        put(tmp_path / "test" / trunk / f"{number}.jpg")
    unlisted = open_source(tmp_path)
    assert list(unlisted.domains) == ["train", "validation"]
    assert "test is left out: its image_list.txt does not number classes" in unlisted.notes[0]
    lines = ["trunk00/0.jpg 0", "trunk00/1.jpg 1", "trunk01/0.jpg 2", "trunk01/2.jpg 2"]
    put(tmp_path / "test" / "image_list.txt", "\n".join(lines).encode())
    source = open_source(tmp_path)
    assert counts(source)["test"] == {"car": 1, "person": 1, "train": 2}
    assert source.classes == ("car", "person", "train")
    put(tmp_path / "test" / "image_list.txt", b"trunk00/0.jpg 3\n")
    with pytest.raises(UserError, match=r"image_list\.txt: '3' numbers none of 3 classes"):
        open_source(tmp_path)


def test_of_domainnet_only_listed_pictures_are_used(tmp_path: Path) -> None:
    tree(tmp_path, "clipart", "real", count=3)
    put(tmp_path / "clipart_train.txt", b"clipart/bike/000.png 0\nclipart/mug/001.png 1\n")
    put(tmp_path / "clipart_test.txt", b"clipart/bike/002.png 0\n../secret.png 0\n")
    source = open_source(tmp_path)
    assert counts(source) == {"clipart": {"bike": 2, "mug": 1}, "real": {"bike": 3, "mug": 3}}
    note = "clipart_train.txt and clipart_test.txt list 4 pictures; 3 of 6 here are used"
    assert source.notes == (note,)
    put(tmp_path / "real_train.txt", b"real/lamp/0.png 0\n")
    with pytest.raises(UserError, match=r"real_train\.txt lists none of the 6 pictures of"):
        open_source(tmp_path)


@pytest.mark.parametrize("struct", [False, True])
def test_a_parquet_file_is_read_by_domain(tmp_path: Path, struct: bool) -> None:
    rows = [(picture(), d, c) for _ in range(4) for d in ("photo", "sketch") for c in CLASSES]
    source = open_source(parquet(tmp_path / "set.parquet", rows, struct))
    assert list(source.domains) == ["photo", "sketch"]
    assert list(source.domains["sketch"].read(["mug"])) == [
        (data, name) for data, domain, name in rows if (domain, name) == ("sketch", "mug")
    ]


def test_what_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            open_source(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nowhere does not exist; name it as prepare.source" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no folders <domain>/<class>/ with pictures" in refused(tmp_path / "empty")
    tree(tmp_path / "alone", "Art")
    assert "holds no folders <domain>/<class>/" in refused(tmp_path / "alone" / "Art")
    two = tree(tree(tmp_path / "both", "x/one", "x/two"), "y/one", "y/two")
    assert "holds several data sets, " in refused(two)
    tree(tmp_path / "apart", "one", classes=["a", "b"])
    tree(tmp_path / "apart", "two", classes=["c", "d"])
    assert "no two classes in common: one has a, b; two has c, d" in refused(tmp_path / "apart")
    tree(tmp_path / "same", "Real World", "real_world")
    assert "'real_world' is empty or taken" in refused(tmp_path / "same")
    one = parquet(tmp_path / "one.parquet", [(picture(), "photo", c) for c in CLASSES])
    assert "holds 1 domain; prepare.source needs at least two" in refused(one)
    pq.write_table(pa.table({"domain": ["a"], "class": ["b"]}), tmp_path / "bare.parquet")
    assert "needs a column 'image' with the bytes" in refused(tmp_path / "bare.parquet")
    pq.write_table(pa.table({"image": [b""], "domain": ["a"]}), tmp_path / "bare.parquet")
    assert "has no column 'class'" in refused(tmp_path / "bare.parquet")
