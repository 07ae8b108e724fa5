"""python -m webdistill init: a project of one's own, in an empty folder or in a clone."""
