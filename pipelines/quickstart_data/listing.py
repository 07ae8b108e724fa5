"""The words around a picture in a search result: caption, address, licence, creator.

All of it is invented. Addresses lie in domains reserved for examples (RFC 2606, RFC 6761), so none can be reached.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

NOUNS = {
    "airplane": ("airplane", "jet", "airliner", "old propeller plane", "fighter plane"),
    "automobile": ("automobile", "car", "sports car", "convertible", "hatchback"),
    "bird": ("bird", "sparrow", "ostrich", "robin", "young heron"),
    "cat": ("cat", "kitten", "tabby", "Siamese cat", "sleepy cat"),
    "deer": ("deer", "stag", "fawn", "elk", "doe"),
    "dog": ("dog", "puppy", "terrier", "spaniel", "sheepdog"),
    "frog": ("frog", "toad", "tree frog", "bullfrog", "little frog"),
    "horse": ("horse", "pony", "mare", "foal", "race horse"),
    "ship": ("ship", "cargo ship", "motor boat", "ferry", "sailing ship"),
    "truck": ("truck", "lorry", "fire truck", "pickup truck", "trailer truck"),
}
TEMPLATES = (
    "{}", "a photo of a {}", "{} in the morning", "our {}", "{} seen from the side", "{}, close up",
    "the best {} pictures", "{} wallpaper", "IMG {}", "my favourite {}", "{} for sale", "a {} near the road",
    "{} 3/12", "Free stock photo: {}", "{} (public domain)", "how to draw a {}", "{} | photos and facts",
    "Ein Bild: {}", "{} – été 2019", "{}, photograph by a member",
)  # fmt: skip
HOSTILE = (
    "<script>alert('{}')</script>", '"><img src=x onerror=alert(1)> {}', "=HYPERLINK(\"//x.example\";\"{}\")",
    "{}\ton two\nlines", "{{{{ {} }}}} &amp; <b>bold</b>", "\u202e{}\u202c", "{} \U0001f600, \"quoted\"",
)  # fmt: skip
HOSTS = (
    "images.example", "photos.example.com", "cdn.example.net", "pics.example.org", "static.shop.example",
    "media.blog.example", "img.archive.example", "gallery.example.org",
)  # fmt: skip
FIRST = (
    "Ada",
    "Bo",
    "Chidi",
    "Daria",
    "Emil",
    "Fatima",
    "Goro",
    "Zoë",
    "Ines",
    "Jonas",
    "Kaia",
    "Łukasz",
)
LAST = ("Adeyemi", "Berg", "Castro", "Dvořák", "Ek", "Fischer", "Müller", "Haddad", "Ito", "O'Neil")
LICENCES = (
    ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
    ("CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
    ("CC BY-NC 4.0", "https://creativecommons.org/licenses/by-nc/4.0/"),
    ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    ("Public Domain Mark 1.0", "https://creativecommons.org/publicdomain/mark/1.0/"),
    ("All rights reserved", "https://images.example/terms"),
    ("", ""),
)
LICENCE_SHARES = (0.34, 0.2, 0.1, 0.1, 0.06, 0.08, 0.12)
OPT_OUTS = ("noai", "noimageai", "tdm-reservation")


@dataclass(frozen=True)
class Listing:
    """What the search result says about one picture; every field may be empty but url and landing_page."""

    url: str
    caption: str
    licence: str
    licence_url: str
    creator: str
    landing_page: str


def listing(row: int, keyword: str, ending: str, rng: Generator) -> Listing:
    """The words for candidate number `row` (it makes the url unique), found under `keyword`."""
    host = HOSTS[int(rng.integers(len(HOSTS)))]
    number = 100_000 + row
    licence, licence_url = LICENCES[int(rng.choice(len(LICENCES), p=LICENCE_SHARES))]
    creator = f"{FIRST[int(rng.integers(len(FIRST)))]} {LAST[int(rng.integers(len(LAST)))]}"
    noun = NOUNS[keyword][int(rng.choice(5, p=(0.4, 0.15, 0.15, 0.15, 0.15)))]
    draw = rng.random()
    template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    if draw < 0.003:
        template = HOSTILE[int(rng.integers(len(HOSTILE)))]
    elif draw < 0.06:
        template = ""
    if rng.random() < 0.06:  # the ending of an address is no promise
        ending = ("jpg", "png", "webp")[int(rng.integers(3))]
    return Listing(
        url=f"https://{host}/img/{number}.{ending}",
        caption=template.format(noun),
        licence=licence,
        licence_url=licence_url,
        creator=creator if rng.random() < 0.8 else "",
        landing_page=f"https://{host}/page/{number}",
    )
