"""Zero-shot scores: cosines between an image and the class names in templates (Radford et al. 2021, section 3.1.4)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from webdistill.models.clip import ClipModel

Doubles = NDArray[np.float64]
# What an image may be beside the classes: else all that is none of them would count as unsafe.
NEUTRAL = ("a photo", "a photo of a person", "a drawing", "a screenshot with text", "a landscape")
SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
EMPTY = pa.schema(
    [
        ("id", pa.string()),
        ("query", pa.string()),
        ("query_class", pa.int32()),
        ("clip_class", pa.int32()),
        ("score", pa.float32()),
        ("margin", pa.float32()),
        ("unsafe", pa.float32()),
        ("other_score", pa.float32()),
        ("other_margin", pa.float32()),
    ]
).empty_table()


@dataclass(frozen=True)
class Scores:
    """query_class, clip_class int32 [N]; score, margin float32 [N]. query_class -1: the query names no class.

    `other`: score and margin [N] of the same images under a keyword that is not theirs, see `other_classes`.
    """

    query_class: NDArray[np.int32]
    clip_class: NDArray[np.int32]
    score: NDArray[np.float32]
    margin: NDArray[np.float32]
    other: tuple[NDArray[np.float32], NDArray[np.float32]]


def class_embeddings(model: ClipModel, classes: Sequence[str], templates: Sequence[str]) -> Doubles:
    """[K, d]: per class the mean of its unit caption vectors, scaled to unit length."""
    texts = [template.format(name) for name in classes for template in templates]
    vectors = (
        model.encode_texts(texts)
        .numpy()
        .astype(np.float64)
        .reshape(len(classes), len(templates), -1)
    )
    mean = vectors.mean(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))


@dataclass(frozen=True)
class Unsafe:
    """Unit vectors of unsafe texts [U, d] and of harmless ones [H, d]; the scale of the model's own softmax."""

    unsafe: Doubles
    harmless: Doubles
    scale: float

    def probability(self, images: Doubles) -> NDArray[np.float32]:
        """[N, d] -> softmax over all texts of scale * cosine, summed over the unsafe ones [N].

        What CLIP takes an image for, given these texts only: it overlooks much and suspects the innocent.
        """
        logits = self.scale * images @ np.concatenate([self.unsafe, self.harmless]).T
        weight = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        share = weight[:, : len(self.unsafe)].sum(axis=1) / weight.sum(axis=1)
        return np.asarray(share.astype(np.float32))


def unsafe_texts(model: ClipModel, texts: Sequence[str], classes: Doubles) -> Unsafe | None:
    """The texts' embeddings beside those of the classes [K, d] and of NEUTRAL; None without texts."""
    if not texts:
        return None
    vectors = model.encode_texts([*texts, *NEUTRAL]).numpy().astype(np.float64)
    harmless = np.concatenate([vectors[len(texts) :], classes])
    scale = float(model.net.get_parameter("logit_scale").exp())
    return Unsafe(vectors[: len(texts)], harmless, scale)


def query_classes(queries: Sequence[str], classes: Sequence[str]) -> NDArray[np.int32]:
    """Index of the class that each query names, whatever the case; -1 where none."""
    number = {name.casefold().strip(): i for i, name in enumerate(classes)}
    return np.array([number.get(query.casefold().strip(), -1) for query in queries], np.int32)


def other_classes(ids: Sequence[str], own: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """[N] a class that is not an image's `own`, by its id: no order and no other image matters."""
    step = np.array([zlib.crc32(name.encode()) for name in ids], np.int64) % (classes - 1)
    return np.asarray((own + 1 + step) % classes, np.int64)


def score(
    ids: Sequence[str], images: Doubles, texts: Doubles, query_class: NDArray[np.int32]
) -> Scores:
    """Ids, unit vectors [N, d] and [K, d], K >= 2 -> scores.

    score = cosine to the query's class; margin = score minus the best cosine among the other classes. Where the
    query names no class, the best class takes its place.
    """
    cosine = images @ texts.T
    best = cosine.argmax(axis=1) if len(cosine) else np.empty(0, np.int64)
    chosen = np.where(query_class >= 0, query_class, best)
    own, margin = _under(cosine, chosen)
    other = _under(cosine, other_classes(ids, chosen, len(texts)))
    return Scores(query_class, best.astype(np.int32), own, margin, other)


def _under(
    cosine: Doubles, classes: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[N, K], a class each [N] -> the cosine to it, and that minus the best other one."""
    rows, others = np.arange(len(cosine)), cosine.copy()
    own = cosine[rows, classes]
    others[rows, classes] = -np.inf
    margin = own - others.max(axis=1, initial=-np.inf)
    return own.astype(np.float32), margin.astype(np.float32)


def score_shard(
    labels: pa.Table,
    images: Doubles,
    texts: Doubles,
    classes: Sequence[str],
    unsafe: Unsafe | None = None,
) -> pa.Table:
    """Columns id and query of a shard, its embeddings [N, d], texts [K, d] -> a table like EMPTY.

    Column `unsafe` is null where no texts are given.
    """
    queries = query_classes(labels["query"].to_pylist(), classes)
    scores = score(labels["id"].to_pylist(), images, texts, queries)
    return pa.table(
        {
            "id": labels["id"],
            "query": labels["query"],
            "query_class": scores.query_class,
            "clip_class": scores.clip_class,
            "score": scores.score,
            "margin": scores.margin,
            "unsafe": pa.nulls(len(images), pa.float32())
            if unsafe is None
            else unsafe.probability(images),
            "other_score": scores.other[0],
            "other_margin": scores.other[1],
        },
        schema=EMPTY.schema,
    )


def figures(scores: pa.Table) -> dict[str, float]:
    """Counts, quantiles of score and margin; of the images whose query names a class also how CLIP agrees with it.

    `keyword_auc`: how often such an image scores higher under its own keyword than any of them under another's.
    """
    query, best = (scores[name].to_numpy() for name in ("query_class", "clip_class"))
    named = query >= 0
    out: dict[str, float] = {
        "images": len(query),
        "queries_that_name_a_class": int(named.sum()),
    }
    if named.any():
        out["clip_agrees_with_query"] = float((query == best)[named].mean())
        other = np.sort(scores["other_score"].to_numpy()[named])
        below, upto = (np.searchsorted(other, scores["score"].to_numpy()[named], s) for s in SIDES)
        out["keyword_auc"] = float((below + upto).mean() / 2 / len(other))
    for quantile in (5, 50, 95) if len(query) else ():
        for name in ("score", "margin"):
            out[f"{name}_q{quantile:02d}"] = float(np.percentile(scores[name].to_numpy(), quantile))
    return out
