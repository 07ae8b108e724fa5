"""Speed against peers, as ratios measured in one run. Nothing here is needed to use the project."""

import webdistill  # noqa: F401  (lets torchvision import beside a CPU build of torch)
