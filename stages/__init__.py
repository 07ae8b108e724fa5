import webdistill  # noqa: F401  (lets torchvision import beside a CPU build of torch)
