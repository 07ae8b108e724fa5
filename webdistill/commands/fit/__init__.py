"""python -m webdistill fit: how a pool relates to the teacher. Under a minute, before any hour of training."""
