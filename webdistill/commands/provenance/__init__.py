"""The provenance of an image: what became of it (`why`), where images went (`lost`), where one still is (`absent`).

These commands only read what the stages wrote. No stage imports this package, so that a change here rebuilds nothing.
"""
