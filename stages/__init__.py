import sys
from importlib.util import find_spec

if (
    find_spec("pydantic") is None
):  # such as `.venv/bin/dvc repro`, which takes the first `python` of the path
    sys.stderr.write(
        f"error: {sys.executable} lacks webdistill's libraries; run `source .venv/bin/activate` first\n"
    )
    sys.exit(2)

import webdistill  # noqa: F401  (lets torchvision import beside a CPU build of torch)
