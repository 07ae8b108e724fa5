"""The last line of teachers.csv: 25 steps from a classifier of zeros, after `pipelines.office_caltech.prepare`.

python records/2026-11-29-office-caltech/head.py
"""

import sys

import torch
from safetensors.torch import load_file

from pipelines.shared.labelled import accuracy, train

GREY = (0.5, 0.5, 0.5)
WORK = "pipelines/office_caltech/work/"
torch.set_num_threads(1)
data, start = (load_file(f"{WORK}{name}.safetensors") for name in ("teacher_data", "weights"))
settings = {
    "epochs": 1, "steps_per_epoch": 25, "batch_size": 32, "warmup_epochs": 0.1, "decay": "cosine",
    "weight_decay": 1e-4, "min_scale": 0.5, "precision": "float32",
}  # fmt: skip
net = train(
    data["images"], data["labels"], settings, 0.02, 0,
    architecture="timm:tf_efficientnet_lite0", classes=10, mean=GREY, std=GREY, start=start,
)  # fmt: skip
found = accuracy(net, data["held_out_images"], data["held_out_labels"], GREY, GREY)
sys.stdout.write(f"{found:.4f} of {len(data['held_out_labels'])}\n")
