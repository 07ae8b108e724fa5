"""The base of every parameter model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all parameter sections: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def idle(self) -> set[str]:
        """Keys on which no output depends, as things stand."""
        return set()
