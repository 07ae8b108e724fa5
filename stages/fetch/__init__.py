"""fetch: candidates -> data/fetch/pool (canonical pictures) and data/fetch/ledger.parquet (what became of each).

Bytes come from the list itself, from files beside it, or over http(s) with deadlines and caps, never from an address
that is not public. The image gate lets JPEG, PNG and WebP in and stores pixels only. A killed run continues where it
was. WEBDISTILL_CONTACT (a mail address or a page) goes into the user agent and is needed for http(s) only.
robots.txt, X-Robots-Tag, Retry-After and a minimum delay per host are not obeyed yet.
"""
