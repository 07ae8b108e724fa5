"""What an image may be called: id, prefix, sha256, address, path; and names that fit none or several."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from conftest import World

Build = Callable[..., "World"]


@pytest.fixture
def ask(say: Any) -> Callable[..., tuple[int, str, str]]:
    return partial(say, "why")


@pytest.mark.parametrize(
    "name",
    [
        "bbbb",
        "BBBB1111",
        "id:bbbb1",
        "https://a.example.org/2.jpg",
        "HTTPS://user:word@A.example.ORG:443/2.jpg#part",
        " https://a.example.org/2.jpg ",
    ],
)
def test_any_spelling_of_id_or_address_finds_the_image(build: Build, ask: Any, name: str) -> None:
    world = build()
    code, shown, _ = ask(name)
    assert code == 0
    assert shown.startswith(world.ids["b"])


def test_the_sha256_of_the_original_finds_the_image(build: Build, ask: Any) -> None:
    world = build()
    digests = pq.read_table(world.data / "fetch/ledger.parquet").to_pylist()
    digest = next(row["sha256"] for row in digests if row["id"] == world.ids["g"])
    for name in (digest, digest.upper(), f"sha256:{digest}"):
        code, shown, _ = ask(name)
        assert code == 0
        assert shown.startswith(world.ids["g"])


def test_any_of_its_addresses_brings_all_candidates_with_the_same_pixels(
    build: Build, ask: Any
) -> None:
    world = build()
    lives = [
        ask(name, "--json")[1]
        for name in (world.ids["a"], "https://b.example.net/copy.jpg?x=1&y=2")
    ]
    assert lives[0] == lives[1]
    assert [row["status"] for row in json.loads(lives[1])["fetch"]] == ["ok", "duplicate"]


def test_a_local_file_is_found_with_and_without_its_folder(build: Build, ask: Any) -> None:
    world = build()
    for name in ("cat/9.jpg", "photos/cat/9.jpg"):
        code, shown, _ = ask(name)
        assert code == 0
        assert shown.startswith(world.ids["f"])
        assert "from folder, file, photos" in " ".join(shown.split())


def test_an_ambiguous_prefix_lists_the_images_it_may_mean(build: Build, ask: Any) -> None:
    world = build()
    code, shown, err = ask("aaaa")
    assert code == 2
    assert "may be any of 2 images" in shown
    assert world.ids["a"] in shown
    assert world.ids["e"] in shown
    assert "https://a.example.org/8.jpg" in shown
    assert err == ""
    code, shown, _ = ask("aaaa", "--json")
    assert code == 2
    assert json.loads(shown) == {"ambiguous": [world.ids["a"], world.ids["e"]]}
    assert ask("aaaa2")[0] == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("eeee", "answers to this id"),
        ("0" * 64, "answers to this sha256"),
        ("https://a.example.org/99.jpg", "answers to this url"),
        ("abc", "too short"),
        ("", "name an image"),
        ("sha256:abc", "64"),
        ("id:" + "0" * 64, "an id has 32"),
        ("0" * 40, "40 hex digits"),
        ("id:xyz", "expected hex digits"),
        ("x\x1b[31m", "x\\x1b[31m"),
    ],
)
def test_a_name_without_an_image_is_one_line_and_exit_code_2(
    build: Build, ask: Any, name: str, problem: str
) -> None:
    build()
    code, shown, err = ask(name)
    assert code == 2
    assert shown == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert problem in err
    assert "\x1b" not in err
