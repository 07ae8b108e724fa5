"""`python -m webdistill repro -j N`: what `dvc repro` does, with independent stages side by side."""
