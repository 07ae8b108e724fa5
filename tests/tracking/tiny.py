"""Five stages that take no time: the pipeline of the tests' project."""

LIST = "data/quickstart/list.csv"
MAINS = {
    "search": """
        _, *urls = stage.input(stage.params.local).read_text().split()
        write("candidates.parquet", " ".join(urls))
        stage.metrics({"rows": len(urls)})
    """,
    "filter": """
        images = stage.input("data/search/candidates.parquet").read_text().split()
        kept = images[: 40 if stage.params.min_score > 0 else 60]
        write("kept.parquet", " ".join(kept))
        write("dropped.parquet", "")
        stage.metrics({"images": len(images), "kept": len(kept)})
    """,
    "distill": """
        kept = stage.input("data/filter/kept.parquet").read_text().split()
        if Path("broken").exists():
            raise UserError("broken")
        with stage.output("student") as folder:
            (folder / "deep").mkdir(parents=True)
            (folder / "weights").write_text(f"{len(kept)} {stage.params.epochs}")
            (folder / "deep" / "card").write_text("card")
        for epoch in range(1, stage.params.epochs + 1):
            stage.curve("loss", 2 / (epoch + stage.params.lr), epoch)
        stage.metrics({"images": len(kept), "loss": 2 / stage.params.epochs})
    """,
    "evaluate": """
        kept, epochs = (stage.input("data/distill/student") / "weights").read_text().split()
        top1 = 1 - 1 / int(epochs) / int(kept)
        write("predictions.parquet", str(top1))
        stage.metrics({"top1": top1, "teacher_top1": 0.9, "parameters": 1000, "worst_class_top1": 0.9 * top1})
        stage.track_metrics({"latency_ms": 1.5})
    """,
    "report": """
        for name in ("filter/kept.parquet", "distill/student", "evaluate/predictions.parquet"):
            stage.input(f"data/{name}")
        write("report.html", str(stage.settings.flat()))
        stage.metrics({"bytes": 1})
    """,
}
MAIN = """
from pathlib import Path
from webdistill.core.errors import UserError
from webdistill.harness.stage import Stage, run

def main(stage: Stage) -> None:
    def write(name, text):
        with stage.output(name) as path:
            path.write_text(text)
{body}
if __name__ == "__main__":
    run("{name}", main)
"""
DVC = """
stages:
  search:
    cmd: python -m stages.search
    deps: [stages/search, '${search.local}']
    params: [search]
    outs: [data/search/candidates.parquet]
    metrics: [data/search/metrics.json: {cache: false}]
  filter:
    cmd: python -m stages.filter
    deps: [stages/filter, data/search/candidates.parquet]
    params: [filter]
    outs: [data/filter/kept.parquet, data/filter/dropped.parquet]
    metrics: [data/filter/metrics.json: {cache: false}]
  distill:
    cmd: python -m stages.distill
    deps: [stages/distill, data/filter/kept.parquet]
    params: [distill]
    outs: [data/distill/student]
    metrics: [data/distill/metrics.json: {cache: false}]
  evaluate:
    cmd: python -m stages.evaluate
    deps: [stages/evaluate, data/distill/student]
    params: [evaluate]
    outs: [data/evaluate/predictions.parquet]
    metrics: [data/evaluate/metrics.json: {cache: false}]
  report:
    cmd: python -m stages.report
    deps: [stages/report, data/filter/kept.parquet, data/distill/student, data/evaluate/predictions.parquet]
    params: [task, search, filter, distill, evaluate, report]
    outs: [data/report/report.html]
    metrics: [data/report/metrics.json: {cache: false}]
"""
