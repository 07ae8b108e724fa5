"""The words of a class: found as whole words in captions, and never shared by two classes."""

from __future__ import annotations

import unicodedata

import pytest

from stages.search.keywords import Keywords
from webdistill.core.errors import UserError

CLASSES = ("cat", "dog", "maple_tree", "maple", "truck")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a CAT on a mat", "cat"),
        ("concatenate the category", ""),
        ("truck and dog", "truck"),
        ("a maple tree in autumn", "maple_tree"),
        ("maple_tree", "maple_tree"),
        ("maple syrup, cat", "maple"),
        ("dogs", ""),
        ("hot-dog", "dog"),
        ("", ""),
    ],
)
def test_query_from_the_caption(caption: str, expected: str) -> None:
    assert Keywords(CLASSES).first_in(caption) == expected


def test_keywords_replace_the_name_in_captions() -> None:
    words = Keywords(CLASSES, {"truck": ["lorry", "pick-up"]})
    assert words.words["truck"] == ("lorry", "pick up")
    assert words.words["maple_tree"] == ("maple tree",)
    assert [words.first_in(text) for text in ("a PICK UP", "lorry", "truck")] == [
        "truck",
        "truck",
        "",
    ]
    assert words.class_of("Truck") == words.class_of("Pick_Up") == "truck"


def test_letters_that_only_look_alike_do_no_harm() -> None:
    assert Keywords(["bus", "c++", "a.b", "Straße"]).first_in("a buſ") == "bus"
    assert Keywords(["c++", "a.b"]).first_in("axb or c++ code") == "c++"
    assert Keywords(["Straße", "x"]).first_in("eine STRAßE") == "Straße"
    for form in ("NFC", "NFD"):  # macOS takes letters apart in names of files
        spelled = unicodedata.normalize(form, "zwei VÖGEL")
        assert Keywords(["Vögel", "x"]).first_in(spelled) == "Vögel"
        assert Keywords(["zwei Vögel", "x"]).class_of(spelled) == "zwei Vögel"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"truck": ["Cat"]}, r"search\.keywords\.truck: 'cat' also stands for the class 'cat'"),
        ({"cat": ["pet"], "dog": ["pet"]}, r"keywords\.dog: 'pet' also stands for the class 'cat'"),
        ({"kat": ["pet"]}, r"search\.keywords\.kat: no such class; task\.classes has cat, dog"),
        ({"cat": ["_-"]}, r"search\.keywords\.cat: '' has no letter"),
    ],
)
def test_words_that_mean_two_classes_are_refused(
    words: dict[str, list[str]], expected: str
) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        Keywords(CLASSES, words)
    assert "\n" not in str(caught.value)


def test_two_spellings_of_one_class_are_refused() -> None:
    with pytest.raises(UserError, match=r"'maple-tree' also stands for the class 'maple_tree'"):
        Keywords(["maple_tree", "maple-tree"])
