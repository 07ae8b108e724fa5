"""Promise R6, second half: every parameter changes something, and a named test knows it.

Most change what a stage writes; those of pace, patience and memory change how it works, those of consent whether it
stops. The function named here fails when the parameter has no effect.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from webdistill.commands.reference import rows
from webdistill.harness.params import STAGES, load, read_yaml, schema

ROOT = Path(__file__).parents[2]
HERE = "tests/promises/test_options.py"
PROOF: dict[str, tuple[str, str]] = {
    "task.seed": ("tests/stages/test_distill_stage.py", "test_the_seed_decides_the_student"),
    "task.threads": (HERE, "test_threads_are_those_of_the_numerical_libraries"),
    "task.classes": ("tests/stages/test_score.py", "test_teachers_that_do_not_fit"),
    "task.image_size": ("tests/stages/test_score.py", "test_teachers_that_do_not_fit"),
    "task.teacher": ("tests/stages/test_score.py", "test_the_stage_stops_before_any_work"),
    "task.test_images": (
        "tests/stages/test_filter.py",
        "test_every_reason_with_its_value_and_threshold",
    ),
    "task.test_labels": (
        "tests/stages/test_evaluate.py",
        "test_the_stage_writes_what_it_promises_and_the_same_bytes_twice",
    ),
    "search.openverse": (
        "tests/stages/test_search_providers.py",
        "test_openverse_is_asked_as_its_documentation_says",
    ),
    "search.openverse.enabled": (
        "tests/stages/test_search_resume.py",
        "test_killed_at_any_moment_nothing_answered_is_asked_twice",
    ),
    "search.wikimedia": (
        "tests/stages/test_search_resume.py",
        "test_killed_at_any_moment_nothing_answered_is_asked_twice",
    ),
    "search.inaturalist": (
        "tests/stages/test_search_inaturalist.py",
        "test_inaturalist_is_asked_as_its_documentation_says",
    ),
    "search.inaturalist.enabled": (
        "tests/stages/test_search_inaturalist.py",
        "test_it_is_asked_where_params_yaml_enables_it",
    ),
    "search": (HERE, "test_search"),
    "fetch": ("tests/stages/test_fetch.py", "test_every_parameter_changes_an_output"),
    "fetch.timeout": ("tests/stages/test_fetch_http.py", "test_a_url_that_hangs_costs_its_timeout"),
    "fetch.max_bytes": (
        "tests/stages/test_fetch_http.py",
        "test_what_exceeds_max_bytes_is_too_large",
    ),
    "fetch.changed": ("tests/stages/test_fetch_digests.py", "test_a_file_that_is_another_now"),
    "fetch.retries": ("tests/web/test_client.py", "test_only_what_may_pass_is_asked_again"),
    "fetch.per_host": ("tests/web/test_hosts.py", "test_few_at_a_time_per_host"),
    "fetch.delay": (
        "tests/stages/test_fetch_http.py",
        "test_requests_to_one_host_start_delay_seconds_apart",
    ),
    "embed.model": (HERE, "test_embed_model_and_precision"),
    "embed.precision": (HERE, "test_embed_model_and_precision"),
    "embed.pretrained": (
        "tests/models/test_clip.py",
        "test_local_files_of_a_builtin_model_need_no_network",
    ),
    "embed.templates": (
        "tests/stages/test_embed.py",
        "test_other_templates_score_anew_without_embedding",
    ),
    "embed.unsafe_texts": (
        "tests/stages/test_embed.py",
        "test_unsafe_is_null_without_texts_and_a_softmax_with_them",
    ),
    "filter": (HERE, "test_filter"),
    "filter.embedding_neighbours": (
        "tests/stages/test_filter_copies.py",
        "test_neighbours_by_embedding_find_copies_cut_off_at_a_corner",
    ),
    "score.precision": (
        "tests/stages/test_score.py",
        "test_bfloat16_is_close_and_named_in_the_header",
    ),
    "score.batch_size": ("tests/stages/test_score.py", "test_the_teacher_is_not_changed"),
    "score.other_image_size": ("tests/stages/test_score.py", "test_teachers_that_do_not_fit"),
    "select": (HERE, "test_select"),
    "select.allow_empty_classes": (
        "tests/stages/test_select.py",
        "test_an_empty_class_stops_unless_allowed_and_a_single_class_always",
    ),
    "prototypes": (HERE, "test_prototypes"),
    "distill": (HERE, "test_distill"),
    "distill.device": (HERE, "test_device"),
    "distill.holdout": (
        "tests/stages/test_holdout.py",
        "test_the_stage_trains_on_the_others_alone",
    ),
    "distill.student_weights": (
        "tests/stages/test_student_weights.py",
        "test_the_tensors_of_a_file_are_the_students_and_its_head_is_made_anew",
    ),
    "distill.processes": (
        "tests/stages/test_ranks_stage.py",
        "test_a_killed_process_ends_the_stage_in_one_line_and_the_next_run_resumes_bit_for_bit",
    ),
    "distill.images": ("tests/stages/test_encoded.py", "test_auto_follows_the_size"),
    "distill.mixup": ("tests/stages/test_distill_stage.py", "test_mixup_changes_the_student"),
    "distill.simkd": ("tests/stages/test_simkd.py", "test_kl_changes_the_student"),
    "distill.simkd.projector_width": (
        "tests/stages/test_simkd.py",
        "test_a_given_width_of_the_projector_is_the_students",
    ),
    "distill.kd3.projector_width": (
        "tests/stages/test_simkd.py",
        "test_a_given_width_of_the_projector_is_the_students",
    ),
    "distill.kd3": ("tests/stages/test_distill_kd3.py", "test_every_option_changes_the_student"),
    "distill.kd3.alpha_tail": (
        "tests/stages/test_distill_kd3.py",
        "test_the_tail_decides_whether_the_teacher_has_a_say_after_half_the_epochs",
    ),
    "distill.dfnd": ("tests/stages/test_distill_kd3.py", "test_every_option_changes_the_student"),
    "distill.mosaic": (
        "tests/stages/test_distill_mosaic.py",
        "test_every_option_reaches_the_student",
    ),
    "distill.odsd": ("tests/stages/test_distill_odsd.py", "test_every_option_reaches_the_student"),
    "distill.augkd": ("tests/stages/test_augkd_run.py", "test_every_option_changes_the_student"),
    **{
        f"distill.{method}": ("tests/stages/test_hosts.py", "test_every_option_changes_the_student")
        for method in ("dafl", "fast", "cmi", "deepinv")
    },
    "distill.deconfound": (
        "tests/stages/test_deconfound.py",
        "test_every_option_changes_the_student",
    ),
    "distill.deconfound.dictionary": (
        "tests/stages/test_deconfound_stage.py",
        "test_the_stage_exports_the_student_that_inference_and_dictionary_name",
    ),
    "distill.deconfound.inference": (
        "tests/stages/test_deconfound_stage.py",
        "test_the_stage_exports_the_student_that_inference_and_dictionary_name",
    ),
    "evaluate": (HERE, "test_evaluate"),
    "evaluate.device": (HERE, "test_device"),
    "evaluate.int8_max_loss": (HERE, "test_evaluate_int8_max_loss"),
    "report": (HERE, "test_report"),
}
# The stages that take the seed as a dependency of its own -> a test of what they write.
SEEDED: dict[str, tuple[str, str]] = {
    "select": ("tests/stages/test_select.py", "test_rule_random_selects_by_the_seed"),
    "prototypes": (
        "tests/stages/test_prototypes.py",
        "test_a_sample_teaches_and_every_image_is_assigned",
    ),
    "distill": PROOF["task.seed"],
}
# Tests that speak of the parameter without its key.
SILENT = {
    "task.teacher", "task.test_images", "task.test_labels", "search.openverse.licences", "search.openverse.per_class",
    "search.wikimedia.per_class", "search.openverse.enabled", "search.wikimedia.enabled",
    "embed.pretrained", "score.batch_size", "score.other_image_size", "task.image_size",
}  # fmt: skip
VALUES = load(ROOT / "params.yaml").raw
KEYS = [
    f"{name}.{row.key}"
    for name in ("task", *STAGES)
    for row in rows(schema(name), VALUES[name])
    if row.allowed
]


def proof(key: str) -> tuple[str, str, str]:
    """The nearest entry above a key. -> entry, file, function"""
    entry = key
    while entry and entry not in PROOF:
        entry = entry.rpartition(".")[0]
    assert entry, f"name a test of {key} in PROOF of {Path(__file__).name}"
    return entry, *PROOF[entry]


@functools.cache
def sources_in(file: str) -> dict[str, str]:
    """Name -> lines of every function, decorators included."""
    source = (ROOT / file).read_text()
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            first = min(part.lineno for part in (node, *node.decorator_list))
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def source_of(file: str, function: str) -> str:
    assert function in sources_in(file), f"{file} has no test {function}"
    return sources_in(file)[function]


@pytest.mark.parametrize("key", KEYS)
def test_a_named_test_knows_the_parameter(key: str) -> None:
    entry, file, function = proof(key)
    text = source_of(file, function)
    if key in SILENT:
        return
    last = key.rpartition(".")[2]
    assert last in text, f"{function} in {file} does not name {last}"
    assert entry == key or key.startswith(f"{entry}.")


def test_every_stage_that_takes_the_seed_has_a_test_of_it() -> None:
    pipeline = read_yaml(ROOT / "dvc.yaml")["stages"]
    assert {name for name, spec in pipeline.items() if "task.seed" in spec["params"]} == {*SEEDED}
    for file, function in SEEDED.values():
        assert "seed" in source_of(file, function), f"{function} in {file}"


def test_no_entry_is_of_a_parameter_that_is_gone() -> None:
    for entry in (*PROOF, *SILENT):
        assert any(key == entry or key.startswith(f"{entry}.") for key in KEYS), entry
