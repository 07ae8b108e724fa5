"""The templates of `init`: params.yaml and dvc.yaml of the quickstart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from webdistill.commands.init import template
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).parents[3]


def test_comments_of_the_template_survive() -> None:
    text = template.rendered_params({"task.classes": ["a", "b"], "embed.pretrained": None})
    original = (ROOT / "params.yaml").read_text()

    def comments(lines: str) -> list[str]:
        return re.findall(r"# .*", lines)

    assert comments(text) == comments(original)
    changed = [a for a, b in zip(text.splitlines(), original.splitlines(), strict=True) if a != b]
    assert [line.split("#")[0].rstrip() for line in changed] == ["  classes: [a, b]"]


def test_the_pipeline_loses_only_the_quickstart() -> None:
    pipeline = read_yaml(ROOT / "dvc.yaml")
    deps_of_embed = pipeline["stages"]["embed"]["deps"]
    assert template.QUICKSTART_CLIP in deps_of_embed
    assert template.QUICKSTART_TRUTH in pipeline["stages"]["report"]["deps"]
    for clip in (None, "models/clip"):
        from ruamel.yaml import YAML

        found = YAML(typ="safe").load(template.rendered_pipeline(clip))
        assert ("models/clip" in found["stages"]["embed"]["deps"]) == (clip is not None)
        assert "quickstart" not in template.rendered_pipeline(clip)
        found["stages"]["embed"]["deps"] = deps_of_embed
        found["stages"]["report"]["deps"].append(template.QUICKSTART_TRUTH)
        assert found == pipeline


def test_the_project_of_an_earlier_run_is_a_template_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another CLIP or start of the student takes the place of what the first run put among the deps."""
    embed, distill = (
        read_yaml(ROOT / "dvc.yaml")["stages"][name]["deps"] for name in ("embed", "distill")
    )
    at = embed.index(template.QUICKSTART_CLIP)
    embed, before = [*embed[:at], *embed[at + 1 :]], distill.index(template.TEACHER)
    monkeypatch.setattr(
        template, "find", lambda name: made if (made := tmp_path / name).exists() else ROOT / name
    )
    for clip, weights in (("a/clip", "a.pt"), ("b/clip", "b"), (None, None), ("c/clip", "c.pt")):
        model = f"local-dir:{clip}" if clip else "ViT-B-32"
        values = {"embed.model": model, "distill.student_weights": weights or "auto"}
        params = template.rendered_params(values)
        assert template.named_files(params) == (clip, weights)
        pipeline = template.rendered_pipeline(clip, weights=weights)
        (tmp_path / "params.yaml").write_text(params)
        (tmp_path / "dvc.yaml").write_text(pipeline)
        stages = read_yaml(tmp_path / "dvc.yaml")["stages"]
        assert stages["embed"]["deps"] == [*embed[:at], *([clip] if clip else []), *embed[at:]]
        files = [weights] if weights else []
        assert stages["distill"]["deps"] == [*distill[:before], *files, *distill[before:]]


def test_templates_are_installed_with_the_package() -> None:
    """pip puts them where `find` looks when there is no clone."""
    import tomllib

    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = {
        f"{to}/{Path(file).name}" for to, files in setup["data-files"].items() for file in files
    }
    assert listed == {f"{template.SHARED}/{name}" for name in template.FILES}
    assert all(template.find(name) == ROOT / name for name in template.FILES)
