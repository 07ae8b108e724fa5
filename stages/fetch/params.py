"""Parameters of fetch."""

from typing import Annotated, Literal

from pydantic import Field

from webdistill.core.section import Section

Changed = Literal["drop", "keep"]


class Fetch(Section):
    """What may enter the pool and how long to wait for it."""

    store_size: Annotated[
        int,
        Field(
            ge=8, le=2048, description="px; a larger shorter side is shrunk to this, never enlarged"
        ),
    ]
    format: Annotated[
        Literal["webp", "jpeg"],
        Field(description="how the pool stores pictures: webp (lossless) or jpeg (quality 92)"),
    ]
    max_pixels: Annotated[
        int,
        Field(
            ge=64,
            le=89_478_485,
            description="px in all; cap on width x height, read before decoding",
        ),
    ]
    max_bytes: Annotated[
        int,
        Field(
            ge=1_000,
            le=1_000_000_000,
            description="bytes; cap on one file, counted after decompression",
        ),
    ]
    timeout: Annotated[
        float,
        Field(
            gt=0,
            le=600,
            description="seconds; deadline of one URL, redirects and retries included, but not the wait for its turn, "
            "nor for the host's robots.txt, tdmrep.json and ai.txt (each with this deadline of its own, once per host)",
        ),
    ]
    retries: Annotated[
        int,
        Field(
            ge=0,
            le=10,
            description="further tries after a failure that may pass (429, 5xx, connection)",
        ),
    ]
    per_host: Annotated[int, Field(ge=1, le=256, description="requests to one host at once")]
    delay: Annotated[
        float,
        Field(ge=0, le=600, description="seconds between the starts of two requests to one host"),
    ]
    changed: Annotated[
        Changed,
        Field(
            description="downloads that have not the sha256 or md5 that their list gives: drop | keep (the ledger says "
            "so in either case)"
        ),
    ]
    shard_size: Annotated[
        int, Field(ge=1, le=100_000, description="images per shard of the pool, at most")
    ]
    shard_bytes: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 30,
            description="bytes of encoded images per shard, at most; a larger image has a shard of its own",
        ),
    ]
