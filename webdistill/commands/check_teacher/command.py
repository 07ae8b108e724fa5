"""Put the checks together: card, weights, images, answers."""

from __future__ import annotations

from pathlib import Path

import torch

from webdistill.commands.check_teacher import checks, named, normalisation, order, pictures
from webdistill.commands.check_teacher.findings import Finding, failed, table
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, sha256_file
from webdistill.harness import params
from webdistill.models.checkpoint import Card, Network, load_network, read_card, weights_file
from webdistill.models.families.wrapped import probe

POOL = Path("data/fetch/pool")
COUNT, LABELLED = 512, 2000  # images looked at, at most; with labels
PIXELS = 4_000_000  # of them, but for the fewest: 512 images of 32 px, 79 of 224; four times that with labels
NORM_COUNT, NORM_PIXELS = 256, 2_500_000  # for the normalisation: 256 images of 32 px, 49 of 224


def run(
    folder: Path | None, images: Path | None, labels: Path | None, path: Path
) -> tuple[str, bool]:
    """-> the table, and whether anything failed. Raises UserError for a missing folder, card or file of images.

    `images`: default the pool if it is there (and no labels are given), else the task's test images. `labels` are
    read only when they are named.
    """
    settings = params.load(path)
    task = settings.task
    folder = Path(task.teacher) if folder is None else folder
    if not folder.is_dir():
        raise UserError(f"teacher folder {folder} does not exist; name it here or in task.teacher")
    card = read_card(folder)
    title = f"{folder}: {card.architecture}, {len(card.classes)} classes, {card.image_size} px"
    findings = [checks.classes(card, task.classes), checks.image_size(card, settings)]
    network, loading = load(folder)
    findings.insert(0, loading)
    known = sorted(card.classes) == sorted(task.classes)  # else no name means an output
    if network is not None:
        size = task.image_size if settings.raw["score"]["other_image_size"] else card.image_size
        default = POOL if POOL.is_dir() and labels is None else Path(task.test_images)
        threads = torch.get_num_threads()
        torch.set_num_threads(task.threads)
        try:
            if images is None and labels is None and _without_rows(default):
                findings += without_images(network, size, settings)
            else:
                source = default if images is None else images
                findings += with_images(network, source, labels, size, settings)
            if known and labels is None and not failed(findings[-1:]):
                pool = POOL if images is None else images
                shown = named.read(pool, settings, card.classes, size, enough(size, COUNT))
                findings.append(in_order(network, shown))
        finally:
            torch.set_num_threads(threads)
    return table(title, findings), failed(findings)


def _without_rows(source: Path) -> bool:
    """Not there, or the empty file of test images that `init` writes where there are none."""
    return not source.exists() or (source.is_file() and not read_table(source, ["id"]).num_rows)


def load(folder: Path) -> tuple[Network | None, Finding]:
    """The teacher, unless it does not load, and what to say about that."""
    file = weights_file(folder)
    digest = sha256_file(file)
    try:
        network = load_network(folder)
    except UserError as error:
        details = (
            (f"sha256 of {file.name}: {digest}",) if digest != read_card(folder).sha256 else ()
        )
        return None, Finding("fail", "loading", str(error), details)
    kind = "safetensors" if file.suffix == ".safetensors" else "a state dict, read as plain tensors"
    text = f"{file.name} ({kind}), sha256 {digest[:12]}... as the card says; all tensors fit"
    return network, Finding("ok", "loading", text)


def enough(size: int, most: int, pixels: int = PIXELS) -> int:
    """Images to look at: the fewest that say something, more where they are small."""
    return max(order.FEWEST, min(most, pixels // size**2))


def in_order(network: Network, shown: named.Named | None) -> Finding:
    """The order of the outputs, where something names the classes of pictures."""
    if shown is None:
        text = "not checked: neither the pool's keywords nor folders of search.local name pictures"
        return Finding("warn", order.ABOUT, text)
    if len(shown.labels) < order.FEWEST:
        return order.too_few(len(shown.labels), shown.source)
    given = checks.answers(network, shown.images).logits.argmax(axis=1)
    return order.check(given, shown.labels, network.card.classes, shown.source)


def with_images(
    network: Network, source: Path, labels: Path | None, size: int, settings: params.Params
) -> list[Finding]:
    """The checks that need the network and images of `size` px."""
    card = network.card
    count = enough(size, COUNT) if labels is None else enough(size, LABELLED, 4 * PIXELS)
    found = pictures.read(source, size, count, labels, len(card.classes))
    if refusal := refused(network, size):
        return [refusal]
    answers = checks.answers(network, found.images)
    return [
        normalisation.check(network.net, card, found.some(NORM_COUNT, NORM_PIXELS)),
        checks.sense(answers, card),
        *_against_labels(answers, found, card),
        checks.cost(network, size, answers, settings.task.threads),
        checks.student(network, settings, size),
    ]


def _against_labels(answers: checks.Answers, found: pictures.Pictures, card: Card) -> list[Finding]:
    if found.labels is None:
        return []
    given = answers.logits.argmax(axis=1)
    return [
        checks.accuracy(answers, found, card),
        order.check(given, found.labels, card.classes, "the labels"),
    ]


def without_images(network: Network, size: int, settings: params.Params) -> list[Finding]:
    """What can be said when there is neither a pool nor a file of test images."""
    if refusal := refused(network, size):
        return [refusal]
    text = (
        "not checked, there are no images yet; `dvc repro fetch` collects some, or name a Parquet file of real ones "
        "with --images"
    )
    return [
        Finding("warn", "normalisation", text),
        checks.cost(network, size, None, settings.task.threads),
        checks.student(network, settings, size),
    ]


def refused(network: Network, size: int) -> Finding | None:
    """A network may take images of one size only."""
    try:
        probe(network.net, (size,), "the teacher")
    except UserError as error:
        return Finding("fail", "answers", f"{error}; correct image_size in its card or in the task")
    return None
