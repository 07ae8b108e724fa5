"""python -m stages.evaluate"""

from __future__ import annotations

from webdistill.harness.stage import Stage, run


def main(stage: Stage) -> None:
    """Export the student, run it and the teacher on the test set, write the figures."""
    import torch

    from stages.evaluate import deployed, results, testset
    from webdistill.core.errors import UserError
    from webdistill.core.files import write_table
    from webdistill.images.sheet import contact_sheet
    from webdistill.models.checkpoint import CARD, load_network
    from webdistill.models.device import pick_device

    task, settings = stage.task, stage.params
    device = pick_device(settings.device, "evaluate.device")
    torch.set_num_threads(task.threads)
    folder = stage.input("data/distill/student")
    student = load_network(folder)
    stage.artifact(folder / CARD)  # with the graph, what a registered model is made of
    teacher = load_network(stage.input(task.teacher))
    for network, key in (
        (student, "data/distill/student/config.json"),
        (teacher, "config.json of task.teacher"),
    ):
        if network.card.classes != task.classes:
            raise UserError(
                f"task.classes in params.yaml and the classes of {key} differ; they must be equal"
            )
    stage.networks(*student.card.built_from, *teacher.card.built_from)
    test = testset.read(
        stage.input(task.test_images),
        stage.input(task.test_labels),
        student.card.image_size,
        len(task.classes),
    )
    if absent := test.absent(task.classes):
        stage.log(f"no test image shows {', '.join(absent)}: nothing will be known about that")

    exports = deployed.write(stage, student)
    networks = {"student": student, "teacher": teacher, **deployed.twins(student, folder)}
    found = deployed.answers(stage, test, networks, exports, device)
    outcome = results.Outcome(test.ids, test.labels, found["student"], found["teacher"])
    parity = deployed.parity(stage, test, outcome.student, student, exports, device)
    deployed.check(stage, outcome, found, parity)
    figures = results.figures(outcome, settings.calibration_bins)
    figures |= deployed.figures(outcome, found, student, teacher, exports)
    stage.metrics({**figures, "onnx_agreement": parity.agreement})
    stage.track_metrics({"onnx_max_difference": parity.difference})

    with stage.output("predictions.parquet") as path:
        write_table(results.predictions(outcome), path)
    with stage.output("confusion.csv") as path:
        results.write_confusion(outcome, task.classes, path)
    with stage.output("per_class.csv") as path:
        results.write_per_class(outcome, task.classes, path)
    with stage.output("calibration.csv") as path:
        results.write_calibration(outcome, settings.calibration_bins, path)
    wrong = [test.ids[place] for place in results.mistakes(outcome)[:100]]
    stage.picture("mistakes.png", contact_sheet(test.some(wrong), 20))

    times = deployed.speed(stage, student, teacher, exports)
    for line in deployed.lines(figures, times, task.threads):
        stage.log(line)
    stage.log(
        f"{len(test.ids):,} test images; ONNX: largest difference {parity.difference:.1e}, {parity.relative:.1e} of "
        f"the image's largest logit, top-1 equal on {parity.agreement:.1%} of {parity.images:,}"
    )
    if student.card.compensation is not None:
        stage.log(
            f"student raw {figures['raw_top1']:.1%}, compensated {figures['compensated_top1']:.1%}, with the same "
            f"compensation for every image {figures['mean_top1']:.1%}; the exported one answers "
            f"{student.card.compensation.inference}"
        )


if __name__ == "__main__":
    run("evaluate", main)
