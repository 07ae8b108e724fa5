"""What search and fetch share to talk to the web: one client with one set of manners.

`client.py` asks (deadline, retries, redirects, caps) through the one door of `session.py`, and `reply.py` says what
came of it; `hosts.py` spaces the requests to a host, `robots.py`, `tdmrep.py`, `optout.py` hear what site owners say,
`names.py` looks names up once, `addresses.py` knows which are public, `normalise.py` gives each URL one spelling.
"""
