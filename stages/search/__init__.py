"""search: lists, folders, tars and free search engines -> data/search/candidates.parquet.

Local sources come from search.local: lists (text, JSON or Parquet, with addresses or with images), WebDataset tars,
folders of images. Openverse, Wikimedia Commons and iNaturalist are asked through their public APIs where params.yaml
enables them; that needs WEBDISTILL_CONTACT, a mail address or page where they reach you. A row that cannot be read is
counted and left out. No image is downloaded here. Addresses are
normalised, one row per address; `--dry-run` counts per class and provider and writes nothing.
"""
