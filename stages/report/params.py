"""Parameters of the report stage."""

from __future__ import annotations

from pydantic import Field

from webdistill.core.section import Section


class Report(Section):
    """What the page shows. Bounds keep the page below 4 MiB."""

    pictures: int = Field(
        description="images on each side of a threshold, and pairs per kind", ge=1, le=16
    )
    prototypes: int = Field(
        description="prototypes shown of each kind: largest, most mixed", ge=1, le=6
    )
    nearest: int = Field(description="images shown per prototype", ge=1, le=8)
    hosts: int = Field(description="rows of the table of hosts", ge=1, le=100)
    truth: bool = Field(
        description="judge the filters by the quickstart's planted truth; false for images from the web"
    )
