"""What the columns of other people's lists are called, and which of them say what we want to know."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from stages.search.cells import WEB
from webdistill.core.errors import UserError

# Our column -> names that mean it, in lower case without signs. The first group with a match decides; two matches
# in one group are a question to the user. A cell that is empty there is filled from the groups after it, but for the
# address: a path is no second best of an address.
OF_PICTURES = (  # beside one of these `url` is the page, as in iNaturalist's exports
    (
        "imageurl", "imgurl", "imageuri", "imagelink", "imglink", "imagesrc", "imgsrc", "photoimageurl", "contenturl",
        "mediaurl",
    ),
    ("imageurls", "imgurls"),
)  # fmt: skip
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "url": (
        *OF_PICTURES,
        ("url", "originalurl", "downloadurl", "accessuri"),
        ("fileurl", "photourl", "pictureurl", "urls"),
        ("identifier",),
        ("path", "filepath", "imagepath", "filename", "imagefile", "imagefilename", "file"),
        ("imagename",),
    ),
    "image": (
        ("image", "img", "picture", "imagebytes", "jpg", "jpeg", "png", "webp", "bytes"),
        ("images",),
    ),
    "query": (("query", "keyword", "searchterm"),),
    "caption": (
        ("caption", "text", "txt", "alttext", "alt"),
        ("captionreferencedescription",),  # of WIT
        ("captionattributiondescription",),
        ("captionalttextdescription",),
        ("captions", "texts", "description", "imagedescription", "photodescription"),
        ("aidescription",),  # of Unsplash's dataset
        ("title",),
        ("pagetitle",),
        ("scientificname", "taxonname"),
    ),
    "licence": (
        ("licence", "license", "licencename", "licensename", "licenseshortname"),  # the last: Commons
        ("licensecode",),  # of iNaturalist's API
        ("licensetitle",),
        ("usageterms",),
        ("rights",),
    ),
    "licence_url": (("licenceurl", "licenseurl"), ("webstatement",)),
    "creator": (
        ("creator", "author", "artist", "photographer", "creatorname", "authorname"),
        ("rightsholder",),
        ("owner",),  # of Audubon Core, as others of these names
        ("unickname", "usernickname"),  # of YFCC100M
        ("photographername", "photographerusername", "ownername"),
        ("username",),  # of iNaturalist's exports, where people need not give one
        ("userlogin",),
        ("observerid",),  # of iNaturalist's open data
    ),
    "landing_page": (
        ("landingpage", "foreignlandingurl", "landingurl", "originallandingurl"),
        ("pageurl", "sourceurl"),
        ("descriptionurl",),  # of Commons
        ("references",),
        ("furtherinformationurl",),
    ),
    "attribution": (("attribution", "credit"),),
    "opt_out": (("optout", "optedout"), ("noai",), ("tdmreservation",)),
    "sha256": (("sha256",), ("sha256sum", "sha256hash", "imagesha256")),
    "md5": (("md5", "originalmd5"), ("md5sum", "md5hash", "imagemd5")),
    "punsafe": (("punsafe",),),
    "nsfw": (("nsfw",), ("nsfwscoreopennsfw2",), ("nsfwscoregantman",), ("nsfwscore",)),
    "pwatermark": (("pwatermark",), ("watermarkscore",)),
    "aesthetic": (("aesthetic",), ("aestheticscore",), ("aestheticscorelaionv2",)),
    "similarity": (
        ("similarity",),
        ("clipl14similarityscore", "clipsimilarityvitl14"),
        ("clipb32similarityscore", "clipsimilarityvitb32"),
    ),
}  # fmt: skip
TEXTS = tuple(name for name in NAMES if name != "image")
# Names that mean this in some lists and other things in others: only with web addresses in their cells.
DOUBTFUL = frozenset({"identifier", "references"})
ADDRESSES = re.compile(r"url|uri|link|href|src|path|file|image|img|photo|picture|media")
PICTURE = re.compile(r"\.(?:jpe?g|png|webp|gif|tiff?|bmp|avif)(?:$|\?)", re.IGNORECASE)
MOST, LONG = 50, 60  # names in a message, and their letters
Peek = Callable[[str], Sequence[str]]  # column -> cells from the list's beginning


def matching(ours: str, present: Sequence[str]) -> list[str]:
    """The columns that may be ours: ours itself, else the first group of names that has any."""
    return next(iter(groups(ours, present)), [])


def assign(
    path: Path, present: Sequence[str], columns: Mapping[str, str], peek: Peek
) -> dict[str, list[str]]:
    """Our column -> the list's, best first; `columns` (from params.yaml) goes before names that we know.

    Raises UserError when `columns` names one that is not there, or when two could be meant.
    """
    chosen = {}
    for ours, theirs in columns.items():
        if theirs not in present:
            raise UserError(
                f"search.columns.{ours}: {path} has no column '{theirs}'; it has {shown(present)}"
            )
    free = [name for name in present if name not in columns.values() and _is_meant(name, peek)]
    if any(letters(name) == "url" and _has_addresses(name, peek) for name in free):
        free = [name for name in free if not _names_pictures(name) or _may_have(name, peek)]
    for ours in TEXTS:
        named = columns.get(ours)
        several = [[named]] if named is not None else groups(ours, free)
        if not several:
            continue
        if len(several[0]) > 1:
            raise UserError(ambiguous(path, ours, several[0]))
        chosen[ours] = [group[0] for group in several][: 1 if ours == "url" else None]
    page = "photourl" if letters(chosen.get("url", [""])[0]) == "photoimageurl" else "url"
    pages = [name for name in free if letters(name) == page]
    if pages and "landing_page" not in columns and _names_pictures(chosen["url"][0]):
        chosen["landing_page"] = [*chosen.get("landing_page", []), pages[0]]
    return chosen


def ambiguous(path: Path, ours: str, found: Sequence[str]) -> str:
    """The line for a list with several columns of one meaning."""
    return (
        f"{path}: the columns {shown(found, ' and ')} could each be the {ours}; say which, such as "
        f"`columns: {{{ours}: {shown(found[:1])}}}`, under search in params.yaml"
    )


def shown(names: Sequence[str], between: str = ", ") -> str:
    """Columns in a line for people: what is no list has names of any number, length and letters."""
    plain = (
        "".join(sign if sign.isprintable() else "?" for sign in name[:LONG])
        + "…" * (len(name) > LONG)
        for name in names[:MOST]
    )
    return between.join([*plain, *([f"{len(names) - MOST:,} more"] if len(names) > MOST else [])])


def with_addresses(present: Sequence[str], peek: Peek) -> list[str]:
    """The columns whose cells are web addresses."""
    return [name for name in present if _has_addresses(name, peek)]


def no_address(path: Path, present: Sequence[str], peek: Peek) -> UserError:
    """The error for a list without a column of addresses; it proposes one only if that has some, or is called so."""
    named = [name for name in present if not _is_id(name)]
    likely = [name for name in named if _has_addresses(name, peek)]
    likely.sort(key=lambda name: not any(map(PICTURE.search, peek(name))))
    likely += [name for name in named if ADDRESSES.search(name.lower())]
    example = (
        f", such as `columns: {{url: {shown(likely[:1])}}}`," if likely else " as `columns.url`"
    )
    return UserError(
        f"{path} has no column 'url'; it has {shown(present)}; name the one with the addresses{example} "
        "under search in params.yaml"
    )


def groups(ours: str, present: Sequence[str]) -> list[list[str]]:
    """The columns that may be ours, best first; ours itself goes before the others of its group."""
    found: list[list[str]] = []
    for group in NAMES[ours]:
        here = [name for name in present if letters(name) in group]
        first = [name for name in here if name == ours]
        found += [first, [name for name in here if name != ours]]
    return list(filter(None, found))


@lru_cache(maxsize=1000)
def letters(name: str) -> str:
    """A column's name in lower case without signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_meant(name: str, peek: Peek) -> bool:
    return letters(name) not in DOUBTFUL or _has_addresses(name, peek)


def _names_pictures(name: str) -> bool:
    return any(letters(name) in group for group in OF_PICTURES)


def _may_have(name: str, peek: Peek) -> bool:
    """Whether addresses are in it, as far as can be told."""
    return not peek(name) or _has_addresses(name, peek)


def _has_addresses(name: str, peek: Peek) -> bool:
    filled = [cell for cell in peek(name) if cell.strip()]
    return 2 * sum(bool(WEB.match(cell)) for cell in filled) > len(filled)


def _is_id(name: str) -> bool:
    return (
        re.search(r"id$|key|hash|index|width|height|size|type|format|count", letters(name))
        is not None
    )
