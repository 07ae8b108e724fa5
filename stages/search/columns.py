"""What the columns of other people's lists are called, and what their cells say as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from webdistill.core.errors import UserError

# Our column -> names that mean it, in lower case without signs. The first group with a match decides; two matches
# in one group are a question to the user.
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "url": (
        ("url", "imageurl", "imgurl", "imagelink", "photoimageurl", "contenturl", "originalurl"),
        ("path", "filepath", "imagepath", "filename", "imagefile", "imagefilename", "file"),
    ),
    "image": (("image", "img", "picture", "imagebytes", "jpg", "jpeg", "png", "webp", "bytes"),),
    "query": (("query", "keyword", "searchterm"),),
    "caption": (
        ("caption", "text", "txt", "alttext", "alt"),
        ("captions", "texts", "description", "imagedescription"),
        ("title",),
    ),
    "licence": (("licence", "license", "licencename", "licensename"),),
    "licence_url": (("licenceurl", "licenseurl"),),
    "creator": (("creator", "author", "artist", "photographer", "creatorname", "authorname"),),
    "landing_page": (
        ("landingpage", "foreignlandingurl", "landingurl", "originallandingurl"),
        ("pageurl", "sourceurl"),
    ),
    "attribution": (("attribution", "credit"),),
    "opt_out": (("optout",),),
}
TEXTS = tuple(name for name in NAMES if name != "image")
UNKNOWN = frozenset({"?", "nan", "null", "none"})  # LAION writes an unknown licence as ?
DEEPEST = 8  # levels of lists within lists in a cell
ABOUT_RIGHTS = ("licence", "licence_url", "creator")


def matching(ours: str, present: Sequence[str]) -> list[str]:
    """The columns that may be ours: ours itself, else the first group of names that has any."""
    if ours in present:
        return [ours]
    for group in NAMES[ours]:
        if found := [name for name in present if _letters(name) in group]:
            return found
    return []


@lru_cache(maxsize=1000)
def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def assign(path: Path, present: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Our text column -> the list's, for all it has; `columns` (from params.yaml) goes before names that we know.

    Raises UserError when `columns` names one that is not there, or when two could be meant.
    """
    chosen = {}
    for ours, theirs in columns.items():
        if theirs not in present:
            raise UserError(
                f"search.columns.{ours}: {path} has no column '{theirs}'; it has {', '.join(present)}"
            )
    for ours in TEXTS:
        named = columns.get(ours)
        free = [name for name in present if name not in columns.values()]
        found = [named] if named is not None else matching(ours, free)
        if len(found) > 1:
            raise UserError(ambiguous(path, ours, found))
        if found:
            chosen[ours] = found[0]
    return chosen


def ambiguous(path: Path, ours: str, found: Sequence[str]) -> str:
    """The line for a list with several columns of one meaning."""
    return (
        f"{path}: the columns {' and '.join(found)} could each be the {ours}; say which, such as "
        f"`columns: {{{ours}: {found[0]}}}`, under search in params.yaml"
    )


def text(value: object, depth: int = 0) -> str:
    """Any cell as text: null -> "", lists joined by a comma; what is nested too deeply is left out."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (list, tuple)):
        inner = (text(one, depth + 1) for one in value) if depth < DEEPEST else ()
        return ", ".join(filter(None, inner))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return str(value).strip()


def known(ours: str, value: str) -> str:
    """`value`, or "" where a list writes that it does not know."""
    return "" if ours in ABOUT_RIGHTS and value.lower() in UNKNOWN else value
