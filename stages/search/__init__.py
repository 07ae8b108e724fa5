"""search: a list of images (the quickstart web, or any CSV, TSV or Parquet file) -> data/search/candidates.parquet.

Each row becomes one candidate with a normalised URL, a query (class keyword) and what is known of its licence; a URL
that appears twice is taken once. Nothing is downloaded here.
"""
