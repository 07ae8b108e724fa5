"""python -m webdistill predict: class and probability of pictures, from a student's folder or ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`predict`"""
    command = commands.add_parser(
        "predict",
        help="class and probability of pictures by a student (folder, ONNX, int8)",
        description="Pictures are prepared as the student's card says. One that cannot be read costs its own row. "
        "Exit code 2 when none could be read.",
    )
    add = command.add_argument
    add(
        "student",
        type=Path,
        help="data/distill/student, data/evaluate/student.onnx or data/evaluate/int8/student_int8.onnx",
    )
    add(
        "images",
        type=Path,
        nargs="+",
        help="files, or folders: every JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file below them",
    )
    add("--csv", action="store_true", help="path,class,probability,error instead of a table")
    command.set_defaults(run=predict)


def predict(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> a row per picture, and the exit code."""
    from webdistill.commands.predict.command import run  # torch takes a second

    return run(arguments.student, arguments.images, as_csv=arguments.csv)
