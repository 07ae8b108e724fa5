"""The three commands: their arguments (nothing heavy is imported before one is run) and their answers."""

from __future__ import annotations

import argparse
from pathlib import Path

SUBJECT = "an id or the start of it, the sha256 of the original file, or an address"
TAKEN = "an id, a sha256, an address, *.example.org or host:example.org, as in takedown.txt"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`why`, `lost` and `prove-absent`."""
    why = commands.add_parser(
        "why",
        help="an image's whole life, stage by stage",
        description="Exit code 0 when exactly one image answers to the name, else 2.",
    )
    why.add_argument("image", help=SUBJECT)
    lost = commands.add_parser(
        "lost",
        help="where images went, from candidates to the selection",
        description="Exit code 0 when every candidate is accounted for, 1 when the stages' files do not fit together.",
    )
    lost.add_argument(
        "--by",
        choices=("query", "host", "provider"),
        help="also per class keyword, host or provider",
    )
    absent = commands.add_parser(
        "prove-absent",
        help="search every file of the work tree for an image that was taken down",
        description="Exit code 0 when it is absent from filter onward, 1 when not, 2 for bad input.",
    )
    absent.add_argument("image", help=TAKEN)
    absent.add_argument(
        "--everywhere", action="store_true", help="demand absence before filter, too"
    )
    for command in (why, lost, absent):
        command.add_argument("--json", action="store_true", help="for programs")
        command.add_argument(
            "--data",
            type=Path,
            default=Path("data"),
            metavar="FOLDER",
            help="outputs of the stages; default: data",
        )


def why(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> the answer and the exit code. Raises UserError when no image answers to the name."""
    from dataclasses import asdict

    from webdistill.core.errors import UserError
    from webdistill.life import telling, text
    from webdistill.life.named import named
    from webdistill.life.why import life, matches

    wanted = named(arguments.image)
    found = matches(arguments.data, wanted)
    if not found:
        raise UserError(
            f"{text.inert(wanted.text)}: no image or candidate in {arguments.data} answers to this {wanted.kind}"
        )
    if len(found) > 1:
        listed = {"ambiguous": [match.id for match in found]}
        return (
            text.as_json(listed) if arguments.json else telling.list_matches(wanted.text, found)
        ), 2
    told = life(arguments.data, found[0])
    return (text.as_json(asdict(told)) if arguments.json else telling.tell(told)), 0


def lost(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> the funnel and the exit code."""
    from webdistill.life import losing, text
    from webdistill.life.lost import lost as count
    from webdistill.life.lost import plain

    found = count(arguments.data, arguments.by)
    told = text.as_json(plain(found)) if arguments.json else losing.tell(found, arguments.by)
    return told, 1 if found.faults else 0


def prove_absent(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> the findings and the exit code."""
    from dataclasses import asdict

    from webdistill.life import gone, text
    from webdistill.life.absent import prove
    from webdistill.life.target import target

    proof = prove(arguments.data, target(arguments.image))
    proven = proof.gone_everywhere if arguments.everywhere else proof.gone
    if arguments.json:
        told = text.as_json({**asdict(proof), "proven": proven})
    else:
        told = gone.tell(arguments.image, proof, everywhere=arguments.everywhere)
    return told, 0 if proven else 1
