"""A client that is registered with a provider, and how it asks for a token. Secrets come from the environment alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from webdistill.core.errors import UserError


@dataclass(frozen=True)
class Grant:
    """`place`: of tokens, seen from the API's address; `variables`: of the environment, for people."""

    place: str
    variables: tuple[str, str]
    client: str = field(repr=False)
    secret: str = field(repr=False)

    def form(self) -> dict[str, str]:
        """What OAuth 2 calls client credentials."""
        return {
            "grant_type": "client_credentials",
            "client_id": self.client,
            "client_secret": self.secret,
        }


def granted(environment: Mapping[str, str], variables: tuple[str, str], place: str) -> Grant | None:
    """The grant of the client that both variables name, None without them. Raises UserError with one of them alone."""
    client, secret = (environment.get(name, "").strip() for name in variables)
    if not client and not secret:
        return None
    if not client or not secret:
        there, lacking = variables if client else variables[::-1]
        raise UserError(
            f"{there} is set in the environment, but {lacking} is not; set both, or neither"
        )
    return Grant(place, variables, client, secret)
