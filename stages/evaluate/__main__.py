"""python -m stages.evaluate"""

from __future__ import annotations

from webdistill.core.stage import Stage, run


def main(stage: Stage) -> None:
    """Run student and teacher on the test set, write the figures, export the student."""
    import torch

    from stages.evaluate import export, latency, measures, results, testset
    from stages.evaluate.forward import as_input, logits
    from webdistill.core.errors import UserError
    from webdistill.core.files import write_table
    from webdistill.images.sheet import contact_sheet
    from webdistill.models.checkpoint import CARD, Answers, load_network
    from webdistill.models.cifar import multiply_adds, parameters
    from webdistill.models.names import own_code

    task, settings = stage.task, stage.params
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
    for file in own_code(*student.card.built_from, *teacher.card.built_from):
        stage.input(file)
    size = student.card.image_size
    test = testset.read(
        stage.input(task.test_images), stage.input(task.test_labels), size, len(task.classes)
    )

    deployable = export.Deployable(student.net, student.card.mean, student.card.std).eval()
    reference = export.Deployable(teacher.net, teacher.card.mean, teacher.card.std).eval()
    outcome = results.Outcome(
        ids=test.ids,
        labels=test.labels,
        student=logits(deployable, test.images, stage.progress, "student"),
        teacher=logits(reference, test.images, stage.progress, "teacher"),
    )

    with stage.output("student.onnx") as path:
        export.export(deployable, size, path)
        graph = export.session(path, task.threads)
        count = min(settings.parity_images, len(test.ids))
        parity = export.parity(
            graph, as_input(test.images[:count]).numpy(), outcome.student[:count]
        )
        export.check(parity)
        stage.artifact(path)
    with stage.output("predictions.parquet") as path:
        write_table(results.predictions(outcome), path)
    with stage.output("confusion.csv") as path:
        results.write_confusion(outcome, task.classes, path)
    with stage.output("per_class.csv") as path:
        results.write_per_class(outcome, task.classes, path)
    with stage.output("calibration.csv") as path:
        results.write_calibration(outcome, settings.calibration_bins, path)

    stage.picture("mistakes.png", contact_sheet(test.images[results.mistakes(outcome)[:100]], 20))
    figures = results.figures(outcome, settings.calibration_bins)
    own, other = parameters(student.net), parameters(teacher.net)
    figures |= {
        "parameters": own,
        "teacher_parameters": other,
        "parameter_ratio": round(own / other, results.DIGITS),
        "multiply_adds": multiply_adds(student.net, size),
        "teacher_multiply_adds": multiply_adds(teacher.net, size),
        "onnx_agreement": parity.agreement,
    }
    if student.card.compensation is not None:
        exported = student.card.compensation.inference
        other_answers: Answers = "raw" if exported == "compensated" else "compensated"
        twin = load_network(folder, other_answers)
        unused = export.Deployable(twin.net, twin.card.mean, twin.card.std).eval()
        given = logits(unused, test.images, stage.progress, f"student, {other_answers}")
        figures[f"{exported}_top1"] = figures["top1"]
        figures[f"{other_answers}_top1"] = round(
            measures.top_k(given, test.labels, 1), results.DIGITS
        )
        stage.log(
            f"student raw {figures['raw_top1']:.1%}, compensated {figures['compensated_top1']:.1%}; "
            f"the exported one answers {exported}"
        )
    stage.metrics(figures)
    times = latency.latencies(deployable, graph, size)
    stage.track_metrics({**times, "onnx_max_difference": parity.difference})
    stage.log(
        f"student {figures['top1']:.1%}, teacher {figures['teacher_top1']:.1%} on {len(test.ids):,} test images, "
        f"with {own / other:.0%} of its parameters"
    )
    stage.log(
        f"ONNX: largest difference {parity.difference:.1e}, top-1 equal on {parity.agreement:.1%} of {count:,}"
    )
    stage.log(
        ", ".join(f"{name.removeprefix('latency_')} {value:.2f}" for name, value in times.items())
    )


if __name__ == "__main__":
    run("evaluate", main)
