"""Spellings of licences as providers write them."""

from __future__ import annotations

import pytest

from stages.filter.licences import licence_code

SPELLINGS = {
    "cc0": [
        "cc0", "CC0", "CC0 1.0", "CC0 1.0 Universal", "CC-0", "cc-zero", "Creative Commons Zero", "CC0_1_0",
        "https://creativecommons.org/publicdomain/zero/1.0/", "creativecommons.org/licenses/cc0/1.0",
        "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication",
    ],
    "pdm": [
        "pdm", "PDM 1.0", "Public domain", "publicdomain", "Public Domain Mark 1.0", "PD", "pd-us", "PD-self",
        "https://creativecommons.org/publicdomain/mark/1.0/", "http://creativecommons.org/licenses/publicdomain/",
        "No known copyright restrictions",
    ],
    "by": [
        "by", "BY", "CC BY", "cc-by", "CC BY 4.0", "CC_BY_4_0", "CC-BY-2.0", "cc-by-3.0-de", "CC BY 2.5 ca",
        "Creative Commons Attribution 2.0 Generic", "Attribution 4.0 International", "Attribution License",
        "https://creativecommons.org/licenses/by/4.0/", "http://www.creativecommons.org/licenses/by/2.0/de/deed.en",
    ],
    "by-sa": [
        "by-sa", "CC BY-SA 4.0", "CC BY SA", "cc_by_sa", "Attribution-ShareAlike 3.0 Unported",
        "Attribution Share Alike", "//creativecommons.org/licenses/by-sa/2.0/", "CC BY-SA 3.0 igo",
        "Creative Commons Attribution-ShareAlike 3.0 Unported (CC BY-SA 3.0)",
    ],
    "by-nc-sa": [
        "CC BY-NC-SA 2.0", "Attribution-NonCommercial-ShareAlike License", "Attribution-Non-Commercial-Share Alike",
        "https://creativecommons.org/licenses/by-nc-sa/3.0/us/",
    ],
    "by-nd": ["CC BY-ND 2.0", "Attribution-NoDerivs License", "Attribution-NoDerivatives 4.0 International"],
    "by-nc-nd": ["by-nc-nd", "by-nd-nc", "Attribution-NonCommercial-NoDerivs 2.0"],
    "": ["", "  ", "unknown", "Unknown", "none", "N/A", "https://example.org/terms", "http://[::1"],
}  # fmt: skip
CASES = [(text, code) for code, texts in SPELLINGS.items() for text in texts]


@pytest.mark.parametrize(("text", "code"), CASES)
def test_every_spelling_has_one_code(text: str, code: str) -> None:
    assert licence_code(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "All rights reserved", "GFDL", "MIT", "Copyright 2020 by Jane", "sampling+", "by the river",
        "CC BY-SA 3.0, GFDL", "Attribution required, see terms", "not by", "nc", "© BY", "sa",
        "Attribution", "attribution ", "Attribution only", "Attribution 4.0 International (CC BY-NC 4.0)",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_none_of_the_free_licences(text: str) -> None:
    code = licence_code(text)
    assert code not in SPELLINGS
    assert code


def test_a_code_is_its_own_code() -> None:
    for text, code in [*CASES, ("All rights reserved", licence_code("All rights reserved"))]:
        assert licence_code(code) == code == licence_code(licence_code(text))


def test_the_address_speaks_only_where_the_text_does_not() -> None:
    address = "https://creativecommons.org/licenses/by-nc/2.0/"
    assert licence_code("", address) == "by-nc"
    assert licence_code("unknown", address) == "by-nc"
    assert licence_code("CC BY 2.0", address) == "by"
    assert licence_code("House terms", address) == "house-terms"
    assert licence_code("", "https://creativecommons.org.evil.example/licenses/by/4.0/") == ""
    assert licence_code("", "https://creativecommons.org/") == ""


def test_attribution_alone_is_cc_by_only_where_the_address_says_so() -> None:
    address = "https://creativecommons.org/licenses/by/2.0/"
    assert licence_code("Attribution", address) == "by"
    assert (
        licence_code("Attribution")
        == licence_code("Attribution", "https://a.example")
        == "attribution"
    )


def test_no_text_in_brackets_makes_it_slow_or_deep() -> None:
    for text in ("(cc)" * 5000, "(cc" * 5000 + ")" * 5000, " " * 50_000 + "(cc"):
        assert isinstance(licence_code(text), str)
