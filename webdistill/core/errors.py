"""The one exception a user is meant to see."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one readable line that names the key, file or URL and the fix. Exit code 2."""
