"""params.yaml: strict, whole, readable; and read as DVC reads it (promises R5, M4)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from webdistill.core.errors import UserError
from webdistill.core.section import Section
from webdistill.harness.params import STAGES, load, read_yaml, schema

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "params.yaml").read_text()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_the_committed_file_is_valid() -> None:
    settings = load(ROOT / "params.yaml")
    assert set(settings.sections) == set(STAGES)
    assert settings.flat()["task.seed"] == "0"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs:", "  epoch:", "unknown key 'distill.epoch'; did you mean 'epochs'?"),
        (
            "    alpha_tail:",
            "    alfa_tail:",
            "'distill.kd3.alfa_tail'; did you mean 'alpha_tail'?",
        ),
        ("    latent: 100 ", "    # ", "key 'distill.mosaic.latent' is missing (dimensions of"),
        ("\ndistill:", "\ndistil:", "unknown section 'distil'; did you mean 'distill'?"),
        ("  seed: 0", "  seed: zero", 'task.seed = "zero": input should be a valid integer'),
        ("  seed: 0", "  seed: '0'", 'task.seed = "0": input should be a valid integer'),
        ("  seed: 0", "  seed: -1", "task.seed = -1: input should be greater than or equal to 0"),
        ("  seed: 0\n", "", "key 'task.seed' is missing"),
        ("  method: simkd", "  method: magic", "distill.method"),
        ("  seed: 0", "  seed: [", "is not valid YAML"),
        ("  seed: 0", "  seed: !!python/object:os.system x", "is not valid YAML"),
        ("airplane, automobile", "airplane, Airplane", "names a class twice"),
        ("airplane, automobile", "'', automobile", "an empty name"),
        (
            "student: wrn-16-1",
            "student: wrn-17-1",
            "student: unknown architecture 'wrn-17-1'; examples: resnet8",
        ),
        (
            "warmup_epochs: 1\n",
            "warmup_epochs: 1000\n",
            "warmup_epochs = 1000 is more than epochs = ",
        ),
        (
            "batch_size: 32",
            "batch_size: 60000",
            "distill.batch_size = 60000 is more than select.budget",
        ),
        ("max_unsafe: 1.0", "max_unsafe: 0.5", "embed.unsafe_texts names no texts"),
        ("pretrained: null", "pretrained: openai", "pretrained must be null: 'local-dir:"),
        (
            "dictionary: none ",
            "dictionary: drawn ",
            "simkd draws no images of its own",
        ),
        ("student: wrn-16-1", "student: mine.py:small", "as a module: mine:small"),
        ("student: wrn-16-1", "student: ./nets/mine.py:small", "as a module: nets.mine:small"),
        ("\n  budget: ", "\n  budget: 1 #", "a share as a decimal, such as 1.0"),
        ("\n  budget: ", "\n  budget: many #", "select.budget"),
    ],
)
def test_bad_input_is_one_readable_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(UserError) as caught:
        load(written(tmp_path, TEXT.replace(old, new, 1)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_are_read_as_yaml_1_2(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1e-4\nb: 010\nc: yes\nd: 1:30\n")
    assert read_yaml(path) == {"a": 1e-4, "b": 10, "c": "yes", "d": "1:30"}


def test_parsed_params_equal_what_dvc_locks(tmp_path: Path) -> None:
    """DVC resolves the same file to the same values."""
    import dvc.utils.serialize

    parsed = dvc.utils.serialize.load_yaml(str(ROOT / "params.yaml"))
    assert parsed == read_yaml(ROOT / "params.yaml")


def test_overrides(tmp_path: Path) -> None:
    settings = load(ROOT / "params.yaml", ["task.seed=7", "distill.lr=1e-2"])
    assert settings.task.seed == 7
    assert settings.flat()["distill.lr"] == "0.01"
    for wrong in ("seed=1", "task.seed", "nowhere.key=1", "task.sed=1"):
        with pytest.raises(UserError):
            load(ROOT / "params.yaml", [wrong])


@pytest.mark.parametrize("name", ["task", *STAGES])
def test_every_parameter_says_what_it_means_and_has_no_default(name: str) -> None:
    todo: list[tuple[str, type[Section]]] = [(name, schema(name))]
    while todo:
        prefix, model = todo.pop()
        for key, field in model.model_fields.items():
            assert field.description, f"{prefix}.{key} has no description"
            assert field.is_required(), f"{prefix}.{key} has a default; params.yaml holds all"
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                todo.append((f"{prefix}.{key}", field.annotation))


def test_what_is_read_may_be_changed_without_changing_what_is_read_next(tmp_path: Path) -> None:
    path, given = written(tmp_path, TEXT), ["search.negative=[dog]"]
    for change in (lambda raw: raw["search"]["negative"].append("cat"), lambda raw: raw.clear()):
        change(load(path, given).raw)
        assert load(path, given).raw["search"]["negative"] == ["dog"]
        change(read_yaml(path))
        assert read_yaml(path)["task"]["seed"] == 0
    path.write_text(TEXT.replace("seed: 0", "seed: 5"))
    assert read_yaml(path)["task"]["seed"] == 5


HELP = """
import runpy, sys
sys.argv = ["x", "--help"]
for name in %r:
    try:
        runpy.run_module(f"stages.{name}", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, name
    heavy = {"torch", "pyarrow", "mlflow", "faiss", "open_clip"} & set(sys.modules)
    assert not heavy, (name, heavy)
"""


def test_help_answers_without_heavy_imports() -> None:
    """All stages in one process, which would keep what one of them imports."""
    code = HELP % (STAGES,)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[--params PARAMS]") == len(STAGES)


def test_reading_all_sections_takes_no_heavy_imports() -> None:
    """Every stage does that when it starts."""
    code = (
        "import sys, pathlib; from webdistill.harness.params import load; load(pathlib.Path('params.yaml'))\n"
        "heavy = {'torch', 'pyarrow', 'numpy', 'mlflow', 'faiss', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_mistyped_key_stops_a_stage_with_exit_code_2(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT.replace("  epochs:", "  epoch:", 1))
    done = subprocess.run(
        [sys.executable, "-m", "stages.search", "--params", str(path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'epochs'?" in done.stderr
