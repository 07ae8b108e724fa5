"""The three commands: their arguments (nothing heavy is imported before one is run) and their answers."""

from __future__ import annotations

import argparse
from pathlib import Path

SUBJECT = "an id or the start of it, the sha256 of the original file, or an address"
TAKEN = "an id, a sha256, an address, *.example.org or host:example.org, as in takedown.txt"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`why`, `lost` and `prove-absent`."""
    why = commands.add_parser(
        "why",
        help="trace an image through all stages",
        description="Exit code 0 if exactly one image matches, else 2.",
    )
    why.add_argument("image", help=SUBJECT)
    lost = commands.add_parser(
        "lost",
        help="count what every stage dropped, from candidates to the selection",
        description="Exit code 0 if every candidate is accounted for, 1 if the stages' files contradict each other.",
    )
    lost.add_argument(
        "--by",
        choices=("query", "host", "provider"),
        help="count also per class keyword, host or provider",
    )
    absent = commands.add_parser(
        "prove-absent",
        help="search every file of the work tree for an image that was taken down",
        description="Exit code 0 if it is absent from filter and all later stages, 1 if not, 2 for bad input.",
    )
    absent.add_argument("image", help=TAKEN)
    absent.add_argument(
        "--everywhere", action="store_true", help="require absence from earlier stages, too"
    )
    for command, run in ((why, _why), (lost, _lost), (absent, _prove_absent)):
        command.set_defaults(run=run)
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
        command.add_argument(
            "--data",
            type=Path,
            default=Path("data"),
            metavar="FOLDER",
            help="outputs of the stages; default: data",
        )


def _why(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> the answer and the exit code. Raises UserError when no image answers to the name."""
    from dataclasses import asdict

    from webdistill.commands.provenance import history_text, text
    from webdistill.commands.provenance.history import matches, provenance
    from webdistill.commands.provenance.identify import named
    from webdistill.core.errors import UserError

    wanted = named(arguments.image)
    found = matches(arguments.data, wanted)
    if not found:
        raise UserError(
            f"{text.inert(wanted.text)}: no image or candidate in {arguments.data} answers to this {wanted.kind}"
        )
    if len(found) > 1:
        listed = {"ambiguous": [match.id for match in found]}
        return (
            text.as_json(listed)
            if arguments.json
            else history_text.list_matches(wanted.text, found)
        ), 2
    told = provenance(arguments.data, found[0])
    return (text.as_json(asdict(told)) if arguments.json else history_text.tell(told)), 0


def _lost(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> the funnel and the exit code."""
    from webdistill.commands.provenance import funnel_text, text
    from webdistill.commands.provenance.funnel import count_losses, plain

    found = count_losses(arguments.data, arguments.by)
    told = text.as_json(plain(found)) if arguments.json else funnel_text.tell(found, arguments.by)
    return told, 1 if found.faults else 0


def _prove_absent(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> the findings and the exit code."""
    from dataclasses import asdict

    from webdistill.commands.provenance import absence_text, text
    from webdistill.commands.provenance.absence import prove
    from webdistill.commands.provenance.target import target

    proof = prove(arguments.data, target(arguments.image))
    proven = proof.proven_everywhere if arguments.everywhere else proof.proven
    if arguments.json:
        told = text.as_json({**asdict(proof), "proven": proven})
    else:
        told = absence_text.tell(arguments.image, proof, everywhere=arguments.everywhere)
    return told, 0 if proven else 1
