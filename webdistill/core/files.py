"""Files that are whole or absent: Parquet with checksums, folders with a manifest, atomic replacement."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webdistill.core.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def room_on_disk(folder: Path) -> Iterator[None]:
    """Turn what a full disk raises into UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"the disk of {folder} is full ({os.strerror(error.errno or 0)}); make room and run the same command "
            "again: what is finished is kept"
        ) from None


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_file(path: Path) -> str:
    """Hex md5 of a file's bytes: DVC's name for them, no protection."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _sha256_and_md5(path: Path) -> tuple[str, str]:
    """Both in one reading."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            md5.update(block)
    return sha256.hexdigest(), md5.hexdigest()


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file with its page checksums verified. Raises UserError naming the file or missing column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            present = file.schema_arrow.names
            missing = [name for name in columns or () if name not in present]
            if missing:
                raise UserError(f"{path} has no column '{missing[0]}'; it has {', '.join(present)}")
            return file.read(columns=list(columns) if columns is not None else None)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is damaged or no Parquet file: {reason}; rebuild or check it out again"
        ) from None


def write_table(table: pa.Table, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Parquet with the same bytes for the same table: zstd, page checksums, fixed row groups."""
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata(metadata)
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=3,
        write_page_checksum=True,
        row_group_size=1000,
    )


def write_json(value: Any, path: Path) -> None:
    """JSON with sorted keys, two spaces, a final newline; NaN is an error."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises UserError naming the file when it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable JSON: {error}") from None


def write_manifest(folder: Path) -> None:
    """Lists every file of a complete folder with size, sha256 and DVC's md5 in `manifest.json`."""
    entries = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        sha256, md5 = _sha256_and_md5(path)
        name = path.relative_to(folder).as_posix()
        entries[name] = {"bytes": path.stat().st_size, "md5": md5, "sha256": sha256}
    write_json(entries, folder / MANIFEST)


def check_manifest(folder: Path) -> None:
    """Raises UserError naming the first missing, truncated, altered or extra file of the folder."""
    entries = read_json(folder / MANIFEST)
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys()
        for entry in entries.values()
    ):
        raise UserError(f"{folder / MANIFEST} is damaged; check the data out again or rebuild it")
    present = {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.name != MANIFEST
        and (not p.is_dir() or p.suffix == ".parquet")  # links to nothing and pipes, too
    }
    for name, entry in entries.items():
        path = folder / name
        if name not in present or not path.is_file():
            raise UserError(f"{path} is missing; check the data out again or rebuild it")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise UserError(
                f"{path} has {size} bytes instead of {entry['bytes']}; check it out again"
            )
        if sha256_file(path) != entry["sha256"]:
            raise UserError(
                f"{path} was altered (sha256 differs from {MANIFEST}); check it out again"
            )
    if extra := sorted(present - set(entries)):
        raise UserError(f"{folder / extra[0]} does not belong there (not in {MANIFEST}); remove it")


def shards(folder: Path) -> list[Path]:
    """The Parquet shards of a checked folder, in order."""
    check_manifest(folder)
    return sorted(folder.glob("*.parquet"))


def digest(path: Path) -> str:
    """sha256 of a file; for a folder, of its manifest or else of its files' names and digests."""
    if not path.is_dir():
        return sha256_file(path)
    if (path / MANIFEST).exists():
        return sha256_file(path / MANIFEST)
    listing = [
        f"{sha256_file(p)} {p.relative_to(path).as_posix()}\n"
        for p in sorted(path.rglob("*"))
        if p.is_file()
    ]
    return hashlib.sha256("".join(listing).encode()).hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or every file of a folder and the folder itself, to the disk."""
    for item in sorted(path.rglob("*"), reverse=True) if path.is_dir() else []:
        _fsync(item)
    _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or a folder, present or not."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _bring(new: Path, target: Path) -> None:
    """The same from another file system: a copy beside the target first."""
    near = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copytree(new, near) if new.is_dir() else shutil.copyfile(new, near)
        sync(near)
        os.replace(near, target)
    finally:
        remove(near)
    remove(new)


def replace(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`, in one step for a file; the bytes are on the disk before."""
    sync(new)
    target.parent.mkdir(parents=True, exist_ok=True)
    if new.is_dir():
        remove(target)
    try:
        os.replace(new, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _bring(new, target)
    _fsync(target.parent)
