"""search: published data sets are read as they are handed out, each fact in the right column.

Rows are made up; names, order and form of the columns are those of the data sets' own descriptions.
"""

from __future__ import annotations

import bz2
import gzip
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.search.candidates import collect
from stages.search.found import SCORES, Found
from stages.search.keywords import Keywords
from stages.search.local import open_local

SHA, MD5 = "0123456789abcdef" * 4, "0123456789abcdef" * 2
WORDS = Keywords(["cat"])


def read(path: Path) -> list[Found]:
    return list(open_local(path, path.name, {}, WORDS).rows())


def of_parquet(tmp_path: Path, **row: object) -> Found:
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), tmp_path / "a.parquet")
    (one,) = read(tmp_path / "a.parquet")
    return one


def of_text(path: Path, header: str, *rows: str) -> list[Found]:
    text = "\n".join(filter(None, (header, *rows))) + "\n"
    pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(text.encode()))
    return read(path)


def scores(one: Found) -> tuple[float | None, ...]:
    return tuple(getattr(one, name) for name in SCORES)


def test_re_laion(tmp_path: Path) -> None:
    one = of_parquet(
        tmp_path, url="http://a.example/1", caption="a cat", similarity=0.31, punsafe=0.02, pwatermark=0.4,
        key=7, hash=-8214, width=640, height=480, mime="image/jpeg", aesthetic=5.5,
    )  # fmt: skip
    assert (one.url, one.caption, one.sha256, one.md5) == ("http://a.example/1", "a cat", "", "")
    assert scores(one) == (0.02, None, 0.4, 5.5, 0.31)
    one = of_parquet(
        tmp_path, URL="http://a.example/1", TEXT="a cat", WIDTH=1, HEIGHT=1, similarity=0.31, hash=3,
        punsafe=0.02, pwatermark=0.4, AESTHETIC_SCORE=6.5, LANGUAGE="en", md5=MD5.upper(),
    )  # fmt: skip
    assert (scores(one), one.md5) == ((0.02, None, 0.4, 6.5, 0.31), MD5)


@pytest.mark.parametrize(
    ("word", "value"),
    [("UNLIKELY", 0.0), ("UNSURE", 0.5), ("NSFW", 1.0), ("0.25", 0.25), ("True", 1.0), ("?", None)],
)
def test_laion_400m(tmp_path: Path, word: str, value: float | None) -> None:
    header = "SAMPLE_ID,URL,TEXT,HEIGHT,WIDTH,LICENSE,NSFW,similarity"
    row = f"1,http://a.example/1,a cat,2,3,?,{word},0.31"
    (one,) = of_text(tmp_path / "a.csv", header, row)
    assert (one.url, one.caption, one.licence) == ("http://a.example/1", "a cat", "")
    assert scores(one) == (None, value, None, None, 0.31)


def test_datacomp(tmp_path: Path) -> None:
    row = {
        "uid": "x", "url": "http://a.example/1", "text": "a cat", "original_width": 2, "original_height": 3,
        "clip_b32_similarity_score": 0.2, "clip_l14_similarity_score": 0.25,
        "face_bboxes": [[0.1, 0.2, 0.3, 0.4]], "sha256": SHA,
    }  # fmt: skip
    one = of_parquet(tmp_path, **row)
    assert (one.url, one.caption, one.sha256, one.md5) == ("http://a.example/1", "a cat", SHA, "")
    assert scores(one) == (None, None, None, None, 0.25)
    del row["clip_l14_similarity_score"]
    assert of_parquet(tmp_path, **row).similarity == 0.2


def test_coyo(tmp_path: Path) -> None:
    one = of_parquet(
        tmp_path, id=841814333321, url="http://a.example/1", text="a cat", width=2, height=3,
        image_phash="a2a4", text_length=5, word_count=2, num_tokens_bert=4, num_tokens_gpt=4, num_faces=0,
        clip_similarity_vitb32=0.2, clip_similarity_vitl14=0.25, nsfw_score_opennsfw2=0.01,
        nsfw_score_gantman=0.02, watermark_score=0.03, aesthetic_score_laion_v2=4.5,
    )  # fmt: skip
    assert (one.url, one.caption, one.sha256, one.md5) == ("http://a.example/1", "a cat", "", "")
    assert scores(one) == (None, 0.01, 0.03, 4.5, 0.25)


def test_open_images(tmp_path: Path) -> None:
    header = (
        "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,"
        "OriginalMD5,Thumbnail300KURL,Rotation"
    )
    row = (
        "000060e3121c7305,train,https://c1.staticflickr.com/5/4129/1_o.jpg,https://www.flickr.com/photos/a/1,"
        'https://creativecommons.org/licenses/by/2.0/,https://www.flickr.com/people/a/,"Ada, B.",A cat,211079,'
        "ASNFZ4mrze8BI0VniavN7w==,https://c5.staticflickr.com/5/4129/1_z.jpg,0.0"
    )
    (one,) = of_text(tmp_path / "a.csv", header, row)
    assert one.url == "https://c1.staticflickr.com/5/4129/1_o.jpg"
    assert one.landing_page == "https://www.flickr.com/photos/a/1"
    assert one.licence == one.licence_url == "https://creativecommons.org/licenses/by/2.0/"
    assert (one.creator, one.caption, one.md5) == ("Ada, B.", "A cat", MD5)


YFCC = (
    "1", "7@N0", "Ada+B%C3%A9", "2006-01-01 01:01:01.0", "1136105941", "Canon+X", "A+cat%2C+asleep",
    'my+"cat', "pet,cat", "", "8.5", "47.3", "16", "http://www.flickr.com/photos/7@N0/1/",
    "http://farm1.staticflickr.com/1/1_a.jpg", "Attribution License",
    "http://creativecommons.org/licenses/by/2.0/", "1", "1", "a", "b", "jpg", "0",
)  # fmt: skip


@pytest.mark.parametrize("row", [YFCC, ("0", *YFCC[:1], "9f", *YFCC[1:])], ids=["2014", "2016"])
@pytest.mark.parametrize("name", ["yfcc100m_dataset-0.bz2", "yfcc100m_dataset.txt", "a.csv"])
def test_yfcc100m(tmp_path: Path, row: tuple[str, ...], name: str) -> None:
    one, other = of_text(tmp_path / name, "", "\t".join(row), "\t".join(row))
    assert one == other._replace(row=0)
    assert one.url == "http://farm1.staticflickr.com/1/1_a.jpg"
    assert one.landing_page == "http://www.flickr.com/photos/7@N0/1/"
    assert one.licence_url == "http://creativecommons.org/licenses/by/2.0/"
    assert (one.licence, one.creator) == ("Attribution License", "Ada Bé")
    assert one.caption == 'A cat, asleep; my "cat; pet,cat'


def test_yfcc100m_with_the_names_of_its_parquet(tmp_path: Path) -> None:
    names = (
        "photoid uid unickname datetaken dateuploaded capturedevice title description usertags machinetags "
        "longitude latitude accuracy pageurl downloadurl licensename licenseurl serverid farmid secret "
        "secretoriginal ext marker"
    )
    one = of_parquet(tmp_path, **dict(zip(names.split(), YFCC, strict=True)))
    assert (one.url, one.creator) == ("http://farm1.staticflickr.com/1/1_a.jpg", "Ada Bé")
    assert one.caption.startswith("A cat, asleep; ")


def test_wit(tmp_path: Path) -> None:
    header = (
        "language\tpage_url\timage_url\tpage_title\tsection_title\thierarchical_section_title\t"
        "caption_reference_description\tcaption_attribution_description\tcaption_alt_text_description\tmime_type\t"
        "original_height\toriginal_width\tis_main_image\tattribution_passes_lang_id\tpage_changed_recently\t"
        "context_page_description\tcontext_section_description"
    )
    page, image = "https://en.wikipedia.org/wiki/Cat", "http://upload.wikimedia.org/1.jpg"
    begin, end = f"en\t{page}\t{image}\tCat\t\tCat\t", "\timage/jpeg\t1\t1\ttrue\ttrue\ttrue\tx\tx"
    rows = [f"{begin}{captions}{end}" for captions in ("a\tb\tc", "\tb\tc", "\t\tc", "\t\t")]
    found = of_text(tmp_path / "wit_v1.train.all-1percent_sample.tsv.gz", header, *rows)
    assert [one.caption for one in found] == ["a", "b", "c", "Cat"]
    assert {(one.url, one.landing_page) for one in found} == {(image, page)}


GBIF = (
    "gbifID\ttype\tformat\tidentifier\treferences\ttitle\tdescription\tsource\taudience\tcreated\tcreator\tcontributor\t"
    "publisher\tlicense\trightsHolder"
)


@pytest.mark.parametrize("name", ["multimedia.txt", "a.tsv", "a.csv"])
def test_gbif_multimedia(tmp_path: Path, name: str) -> None:
    photo = "https://inaturalist-open-data.s3.amazonaws.com/photos/1/original.jpg"
    page, licence = (
        "https://www.inaturalist.org/photos/1",
        "http://creativecommons.org/licenses/by-nc/4.0/",
    )
    rows = [
        f'1\tStillImage\timage/jpeg\t{photo}\t{page}\tcat\t\t\t\t2020\tAda\t\tiNaturalist\t{licence}\tBo "B',
        f"1\tStillImage\timage/jpeg\t{photo}\t{page}\t\"A cat\" 'of' mine\t\t\t\t2020\t\t\t\t{licence}\tBo",
    ]
    first, second = of_text(tmp_path / name, GBIF, *rows)
    assert (first.url, first.landing_page, first.caption) == (photo, page, "cat")
    assert (first.licence, first.licence_url, first.creator) == (licence, licence, "Ada")
    assert second.creator == "Bo", "whoever holds the rights, where no creator is named"
    assert (first.sha256, first.md5, *scores(first)) == ("", "", *[None] * 5)


def test_inaturalist_open_data(tmp_path: Path) -> None:
    header = "photo_uuid\tphoto_id\tobservation_uuid\tobserver_id\textension\tlicense\twidth\theight\tposition"
    rows = ["7c5c\t42\t1a\t9\tjpeg\tCC-BY-NC\t2048\t1536\t0", "7c5d\t43\t1b\t9\t\tCC0\t1\t1\t0"]
    for name in ("photos.csv", "photos.csv.gz", "photos.txt"):
        first, second = of_text(tmp_path / name, header, *rows)
        begin = "https://inaturalist-open-data.s3.amazonaws.com/photos"
        assert (first.url, second.url) == (f"{begin}/42/medium.jpeg", f"{begin}/43/medium.jpg")
        assert first.landing_page == "https://www.inaturalist.org/photos/42"
        assert (first.licence, second.licence, first.creator) == ("CC-BY-NC", "CC0", "9")


def test_an_export_of_inaturalist(tmp_path: Path) -> None:
    header = "id,observed_on,user_id,user_login,user_name,license,url,image_url,description,scientific_name"
    begin, page = (
        "https://inaturalist-open-data.s3.amazonaws.com/photos",
        "https://www.inaturalist.org/observations",
    )
    rows = [
        f"{n},2026-05-01,9,ada99,{name},CC-BY,{page}/{n},{begin}/{n}/medium.jpg,,Felis catus"
        for n, name in enumerate(("Ada Bé", ""))
    ]
    first, second = of_text(tmp_path / "observations-1.csv", header, *rows)
    assert (first.url, first.landing_page) == (f"{begin}/0/medium.jpg", f"{page}/0")
    assert (first.creator, second.creator) == ("Ada Bé", "ada99")
    assert (first.licence, first.caption) == ("CC-BY", "Felis catus")


def test_the_dataset_of_unsplash(tmp_path: Path) -> None:
    header = (
        "photo_id\tphoto_url\tphoto_image_url\tphoto_width\tphoto_description\tphotographer_username\t"
        "photographer_first_name\tphotographer_last_name\tai_description\tblur_hash"
    )
    page, image = "https://unsplash.com/photos/xE", "https://images.unsplash.com/photo-1"
    rows = [f"xE\t{page}\t{image}\t9\t{text}\tada\tAda\tBé\ta dog\tLd" for text in ("my cat", "")]
    first, second = of_text(tmp_path / "photos.tsv000", header, *rows)
    assert (first.url, first.landing_page, first.creator) == (image, page, "ada")
    assert (first.caption, second.caption) == ("my cat", "a dog")


@pytest.mark.parametrize(
    "spelt",
    [
        SHA.upper(), f"sha256:{SHA}", f"0x{SHA}", ":".join(SHA[n : n + 2] for n in range(0, 64, 2)), bytes.fromhex(SHA),
        f"sha256-{b64encode(bytes.fromhex(SHA)).decode()}", urlsafe_b64encode(bytes.fromhex(SHA)).decode().strip("="),
        f'"{SHA}"', f"b'{SHA}'", f"\\x{SHA}", f"{SHA}  cat.jpg", f"urn:sha256:{SHA}", f"sha256 {SHA}",
        f"{{SHA256}}{b64encode(bytes.fromhex(SHA)).decode()}", f"sha-256=:{b64encode(bytes.fromhex(SHA)).decode()}:",
    ],
)  # fmt: skip
def test_a_digest_in_any_spelling(tmp_path: Path, spelt: object) -> None:
    for name in ("sha256", "SHA256sum"):
        row = {"url": "http://a.example/1", name: spelt}
        assert of_parquet(tmp_path, **row).sha256 == SHA


def test_audubon_core(tmp_path: Path) -> None:
    header = "coreid,identifier,accessURI,rights,Owner,WebStatement,furtherInformationURL"
    row = "1,urn:x,http://a.example/1.jpg,CC BY 4.0,Ada,http://c.example/by/4.0/,http://a.example/p"
    (one,) = of_text(tmp_path / "a.csv", header, row)
    assert (one.url, one.licence, one.creator) == ("http://a.example/1.jpg", "CC BY 4.0", "Ada")
    assert (one.licence_url, one.landing_page) == ("http://c.example/by/4.0/", "http://a.example/p")


def test_scores_and_digests_reach_the_candidates(tmp_path: Path) -> None:
    header = "url,caption,sha256,punsafe,aesthetic"
    rows = [f"http://a.example/1,a cat,{SHA},0.5,", "http://a.example/2,a dog,,,nan"]
    table = collect(of_text(tmp_path / "a.csv", header, *rows), WORDS).table
    assert table["sha256"].to_pylist() == [SHA, ""]
    assert table["punsafe"].to_pylist() == [0.5, None]
    assert table["aesthetic"].to_pylist() == [None, None]
    assert {str(table.schema.field(name).type) for name in SCORES} == {"double"}


def test_rows_of_commons(tmp_path: Path) -> None:
    page, picture = (
        "https://commons.wikimedia.org/wiki/File:A.jpg",
        "https://upload.wikimedia.org/A.jpg",
    )
    (tmp_path / "a.csv").write_text(
        f"title,descriptionurl,url,Artist,LicenseShortName\nFile:A.jpg,{page},{picture},Ada,CC BY 4.0\n"
    )
    (one,) = open_local(tmp_path / "a.csv", "a.csv", {}, Keywords(["cat"])).rows()
    assert (one.url, one.landing_page, one.creator, one.licence) == (
        picture,
        page,
        "Ada",
        "CC BY 4.0",
    )


def test_spreadsheets_write_a_comma_in_a_score(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "image_name;punsafe;license_code;license_title\nb/1.jpg;0,25;;CC BY\nb/2.jpg;-;cc0;CC0 1.0\n"
    )
    first, second = open_local(tmp_path / "a.csv", "a.csv", {}, Keywords(["cat"])).rows()
    assert (first.url, first.punsafe, first.licence) == ("b/1.jpg", 0.25, "CC BY")
    assert (second.url, second.punsafe, second.licence) == ("b/2.jpg", None, "cc0")
