"""WordNet as a taxonomy of captions: which name is a kind of which.

Reads the plain database files (`dict/index.noun`, `dict/data.noun`) of WordNet 3.1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ALIASES = {  # Caltech-101 search keywords that are no WordNet lemma of the right meaning
    "airplanes": "airplane", "car side": "car", "motorbikes": "motorbike", "faces": "human face",
    "faces easy": "human face", "cougar body": "cougar", "cougar face": "cougar", "crab": "crab",
    "crocodile head": "crocodile", "flamingo head": "flamingo", "garfield": "cartoon",
    "leopards": "leopard", "rhino": "rhinoceros", "snoopy": "cartoon", "water lilly": "water lily",
    "sea horse": "sea horse", "wild cat": "wildcat", "windsor chair": "windsor chair",
    "inline skate": "roller skate", "cellphone": "cellphone", "lotus": "indian lotus",
    "hawksbill": "hawksbill turtle", "tick": "tick", "bass": "freshwater bass", "emu": "emu",
    "stop sign": "street sign", "yin yang": "symbol", "brain": "brain", "buddha": "statue",
    "joshua tree": "joshua tree", "binocular": "binoculars", "person": "person",
}  # fmt: skip


@dataclass
class Node:
    """A synset: its names, its parent, the ids of its children and of the training classes right at it."""

    names: tuple[str, ...]
    parent: str | None
    children: list[str] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)


class WordNet:
    """Nouns only; the first hypernym counts."""

    def __init__(self, folder: Path) -> None:
        self.offsets: dict[str, list[str]] = {}
        for line in (folder / "index.noun").read_text().splitlines():
            if not line.startswith(" "):
                parts = line.split()
                self.offsets[parts[0]] = parts[-int(parts[2]) :]
        self.lemmas: dict[str, tuple[str, ...]] = {}
        self.hypernym: dict[str, str] = {}
        for line in (folder / "data.noun").read_text().splitlines():
            if line.startswith(" "):
                continue
            parts = line.split(" | ")[0].split()
            count = int(parts[3], 16)
            words = tuple(parts[4 + 2 * i].replace("_", " ") for i in range(count))
            self.lemmas[parts[0]] = words
            pointers = parts[4 + 2 * count + 1 :]
            for kind, target in zip(pointers[0::4], pointers[1::4], strict=False):
                if kind in ("@", "@i"):
                    self.hypernym.setdefault(parts[0], target)

    def synset(self, words: Sequence[str]) -> str | None:
        """The synset that holds the most of these words; ties go to the most frequent sense."""
        votes: dict[str, float] = {}
        for position, word in enumerate(words):
            for rank, offset in enumerate(
                self.offsets.get(word.strip().lower().replace(" ", "_"), ())
            ):
                votes[offset] = votes.get(offset, 0) + 1 - 0.01 * rank - 0.001 * position
        return max(votes, key=lambda k: votes[k]) if votes else None


class Taxonomy:
    """The part of WordNet above the training classes."""

    def __init__(self, wordnet: WordNet, classes: Sequence[str]) -> None:
        """`classes`: one string per training class, synonyms separated by commas."""
        self.nodes: dict[str, Node] = {"root": Node(("thing",), None)}
        self.unknown: list[str] = []
        self._heights: dict[str, int] = {}
        for number, text in enumerate(classes):
            words = [w.strip() for w in text.split(",")]
            words[0] = ALIASES.get(words[0].lower(), words[0])
            offset = wordnet.synset(words)
            if offset is None:
                self.unknown.append(text)
                offset = f"own:{text}"
                self._add(offset, tuple(words), "root")
            else:
                self._add_chain(wordnet, offset)
            self.nodes[offset].classes.append(number)

    def _add(self, offset: str, names: tuple[str, ...], parent: str) -> None:
        if offset not in self.nodes:
            self.nodes[offset] = Node(names, parent)
            self.nodes[parent].children.append(offset)

    def _add_chain(self, wordnet: WordNet, offset: str) -> None:
        chain = [offset]
        while (up := wordnet.hypernym.get(chain[-1])) is not None and up not in chain:
            chain.append(up)
        parent = "root"
        for step in reversed(chain):
            self._add(step, wordnet.lemmas[step], parent)
            parent = step

    def under(self, offset: str) -> list[int]:
        """Training classes at or below a node."""
        node = self.nodes[offset]
        return node.classes + [c for child in node.children for c in self.under(child)]

    def height(self, offset: str) -> int:
        """Branchings between a node and its farthest leaf; 0 for a leaf and for a chain that ends in one."""
        node = self.nodes[offset]
        below = max((self.height(child) for child in node.children), default=0)
        return below + (1 if len(node.children) + bool(node.classes) > 1 else 0)

    def cut(self, rng: random.Random, stop: float) -> list[tuple[str, int]]:
        """A random antichain: (caption name, class) pairs, none of which is a kind of another.

        From the root down, a node is taken whole with probability `stop ** (height / 2)`, else opened: names next
        to the leaves ("dog", "truck") are frequent, "organism" is rare. A batch built on a cut has no false
        negatives.
        """
        pairs: list[tuple[str, int]] = []

        def visit(offset: str) -> None:
            node = self.nodes[offset]
            if not node.children or rng.random() < stop ** (self._heights[offset] / 2):
                pairs.append((rng.choice(self._names(offset, rng)), rng.choice(self._below(node))))
                return
            for child in node.children:
                visit(child)

        if not self._heights:
            self._heights = {offset: self.height(offset) for offset in self.nodes}
        visit("root")
        rng.shuffle(pairs)
        return pairs

    def _names(self, offset: str, rng: random.Random) -> tuple[str, ...]:
        """Names of a random node of the unary chain below: an only child is as good a name."""
        node = self.nodes[offset]
        while len(node.children) == 1 and not node.classes and rng.random() < 0.6:
            node = self.nodes[node.children[0]]
        return node.names

    def _below(self, node: Node) -> list[int]:
        return node.classes + [c for child in node.children for c in self.under(child)]
