"""All rules over all images, in the order of `rules.REASONS`."""

from __future__ import annotations

import numpy as np

from stages.filter import embeddings, listed, rules
from stages.filter.closer import DOUBT, SAME, Closer
from stages.filter.duplicates import duplicates, leaks
from stages.filter.evidence import Evidence
from stages.filter.licences import licence_code
from stages.filter.params import Filter
from stages.filter.rules import Decision, Mask, Verdict


def judge(evidence: Evidence, settings: Filter, threads: int) -> Decision:
    """Duplicates among what the other rules leave; the cap among what is left after that."""
    ids = evidence.pictures.ids
    verdicts = [*_lawful(evidence, settings, threads), *_good(evidence, settings)]
    verdicts.append(_duplicates(evidence, settings, _left(verdicts, len(ids)), threads))
    if settings.per_class is not None:
        rows = np.flatnonzero(_left(verdicts, len(ids)))
        verdicts.append(
            rules.class_cap(evidence.keyword, evidence.score, ids, rows, settings.per_class)
        )
    return rules.first_hit(verdicts, len(ids))


def _lawful(evidence: Evidence, settings: Filter, threads: int) -> list[Verdict]:
    """What may not be used, however good it is."""
    pictures, papers = evidence.pictures, evidence.papers
    allowed = {licence_code(name) for name in settings.licences}
    verdicts = [
        rules.takedown(pictures.ids, papers.taken_down),
        rules.opt_out(pictures.ids, papers.refused),
    ]
    if evidence.unsafe is not None:  # before reasons whose images are shown
        verdicts.append(rules.unsafe(evidence.unsafe, settings.max_unsafe))
    verdicts += listed.verdicts(listed.REFUSED, evidence.listed, settings)
    verdicts += [
        leaks(
            pictures.thumbnails,
            evidence.test,
            evidence.test_ids,
            settings.leak_similarity,
            threads,
            Closer(*evidence.large, DOUBT, threads),
        ),
        rules.licence(papers.licences, allowed, keep_unknown=settings.unknown_licence == "keep"),
    ]
    return verdicts


def _good(evidence: Evidence, settings: Filter) -> list[Verdict]:
    pictures = evidence.pictures
    return [
        rules.too_small(pictures.width, pictures.height, settings.min_side),
        rules.elongated(pictures.width, pictures.height, settings.max_aspect),
        rules.blank(pictures.contrast, settings.min_contrast),
        rules.low_entropy(pictures.entropy, settings.min_entropy),
        *listed.verdicts(listed.POOR, evidence.listed, settings),
        rules.low_score(evidence.score, evidence.min_score),
        rules.low_margin(evidence.margin, evidence.min_margin),
    ]


def _duplicates(evidence: Evidence, settings: Filter, alive: Mask, threads: int) -> Verdict:
    pictures, rows, also = evidence.pictures, np.flatnonzero(alive), None
    if settings.embedding_neighbours:
        also = embeddings.neighbours(
            evidence.embeddings, pictures.ids, rows, settings.embedding_neighbours, threads
        )
    threshold, pool = settings.duplicate_similarity, evidence.large[0]
    return duplicates(
        pictures.thumbnails,
        pictures.ids,
        evidence.score,
        rows,
        threshold,
        threads,
        also,
        Closer(pool, pool, SAME, threads),
    )


def _left(verdicts: list[Verdict], images: int) -> Mask:
    return rules.first_hit(verdicts, images).kept
