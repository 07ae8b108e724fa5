"""Parameters of the embed stage."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from webdistill.core.section import Section


class Embed(Section):
    """Section `embed:` of params.yaml."""

    model: Annotated[
        str,
        Field(
            min_length=1,
            description="open_clip model: local-dir:FOLDER, a built-in name (ViT-B-32) or hf-hub:OWNER/REPO",
        ),
    ]
    pretrained: Annotated[
        str | None,
        Field(
            description="weights of a built-in model: a tag (laion2b_s34b_b79k) or a .safetensors file; else null"
        ),
    ]
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(
            description="of the image tower; auto: bfloat16 on a GPU or a processor with AMX, else float32"
        ),
    ]
    templates: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="captions with {} for the class name; their embeddings are averaged",
        ),
    ]

    unsafe_texts: Annotated[
        tuple[str, ...],
        Field(
            description="captions of images that filter.max_unsafe shall drop; none = not compared"
        ),
    ]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.pretrained and self.model.startswith(("local-dir:", "hf-hub:")):
            raise ValueError(f"pretrained must be null: {self.model!r} brings its own weights")
        return self

    @field_validator("templates")
    @classmethod
    def _one_gap(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if (
                template.count("{}") != 1
                or "{" in template.replace("{}", "")
                or "}" in template.replace("{}", "")
            ):
                raise ValueError(
                    f"each template needs exactly one {{}} for the class name, found {template!r}"
                )
        return templates
