"""Embed: scores against a naive loop, resume after a kill, independence of shards and threads."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from stages.embed import embedding, scoring
from stages.embed.__main__ import main
from stages.embed.params import Embed
from webdistill.core.files import write_manifest
from webdistill.harness.params import Params, Task
from webdistill.harness.stage import Stage
from webdistill.images.pool import PoolRow, write_pool
from webdistill.models import clip

import open_clip  # isort: skip  (after webdistill, which lets torchvision import)

CLASSES = ("cat", "dog", "ship")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    state = open_clip.CLIP(**config["model_cfg"]).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def rows(count: int) -> list[PoolRow]:
    rng = np.random.default_rng(0)
    out = []
    for i in range(count):
        side = int(rng.integers(20, 40))
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
        query = (*CLASSES, "Cat ", "zebra")[i % 5]
        out.append(PoolRow(f"{i:032x}", buffer.getvalue(), side, side, query, ""))
    return out


def stage_for(
    model: str,
    threads: int = 1,
    templates: tuple[str, ...] = ("{}", "a {}"),
    unsafe_texts: tuple[str, ...] = (),
) -> Stage:
    task = Task(
        seed=0,
        threads=threads,
        classes=CLASSES,
        image_size=32,
        teacher="",
        test_images="",
        test_labels="",
    )
    section = Embed(
        model=model,
        pretrained=None,
        precision="auto",
        templates=templates,
        unsafe_texts=unsafe_texts,
    )
    return Stage("embed", Params(task, {"embed": section}, {}), None)


def run_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, model: str, shard_size: int, threads: int
) -> Stage:
    pool = place / "data/fetch/pool"
    write_pool(rows(75), pool, shard_size)
    write_manifest(pool)
    monkeypatch.chdir(place)
    stage = stage_for(model, threads)
    main(stage)
    stage.publish()
    return stage


def vectors(place: Path) -> np.ndarray:
    paths = sorted((place / "data/embed/embeddings").glob("*.parquet"))
    return np.concatenate([embedding.read_embeddings(path) for path in paths])


def test_shards_and_threads_do_not_matter(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, shard_size, threads in (("a", 75, 1), ("b", 20, 2)):
        (tmp_path / name).mkdir()
        run_on(tmp_path / name, monkeypatch, tiny, shard_size, threads)
    assert np.array_equal(vectors(tmp_path / "a"), vectors(tmp_path / "b"))
    one, two = (pq.read_table(tmp_path / n / "data/embed/scores.parquet") for n in "ab")
    assert one.equals(two)
    assert sorted(p.name for p in (tmp_path / "b/data/embed/embeddings").iterdir()) == [
        "00000.parquet", "00001.parquet", "00002.parquet", "00003.parquet", "manifest.json",
    ]  # fmt: skip


def test_outputs_follow_the_contract(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_on(tmp_path, monkeypatch, tiny, 50, 1)
    table = pq.read_table(tmp_path / "data/embed/embeddings/00000.parquet")
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: halffloat>[8]"
    assert json.loads(table.schema.metadata[b"preprocess"])["size"] == [32, 32]
    assert len(table.schema.metadata[b"weights_sha256"]) == 64
    scores = pq.read_table(tmp_path / "data/embed/scores.parquet")
    assert scores.schema.names == scoring.EMPTY.schema.names
    assert scores["query_class"].to_pylist()[:5] == [0, 1, 2, 0, -1]
    metrics = json.loads((tmp_path / "data/embed/metrics.json").read_text())
    assert (metrics["images"], metrics["queries_that_name_a_class"]) == (75, 60)


def test_a_killed_run_goes_on_with_the_next_shard(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    run_on(tmp_path / "whole", monkeypatch, tiny, 25, 1)
    place = tmp_path / "killed"
    place.mkdir()
    real, asked = embedding.embed_files, []

    def dies_in_the_second(
        model: clip.ClipModel, files: Iterable[bytes], threads: int
    ) -> Iterable[np.ndarray]:
        files = list(files)
        asked.append(len(files))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(model, files, threads)

    monkeypatch.setattr(embedding, "embed_files", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_on(place, monkeypatch, tiny, 25, 1)
    stage = stage_for(tiny)
    main(stage)
    stage.publish()
    assert asked == [25, 25, 25, 25]  # the first shard once, the second twice, the third once
    for path in sorted((tmp_path / "whole/data/embed").rglob("*.*")):
        assert path.read_bytes() == (place / path.relative_to(tmp_path / "whole")).read_bytes()


def test_other_templates_score_anew_without_embedding(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_on(tmp_path, monkeypatch, tiny, 75, 1)
    before = pq.read_table("data/embed/scores.parquet")
    monkeypatch.setattr(embedding, "embed_files", None)
    stage = stage_for(tiny, templates=("the {}",))
    main(stage)
    stage.publish()
    assert not pq.read_table("data/embed/scores.parquet").equals(before)


def test_unsafe_is_null_without_texts_and_a_softmax_with_them(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the model's own logits, image by image, in torch."""
    run_on(tmp_path, monkeypatch, tiny, 30, 1)
    assert pq.read_table("data/embed/scores.parquet")["unsafe"].null_count == 75
    monkeypatch.setattr(embedding, "embed_files", None)  # what is embedded already is enough
    texts = ("a weapon", "gore")
    stage = stage_for(tiny, unsafe_texts=texts)
    main(stage)
    stage.publish()
    found = pq.read_table("data/embed/scores.parquet")["unsafe"].to_numpy()
    model = clip.load(tiny, None, precision="auto")
    classes = torch.from_numpy(scoring.class_embeddings(model, CLASSES, ("{}", "a {}")))
    others = model.encode_texts([*texts, *scoring.NEUTRAL]).double()
    scale = model.net.logit_scale.exp().double()
    images = torch.from_numpy(vectors(tmp_path))
    chance = torch.softmax(scale * images @ torch.cat([others, classes]).T, dim=1)[:, :2].sum(1)
    np.testing.assert_allclose(found, chance.numpy(), rtol=1e-5)
    assert found.min() > 0
    assert found.std() > 0


def test_work_with_another_configuration_of_clip_is_not_kept(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are the same, yet another activation gives other vectors."""
    shutil.copytree(tiny.removeprefix("local-dir:"), tmp_path / "clip")
    tiny = f"local-dir:{tmp_path / 'clip'}"
    run_on(tmp_path, monkeypatch, tiny, 75, 1)
    before = vectors(tmp_path)
    path = tmp_path / "clip" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["quick_gelu"] = not config["model_cfg"].get("quick_gelu", False)
    path.write_text(json.dumps(config))
    stage = stage_for(tiny)
    main(stage)
    stage.publish()
    assert not np.array_equal(vectors(tmp_path), before)


def test_a_damaged_leftover_is_made_again(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_on(tmp_path, monkeypatch, tiny, 75, 1)
    wanted = vectors(tmp_path)
    (kept,) = (tmp_path / ".work/embed").glob("resume-*/*.parquet")
    data = bytearray(kept.read_bytes())
    data[len(data) // 3] ^= 1
    kept.write_bytes(data)
    stage = stage_for(tiny)
    main(stage)
    stage.publish()
    assert np.array_equal(vectors(tmp_path), wanted)


def test_scores_equal_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(20, 6)), rng.normal(size=(4, 6))
    query = rng.integers(-1, 4, 20).astype(np.int32)
    ids = [f"{i:032x}" for i in range(20)]
    found = scoring.score(ids, images, texts, query)
    turned = scoring.score(ids[::-1], images[::-1], texts, query[::-1])
    assert np.array_equal(turned.other[0][::-1], found.other[0]), "no order matters"
    for i in range(20):
        cosines = [float(np.dot(images[i], text)) for text in texts]
        best = max(range(4), key=lambda k: cosines[k])
        own = best if query[i] < 0 else int(query[i])
        others = max(c for k, c in enumerate(cosines) if k != own)
        assert found.clip_class[i] == best
        assert found.score[i] == pytest.approx(cosines[own], rel=1e-6)
        assert found.margin[i] == pytest.approx(cosines[own] - others, rel=1e-5)
        other = min(range(4), key=lambda k: abs(cosines[k] - found.other[0][i]))
        assert other != own
        others = max(c for k, c in enumerate(cosines) if k != other)
        assert found.other[0][i] == pytest.approx(cosines[other], rel=1e-6)
        assert found.other[1][i] == pytest.approx(cosines[other] - others, rel=1e-5)


def test_other_classes_are_all_but_an_images_own_about_equally_often() -> None:
    ids = [f"{i:032x}" for i in range(6000)]
    own = np.arange(6000) % 5
    found = scoring.other_classes(ids, own, 5)
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (own, found), 1)
    assert not counts.diagonal().any()
    off = counts[~np.eye(5, dtype=bool)]
    assert 250 < off.min() <= off.max() < 350  # of 300


def test_the_auc_of_keywords_is_a_count_of_pairs() -> None:
    rng = np.random.default_rng(1)
    score, other = rng.integers(0, 9, (2, 30)) / 10  # with ties
    zeros = np.zeros(30, np.int32)
    table = pa.table(
        {
            "query_class": zeros, "clip_class": zeros, "score": score, "margin": score,
            "other_score": other,
        }
    )  # fmt: skip
    pairs = [(a > b) + 0.5 * (a == b) for a in score for b in other]
    assert scoring.figures(table)["keyword_auc"] == pytest.approx(sum(pairs) / 900)


def test_images_without_a_keyword_of_a_class_neither_agree_nor_disagree() -> None:
    query, best = np.array([0, 0, 1, -1, -1], np.int32), np.array([0, 1, 1, 0, 1], np.int32)
    score, other = np.array([0.3, 0.1, 0.2, 0.9, 0.9]), np.array([0.0, 0.0, 0.0, 0.5, 0.5])
    columns = {"query_class": query, "clip_class": best, "score": score, "other_score": other}
    columns["margin"] = score
    found = scoring.figures(pa.table(columns))
    assert found["clip_agrees_with_query"] == pytest.approx(2 / 3)
    assert found["keyword_auc"] == 1.0
    unnamed = scoring.figures(pa.table(columns).slice(3))
    assert unnamed["queries_that_name_a_class"] == 0
    assert not {"clip_agrees_with_query", "keyword_auc"} & unnamed.keys()


def test_class_embeddings_are_means_of_unit_vectors(tiny: str) -> None:
    model = clip.load(tiny, None, precision="float32")
    found = scoring.class_embeddings(model, CLASSES, ("{}", "a photo of a {}", "the {}"))
    for row, name in zip(found, CLASSES, strict=True):
        mean = model.encode_texts([name, f"a photo of a {name}", f"the {name}"]).double().mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-6)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}", "a {name}", "{{}}"])
def test_bad_templates_are_refused(template: str) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        Embed(model="x", pretrained=None, precision="auto", templates=(template,), unsafe_texts=())
