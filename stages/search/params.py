"""Parameters of search."""

from typing import Annotated, Literal

from pydantic import Field

from webdistill.core.params import Section

Column = Literal[
    "url",
    "image",
    "query",
    "caption",
    "licence",
    "licence_url",
    "creator",
    "landing_page",
    "opt_out",
]


class Search(Section):
    """Where candidates come from."""

    list: Annotated[
        str, Field(min_length=1, description="candidate list: .csv, .tsv or .parquet file")
    ]
    columns: Annotated[
        dict[Column, str],
        Field(
            description="our column name: the list's, where they differ, such as `caption: TEXT`"
        ),
    ]
