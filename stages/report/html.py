"""HTML and SVG from Python with escaping as the default: only `Html` passes unescaped, and only `tag` makes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from html import escape


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | int | None
EMPTY = Html("")
_VOID = {"img", "meta", "br", "hr", "col"}


def text(value: Child) -> Html:
    """Escaped text; `Html` is returned as it is, None is nothing."""
    if value is None:
        return EMPTY
    return value if isinstance(value, Html) else Html(escape(printable(str(value))))


def printable(value: str) -> str:
    """Without control characters and lone surrogates, which no HTML or JSON file should hold."""
    kept = "".join(
        c if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) <= 0x9F) else " " for c in value
    )
    return kept.encode("utf-8", "replace").decode("utf-8")


def tag(name: str, /, *children: Child, **attributes: str | int | float | None) -> Html:
    """One element. `class_` and `for_` lose the underscore, others become hyphens; None leaves one out."""
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(printable(str(value)))}"')
    opening = f"<{' '.join(parts)}>"
    if name in _VOID:
        return Html(opening)
    return Html(f"{opening}{join(children)}</{name}>")


def join(children: Iterable[Child], between: str = "") -> Html:
    """Children one after another, each escaped unless it is `Html`."""
    return Html(between.join(text(child) for child in children))


def table(
    header: Sequence[Child], rows: Sequence[Sequence[Child]], numbers: Set[int] = frozenset()
) -> Html:
    """A table in a box that scrolls sideways; the columns in `numbers` are right-aligned."""

    def cells(kind: str, values: Sequence[Child]) -> Html:
        return join(
            tag(kind, v, class_="n" if i in numbers else None) for i, v in enumerate(values)
        )

    body = join((tag("tr", cells("td", row)) for row in rows), "\n")
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", cells("th", header))), tag("tbody", body)),
        class_="scroll",
    )


def link(label: str, address: str) -> Html:
    """A link when the address is http(s), else the label alone: an address from the web may be `javascript:`."""
    if address.startswith(("https://", "http://")):
        return tag("a", label, href=address, rel="noreferrer noopener nofollow")
    return text(label)


def section(anchor: str, title: str, lead: Child, *children: Child) -> Html:
    """A titled section with one sentence on top."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead"), *children, id=anchor)
