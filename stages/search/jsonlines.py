"""JSON in a text list: an object a line as a rule, but also arrays in one line, and objects over several lines."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from typing import Any

from stages.search.textlines import Lines, Lost, is_text

AROUND = " \t\r\n\x1e[],"  # objects: RFC 7464 begins each with a sign of its own
BEHIND = re.compile(rf"[{re.escape(AROUND)}]*")  # an object
MOST_BROKEN = 3  # objects of several lines that are none: then an object has one line
DECODER = json.JSONDecoder()


def objects(lines: Lines, lost: Lost) -> Iterator[dict[str, Any]]:
    """JSON objects, one a line, also where the lines make an array; or several in a line, or one in several."""
    broken = 0
    for line in lines:
        if written := line.strip(AROUND):
            number = lines.taken[0][0]
            found = _objects(written, lines if broken < MOST_BROKEN else iter(()))
            if found is None or not is_text(lines):
                broken += len(lines.taken) > 1
                lines.give_back()
                lost.add(number)
            else:
                yield from found
        lines.mark()


def _objects(written: str, more: Iterator[str]) -> list[dict[str, Any]] | None:
    """The objects of a text, of which the last may go on in `more` lines; None for anything else."""
    found: list[dict[str, Any]] = []
    at = 0
    while at < len(written):
        try:
            one, end = DECODER.raw_decode(written, at)
        except json.JSONDecodeError as error:
            if error.pos < len(written.rstrip()):
                return None
            rest = _rest(written.count("{", at) - written.count("}", at), more)
            if not rest:
                return None
            written += rest  # it is right as far as it goes
            continue
        except (ValueError, RecursionError):
            return None
        if not isinstance(one, dict):
            return None
        found.append(one)
        between = BEHIND.match(written, end)
        at = between.end() if between else end
    return found


def _rest(opened: int, more: Iterator[str]) -> str:
    """The lines until as many braces are closed as are open, "" where they never are."""
    rest = []
    try:
        for line in more:
            rest.append(line)
            opened += line.count("{") - line.count("}")
            if opened <= 0:
                return "".join(rest)
    except csv.Error:  # longer than a record may be: it is lost, and its line is counted
        return ""
    return ""
