"""What search and fetch share to talk to the web: one client with one set of manners.

`client.py` asks (deadline, retries, redirects, caps) through the one door of `session.py`, `heads.py` and `answers.py`
read what comes back, `cookies.py` keeps it together over redirects, and `reply.py` says what came of it. `hosts.py`
spaces the requests to a host; `robots.py`, `tdmrep.py`, `usage.py`, `optout.py` hear what site owners say. `names.py`
looks names up once, `addresses.py` knows which are public. `normalise.py` gives each URL one spelling, `target.py` asks
for what is listed.
"""
