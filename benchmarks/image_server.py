"""python -m benchmarks.image_server FOLDER: pictures over HTTP from one process, with faults on purpose.

    /N.jpg   picture N modulo their number; each further round of N gives every picture other pixels

Answers lie complete in a mapped file and leave it without a copy, so that the server takes little of the processors
that it shares with who is measured. It listens on 127.0.0.1, says where on standard output, and ends with its standard
input.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import mmap
import os
import re
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from webdistill.core.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SYNTHETIC = "synthetic"
QUALITY = 90  # of JPEGs made here
ARRIVAL = struct.Struct("<dq")  # seconds of the monotonic clock, which is one for all processes; N
GOLDEN = 2_654_435_761  # 2**32 / golden ratio: multiples spread evenly over 2**32
PATH = re.compile(rb"GET /(\d{1,9})\.jpg ")
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
REFUSALS = {
    status: f"HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\n\r\n".encode()
    for status in (404, 500)
}


@dataclass(frozen=True)
class Faults:
    """Shares of the pictures that fail (half 404, half 500) and whose requests are never answered; s of delay."""

    failing: float = 0.0
    hanging: float = 0.0
    latency: float = 0.0

    def of(self, number: int) -> Literal[200, 404, 500] | None:
        """The status that N is answered with, always the same one; None: it hangs."""
        place = number * GOLDEN % 2**32 / 2**32
        if place < self.failing:
            return 404 if place < self.failing / 2 else 500
        return None if place < self.failing + self.hanging else 200


class Pictures:
    """Complete HTTP answers by number, from files that `write_pictures` made."""

    def __init__(self, folder: Path) -> None:
        with (folder / "answers.bin").open("rb") as file:
            self._answers = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._places = array("q", (folder / "index.bin").read_bytes())  # start, end, DC step; ...
        self._count = len(self._places) // 3

    def answer(self, number: int) -> memoryview | bytearray:
        """A later round quantises brightness in other steps: other pixels for the change of one byte."""
        turn, index = divmod(number, self._count)
        start, end, step = self._places[3 * index : 3 * index + 3]
        if not turn:
            return self._answers[start:end]
        changed = bytearray(self._answers[start:end])
        changed[step] = (changed[step] - 1 + turn) % 255 + 1
        return changed


class Exchange(asyncio.Protocol):
    """One connection; any number of requests, one after the other."""

    _transport: asyncio.Transport

    def __init__(
        self, pictures: Pictures, faults: Faults, arrivals: int | None, left: Iterator[int]
    ) -> None:
        self._pictures = pictures
        self._faults = faults
        self._arrivals = arrivals  # file descriptor
        self._left = left  # one for each picture that may still be answered, whoever asks
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, self._received = self._received[:end], self._received[end + 4 :]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        asked = PATH.match(head)
        last = CLOSE.search(head) is not None
        if asked is None:  # robots.txt, for instance
            self._send(REFUSALS[404], last)
            return
        number = int(asked[1])
        if self._arrivals is not None:
            os.write(self._arrivals, ARRIVAL.pack(time.monotonic(), number))
        status = self._faults.of(number)
        if status is None or next(self._left, None) is None:
            return
        answer = self._pictures.answer(number) if status == 200 else REFUSALS[status]
        if self._faults.latency:
            later = asyncio.get_running_loop().call_later
            later(self._faults.latency, self._send, answer, last)
        else:
            self._send(answer, last)

    def _send(self, answer: bytes | bytearray | memoryview, last: bool) -> None:
        self._transport.write(answer)
        if last:
            self._transport.close()


async def serve(
    folder: Path, port: int, faults: Faults, arrivals: int | None, answers: int | None
) -> None:
    """Until standard input ends: whoever started the server is gone then, or wants no more."""
    loop = asyncio.get_running_loop()
    pictures, ended = Pictures(folder), asyncio.Event()
    left = iter(range(sys.maxsize if answers is None else answers))
    loop.add_reader(sys.stdin.fileno(), _until_end, ended.set)
    try:
        server = await loop.create_server(
            lambda: Exchange(pictures, faults, arrivals, left), "127.0.0.1", port, backlog=1024
        )
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; name another one") from None
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await ended.wait()
    server.close()


def _until_end(ended: Callable[[], None]) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        ended()


def write_pictures(source: str, count: int, side: int, folder: Path) -> None:
    """Answers for `count` JPEGs whose shorter side is `side` px.

    `source`: a Parquet file with encoded images in its column `image` (bytes, or a struct with the field `bytes`);
    JPEGs that have the size stay as they are, others are scaled and encoded. `synthetic`: soft shapes with noise.
    """
    images = _synthetic(side) if source == SYNTHETIC else _real(Path(source), side)
    places, end = array("q"), 0
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "answers.bin").open("wb") as file:
        for data in islice(images, count):
            head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            start = end + len(head)
            places.extend((end, start + len(data), len(head) + _dc_step(data)))
            end = start + len(data)
            file.write(head.encode() + data)
    if len(places) < 3 * count:
        raise UserError(f"{source} holds {len(places) // 3} images; lower --count, now {count}")
    (folder / "index.bin").write_bytes(places.tobytes())


def _real(path: Path, side: int) -> Iterator[bytes]:
    from PIL import Image

    for data in _encoded(path):
        with Image.open(io.BytesIO(data)) as image:
            fits = image.format == "JPEG" and min(image.size) == side
            yield data if fits and _dc_step(data) else _jpeg(image, side)


def _encoded(path: Path) -> Iterator[bytes]:
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"--images {path}: no such file; name another or ask for {SYNTHETIC}")
    with pq.ParquetFile(path) as parquet:
        if "image" not in parquet.schema_arrow.names:
            raise UserError(f"--images {path}: it has no column 'image'; name another file")
        for batch in parquet.iter_batches(batch_size=256, columns=["image"]):
            for value in batch.column(0).to_pylist():
                yield value["bytes"] if isinstance(value, dict) else value


def encoded_images(path: Path, count: int) -> list[bytes]:
    """The first `count` encoded pictures in the column `image` of a Parquet file."""
    return list(islice(_encoded(path), count))


def _jpeg(image: Image.Image, side: int) -> bytes:
    from PIL.Image import Resampling

    short = min(image.size)
    width, height = (round(length * side / short) for length in image.size)
    out = io.BytesIO()
    scaled = image.convert("RGB").resize((width, height), Resampling.BICUBIC)
    scaled.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _synthetic(side: int) -> Iterator[bytes]:
    """Square RGB pictures: 8 x 8 random colours, enlarged softly, and a little noise on every pixel."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    while True:
        colours = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        soft = np.asarray(colours.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        noisy = soft + 6 * random.standard_normal((side, side, 3), np.float32)
        yield _jpeg(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), side)


def _dc_step(data: bytes) -> int:
    """Where a JPEG's first quantisation table has its step for mean brightness; 0 where there is none of 8 bits."""
    at = 2
    while at + 5 < len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xDB and data[at + 4] == 0:  # table 0, 8 bits
            return at + 5
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.image_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, help="with answers.bin and index.bin, see write_pictures")
    add("--port", type=int, default=0, help="default: any free one")
    add("--failing", type=float, default=0.0, help="share answered with 404 or 500")
    add("--hanging", type=float, default=0.0, help="share never answered")
    add("--latency", type=float, default=0.0, help="seconds before each answer")
    add("--answers", type=int, metavar="N", help="answer N requests, no more; default: all")
    add("--arrivals", type=Path, metavar="FILE", help="append time and number of every request")
    chosen = parser.parse_args()
    arrivals = None
    if chosen.arrivals is not None:
        arrivals = os.open(chosen.arrivals, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    faults = Faults(chosen.failing, chosen.hanging, chosen.latency)
    asyncio.run(serve(chosen.folder, chosen.port, faults, arrivals, chosen.answers))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
