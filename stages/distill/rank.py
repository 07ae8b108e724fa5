"""python -m stages.distill.rank: one more process of a training, started by the stage."""

from pathlib import Path

from webdistill.harness.crew import Follower, follow


def main(stage: Follower, rank: int, count: int, folder: Path) -> None:
    import torch

    from stages.distill.__main__ import prepared_of
    from stages.distill.group import joined
    from stages.distill.training import train
    from webdistill.models.device import pick_device

    if pick_device(stage.params.device, "distill.device").type == "cuda":
        torch.cuda.set_device(rank)
    prepared = prepared_of(stage)
    with joined(rank, count, folder, prepared.run.device):
        train(stage, prepared)


if __name__ == "__main__":
    follow("distill", main)
