"""Parameters of search."""

from typing import Annotated, Literal

from pydantic import Field

from webdistill.core.section import Section

Column = Literal[
    "url", "image", "query", "caption", "licence", "licence_url", "creator", "landing_page", "attribution",
    "opt_out", "sha256", "md5", "punsafe", "nsfw", "pwatermark", "aesthetic", "similarity",
]  # fmt: skip
Licence = Literal["cc0", "pdm", "by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd"]
CreativeCommons = Literal["cc0", "by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd"]
Word = Annotated[str, Field(min_length=1, max_length=100)]


class Openverse(Section):
    """The public API of Openverse."""

    enabled: Annotated[bool, Field(description="ask it")]
    per_class: Annotated[int, Field(ge=1, le=10_000, description="images per class, at most")]
    licences: Annotated[
        tuple[Licence, ...], Field(min_length=1, description="only images under one of these")
    ]


class Wikimedia(Section):
    """The public API of Wikimedia Commons."""

    enabled: Annotated[bool, Field(description="ask it")]
    per_class: Annotated[int, Field(ge=1, le=10_000, description="images per class, at most")]


class Inaturalist(Section):
    """The public API of iNaturalist."""

    enabled: Annotated[
        bool, Field(description="ask it; words are names of species or larger groups")
    ]
    per_class: Annotated[int, Field(ge=1, le=10_000, description="images per class, at most")]
    licences: Annotated[
        tuple[CreativeCommons, ...],
        Field(min_length=1, description="only photos under one of these"),
    ]


class Search(Section):
    """Where candidates come from."""

    local: Annotated[
        str,
        Field(
            min_length=1,
            description="a list (.csv, .tsv, .txt, .jsonl, .parquet; text also as .gz, .bz2, .xz, .zst), a .tar of "
            "WebDataset, or a folder of these and of images",
        ),
    ]
    columns: Annotated[
        dict[Column, str],
        Field(
            description="our column name: the lists', where they differ, such as `caption: TEXT`"
        ),
    ]
    keywords: Annotated[
        dict[str, Annotated[tuple[Word, ...], Field(min_length=1)]],
        Field(
            description="class: words that are searched and looked for in captions; default: the class's name"
        ),
    ]
    negative: Annotated[
        tuple[Word, ...],
        Field(description="words; a candidate whose caption has one of them is left out"),
    ]
    openverse: Annotated[Openverse, Field(description="the public API of Openverse")]
    wikimedia: Annotated[Wikimedia, Field(description="the public API of Wikimedia Commons")]
    inaturalist: Annotated[Inaturalist, Field(description="the public API of iNaturalist")]
