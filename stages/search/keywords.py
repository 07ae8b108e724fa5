"""The words that stand for a class: to search for, to find in captions, to read in the names of folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from webdistill.core.errors import UserError


class Keywords:
    """The words of each class, by default its name; `_` and `-` in a word stand for a space too, case for nothing;
    letters with marks are the same whether a file system has taken them apart or not.

    Raises UserError when `words` names no class, or when a word stands for two classes.
    """

    def __init__(
        self, classes: Sequence[str], words: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        words = words or {}
        if unknown := [name for name in words if name not in classes]:
            raise UserError(
                f"search.keywords.{unknown[0]}: no such class; task.classes has {', '.join(classes)}"
            )
        self.words = {
            name: tuple(dict.fromkeys(map(plain, words.get(name, (name,))))) for name in classes
        }
        self._class: dict[str, str] = {}
        for name in classes:
            self._add(plain(name), name, f"task.classes: '{name}'")
        for name, own in self.words.items():
            for word in own:
                self._add(word, name, f"search.keywords.{name}: '{word}'")
        spoken = [(word, name) for name, own in self.words.items() for word in own]
        spoken.sort(key=lambda pair: -len(pair[0]))
        self._found = [name for _, name in spoken]
        self._pattern = whole_words([word for word, _ in spoken])

    def class_of(self, name: str) -> str:
        """The class that is called so, or has it among its words; "" if none."""
        return self._class.get(plain(name), "")

    def first_in(self, caption: str) -> str:
        """The class named first in the caption (by the longest word where two begin together), or ""."""
        match = self._pattern.search(unicodedata.normalize("NFC", caption))
        return self._found[(match.lastindex or 0) - 1] if match else ""

    def _add(self, word: str, name: str, where: str) -> None:
        if not word:
            raise UserError(f"{where} has no letter; write a word that can be searched for")
        other = self._class.setdefault(word, name)
        if other != name:
            raise UserError(
                f"{where} also stands for the class '{other}'; one word cannot mean two classes, remove one of them"
            )


def plain(word: str) -> str:
    """Lower case in composed letters, one space for spaces, `_` and `-`."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", word).lower()).strip()


def whole_words(words: Iterable[str]) -> re.Pattern[str]:
    """Finds plain words as whole words, in any case; group n is word n. Of no words it finds none."""
    choices = "|".join(f"({_spaced(word)})" for word in words)
    return re.compile(rf"(?<!\w)(?:{choices})(?!\w)" if choices else r"(?!)", re.IGNORECASE)


def _spaced(word: str) -> str:
    return r"[\s_-]+".join(map(re.escape, word.split(" ")))
