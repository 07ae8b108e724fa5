"""python -m stages.report"""

from __future__ import annotations

from webdistill.harness.stage import Stage, run


def main(stage: Stage) -> None:
    """Read the outputs of all stages and write the page, the model card and the description of the pool."""
    from stages.report.card import card
    from stages.report.croissant import croissant
    from stages.report.gather import gather
    from stages.report.page import page
    from stages.report.sections.truth import truth_figures

    evidence = gather(stage)
    text = page(evidence)
    with stage.output("report.html") as path:
        path.write_text(text, encoding="utf-8")
        stage.artifact(path)
    with stage.output("card.md") as path:
        path.write_text(card(evidence), encoding="utf-8")
    with stage.output("croissant.json") as path:
        path.write_text(croissant(evidence), encoding="utf-8")
    stage.metrics({"pictures": text.count('src="data:image/'), "bytes": len(text.encode("utf-8"))})
    stage.metrics(truth_figures(evidence))
    stage.log(f"{len(text) / 2**20:.1f} MiB; open data/report/report.html in a browser")


if __name__ == "__main__":
    run("report", main)
