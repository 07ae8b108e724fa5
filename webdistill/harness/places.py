"""Where a stage reads and writes: in data/ and .work/, or in a cell, which is a folder of one arm of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from webdistill.core.errors import UserError
from webdistill.harness.params import STAGES


@dataclass(frozen=True)
class Places:
    """The folders of a run, whatever its stage."""

    root: Path  # of the project
    cell: Path | None  # absolute; None: the main pipeline
    source: Path  # of a cell: where the outputs of earlier stages are

    def outputs(self, stage: str) -> Path:
        """The folder in which the stage publishes."""
        return (self.cell if self.cell is not None else self.root / "data") / stage

    def work(self, stage: str) -> Path:
        """For unfinished work: outside the cell, which DVC empties before it runs."""
        scratch = self.root / ".work"
        if self.cell is not None:
            scratch = scratch / "cells" / "-".join(self.relative(self.cell).parts)
        return scratch / stage

    def relative(self, path: Path) -> Path:
        """From the root; of a path elsewhere only the name."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)

    def find(self, name: str) -> Path:
        """Where `data/<stage>/...` is for a cell: its own, or what `--from` has; else `name` as it stands."""
        path = Path(name)
        if self.cell is None or path.parts[0] != "data":
            return path
        own = self.cell.joinpath(*path.parts[1:])
        if own.exists():
            return own
        return self.source.joinpath(*path.parts[1:]) if made_by_stage(name) else path

    def existing(self, name: str) -> Path:
        """As `find`. Raises UserError when nothing is there."""
        path, made_by = self.find(name), made_by_stage(name)
        if path.exists():
            return path
        if made_by is None:
            raise UserError(f"{name} does not exist; check the path in params.yaml")
        if path != Path(name):
            raise UserError(f"{path} does not exist; make it first, or check --from")
        raise UserError(f"{name} does not exist; run `dvc repro {made_by}` or `dvc pull` first")


def made_by_stage(name: str) -> str | None:
    """`data/filter/kept.parquet` -> `filter`; None for the user's own files."""
    parts = Path(name).parts
    return parts[1] if len(parts) > 1 and parts[0] == "data" and parts[1] in STAGES else None
