import webdistill  # noqa: F401  (lets torchvision import beside a CPU build of torch)
from webdistill.harness.lifetime import quiet_interrupt

quiet_interrupt()
