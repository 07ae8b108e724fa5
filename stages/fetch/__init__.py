"""fetch: candidates -> data/fetch/pool (canonical pictures), ledger.parquet (what became of each), failures.csv.

Bytes come from lists and tars, from files beside them, or over http(s): with deadlines and caps, never from an address
that is not public, at a pace per host, and only where robots.txt and opt-out headers allow it. The image gate lets
JPEG, PNG and WebP in and stores pixels only. Every finished candidate is written down at once: a killed run continues
where it was, and a later run asks only for what is missing or may have passed. WEBDISTILL_CONTACT (a mail address or
a page) goes into the user agent and is needed when something is to be asked for.
"""
