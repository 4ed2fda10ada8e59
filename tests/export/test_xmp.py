"""Sidecars: read by exiv2 and ExifTool, added to what is there, and taken back."""

import errno
import json
import os
import shutil
import subprocess
import tempfile
from xml.etree import ElementTree

import pytest
from tests.export.conftest import ODD

from shoal.cli.main import main
from shoal.export.images import LabelledImage
from shoal.export.xmp import DC, EMPTY, LARGEST, LR, RDF, SHOAL, UnmergeableError, merged, sidecar_paths
from shoal.results.deciding import record
from shoal.results.result import Result

HEAD = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="{RDF}">'
TAIL = "</r:RDF></x:xmpmeta>"
EXISTING = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
{HEAD}<!-- by hand -->
<r:Description r:about="" xmlns:dt="http://darktable.sf.net/" xmlns:dc="{DC}" dt:note="one&#10;two&#9;&quot;" dt:v="5">
<dc:subject><r:Bag><r:li>sea</r:li><r:li>cats</r:li></r:Bag></dc:subject><dt:text>a &lt; b&#13;</dt:text>
</r:Description>{TAIL}
<?xpacket end="w"?>"""


def image(label="cats", **given):
    return LabelledImage(
        **{"id": "a.jpg", "path": None, "cluster": 3, "confidence": 0.5, "by_person": False} | given, label=label
    )


def said(content):
    """Keywords, hierarchical ones, and shoal's own properties of a sidecar."""
    root = ElementTree.fromstring(content)
    own = {each.tag.partition("}")[2]: each.text for each in root.iter() if each.tag.startswith(f"{{{SHOAL}}}")}
    lists = (f".//{{{DC}}}subject", f".//{{{LR}}}hierarchicalSubject")
    words = [[word.text for word in root.iterfind(f"{path}//{{{RDF}}}li")] for path in lists]
    return (*words, own)


def test_a_new_sidecar_says_cluster_confidence_and_who_has_chosen():
    words, hierarchical, own = said(merged(EMPTY.encode(), image(ODD)))
    assert words == [ODD]
    assert hierarchical == [f"shoal|{ODD.replace('|', '/')}"]
    assert (own["MachineMade"], own["Confidence"], own["Cluster"]) == ("True", "0.5", "3")
    own = said(merged(EMPTY.encode(), image(by_person=True, confidence=None)))[2]
    assert own["MachineMade"] == "False"
    assert "Confidence" not in own


def test_a_video_has_the_clusters_of_its_frames_which_are_taken_back_as_those_of_an_image():
    frames = [
        image("fish", cluster=3),
        image("cats", cluster=1, by_person=True, confidence=0.2),
        image("fish", cluster=3),
    ]
    first = merged(EXISTING.encode(), *frames, image("", cluster=-1))
    words, hierarchical, own = said(first)
    assert words == ["sea", "cats", "fish"]
    assert hierarchical == ["shoal|fish", "shoal|cats"]
    assert (own["MachineMade"], own["Confidence"], own["Cluster"]) == ("True", "0.2", "3, 1")
    assert merged(first, *frames) is None
    assert said(merged(first, image("dogs")))[:2] == (["sea", "cats", "dogs"], ["shoal|dogs"])
    assert said(merged(first, image("")))[:2] == (["sea", "cats"], [])


def test_what_a_sidecar_holds_stays():
    first = merged(EXISTING.encode(), image("fish")).decode()
    assert said(first)[0] == ["sea", "cats", "fish"]
    kept = merged(first.encode(), image("")).decode()
    strip = [ElementTree.canonicalize(text.partition("?>")[2]) for text in (f"<?x?>{EXISTING}", kept)]
    assert strip[0] == strip[1]
    for piece in ("one&#10;two&#9;", "b&#13;<", "<!-- by hand -->", '<?xpacket end="w"?>', 'id="W5M0Mp'):
        assert piece in first


def test_a_later_export_changes_the_keywords_of_shoal_alone():
    first = merged(EXISTING.encode(), image("fish"))
    assert merged(first, image("fish")) is None
    second = merged(first, image("whales", by_person=True))
    words, hierarchical, own = said(second)
    assert (words, hierarchical, own["MachineMade"]) == (["sea", "cats", "whales"], ["shoal|whales"], "False")
    had_it = merged(second, image("cats"))
    assert said(had_it)[0] == ["sea", "cats"]
    assert said(merged(had_it, image("dogs")))[0] == ["sea", "cats", "dogs"]


def test_a_program_that_made_attributes_of_properties_changes_nothing():
    own = f'xmlns:s="{SHOAL}" s:MachineMade="True" s:AddedSubject="fish" s:AddedHierarchicalSubject="shoal|fish"'
    bag = f'<d:subject xmlns:d="{DC}"><r:Seq><r:li>sea</r:li><r:li>fish</r:li></r:Seq></d:subject>'
    rewritten = f'{HEAD}<r:Description r:about="" {own}/><r:Description r:about="">{bag}</r:Description>{TAIL}'
    words, _, own = said(merged(rewritten.encode("utf-16"), image("dogs")))
    assert words == ["sea", "dogs"]
    assert own["AddedSubject"] == "dogs"
    assert b"s:MachineMade" not in merged(rewritten.encode(), image("dogs"))


@pytest.mark.parametrize("own", ["", f'<Description xmlns="{RDF}" about=""/>'])
def test_sparse_sidecars_are_filled(own):
    assert said(merged(f'<RDF xmlns="{RDF}">{own}</RDF>'.encode(), image()))[0] == ["cats"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "photo",
        "<a/>",
        EXISTING[:-60],
        f'<!DOCTYPE a [<!ENTITY b "c">]>{HEAD}{TAIL}',
        f"<a>{HEAD}{TAIL}{HEAD}{TAIL}</a>",
        f'{HEAD}<r:Description xmlns:dc="{DC}" dc:subject="sea"/>{TAIL}',
        f'{HEAD}<r:Description xmlns:dc="{DC}"><dc:subject>sea</dc:subject></r:Description>{TAIL}',
        "<a>" * 5_000 + "</a>" * 5_000,
    ],
    ids=range(9),
)
def test_what_is_not_xmp_is_not_touched(content):
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(UnmergeableError):
            merged(content.encode(encoding), image())


def test_sidecars_lie_beside_the_images_or_in_a_folder_of_their_own(decided, photos, tmp_path, capsys):
    folder, cluster = decided
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in photos.iterdir()}
    for into in (tmp_path / "out", photos):
        assert main(["export", str(folder), str(into), "--to", "xmp"]) == 0
        assert capsys.readouterr().out == f"sidecars     in {into}: 31 new\n"
        assert {path.name for path in into.glob("*.xmp")} == {f"{path.name}.xmp" for path in before} - {
            "blue-0.png.xmp"
        }
        assert said((into / "grey-3.png.xmp").read_bytes())[2]["Cluster"] == str(cluster["grey"])
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert {path.name for path in tmp_path.iterdir()} >= {"out", "photos"}
    result = Result.load(folder)
    with result.folder.alone():
        record(
            result,
            [
                {"do": "rename", "cluster": cluster["green"], "name": "leaves"},
                {"do": "move", "images": ["blue-2.png"], "cluster": -1},
            ],
        )
    assert main(["export", str(folder), str(photos), "--to", "xmp"]) == 0
    assert capsys.readouterr().out == f"sidecars     in {photos}: 9 added to, 22 up to date\n"
    assert said((photos / "green-3.png.xmp").read_bytes())[:2] == (["leaves"], ["shoal|leaves"])
    assert said((photos / "blue-2.png.xmp").read_bytes()) == ([], [], {})


def test_images_of_one_name_in_folders_that_look_alike_have_sidecars_of_their_own(tmp_path):
    files = {}
    for name in ("a/x.jpg", "../a/x.jpg"):
        path = (tmp_path / "here" / name).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        files[name] = [image(id=name, path=path)]
    side = tmp_path / "side"
    assert [*sidecar_paths(files, side)] == [side / "a/x.jpg.xmp", side / "a/x.jpg-2.xmp"]


def test_what_is_in_the_way_is_named_and_left(clusters, photos, tmp_path, capsys):
    other, long = tmp_path / "other", "x" * 247 + ".png"
    other.write_text("mine")
    (photos / "red-0.png.xmp").symlink_to(other)
    (photos / "red-1.png.xmp").mkdir()
    (photos / "red-2.png.xmp").write_text("photo")
    with (photos / "red-3.png.xmp").open("wb") as file:
        file.truncate(LARGEST + 1)
    (photos / "red-4.png").rename(photos / f"y{long}")
    (photos / "red-5.png").rename(photos / long)  # its sidecar's name just fits
    assert main(["export", str(clusters), str(photos), "--to", "xmp"]) == 0
    told = capsys.readouterr()
    assert "27 new" in told.out
    assert "5 sidecars not written" in told.err
    assert "red-0.png.xmp: there is something else of its name" in told.err
    assert "and 2 more" in told.err
    assert other.read_text() == "mine"
    assert (photos / "red-2.png.xmp").read_text() == "photo"
    assert (photos / f"{long}.xmp").is_file()


def test_no_link_leads_out_of_the_folder(template, tmp_path, monkeypatch, capsys):
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "sub").symlink_to(outside)
    found = [image(id=name, path=tmp_path / "photos" / name) for name in ("sub/a.jpg", "../sub/../b.jpg", "/sub/c.jpg")]
    monkeypatch.setattr("shoal.export.xmp.labelled_images", lambda _: [*found, image(id="../../sub/d.jpg")])
    assert main(["export", str(template / "clusters"), str(out), "--to", "xmp"]) == 0
    told = capsys.readouterr()
    assert "1 new" in told.out
    assert "a link leads from there to" in told.err
    assert not any(outside.iterdir())
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.xmp")) == ["image/image/sub/d.jpg.xmp"]


@pytest.mark.parametrize(("number", "left"), [(errno.EACCES, True), (errno.EINVAL, True), (errno.ENOSPC, False)])
def test_one_that_cannot_be_written_is_named_and_a_full_disk_ends_it(
    clusters, photos, monkeypatch, capsys, number, left
):
    real = tempfile.mkstemp

    def fail(prefix, **given):
        if prefix.startswith(".red-3"):
            raise OSError(number, os.strerror(number))
        return real(prefix=prefix, **given)

    monkeypatch.setattr(tempfile, "mkstemp", fail)
    assert main(["export", str(clusters), str(photos), "--to", "xmp"]) == (0 if left else 2)
    said = capsys.readouterr().err
    assert ("1 sidecar not written" in said) == left
    assert os.strerror(number).lower() in said.lower()
    assert not (photos / "red-3.png.xmp").exists()


def test_a_sidecar_keeps_its_permissions_and_an_empty_one_is_filled(clusters, photos):
    mine, empty = photos / "red-0.png.xmp", photos / "red-1.png.xmp"
    mine.write_text(EXISTING, encoding="utf-8")
    mine.chmod(0o600)
    empty.touch()
    assert main(["export", str(clusters), str(photos), "--to", "xmp"]) == 0
    assert mine.stat().st_mode & 0o777 == 0o600
    assert said(mine.read_bytes())[0][:2] == ["sea", "cats"]
    assert len(said(empty.read_bytes())[0]) == 1


def read(program, *args):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return subprocess.run([program, *args], capture_output=True, check=True).stdout.decode()


def test_exiftool_reads_it_back(decided, photos):
    folder, cluster = decided
    assert main(["export", str(folder), str(photos), "--to", "xmp"]) == 0
    files = [str(photos / name) for name in ("red-3.png.xmp", "blue-1.png.xmp", "grey-0.png.xmp")]
    odd, moved, grey = json.loads(read("exiftool", "-j", "-charset", "utf8", *files))
    assert (odd["Subject"], odd["MachineMade"]) == (ODD, True)
    assert odd["HierarchicalSubject"] == f"shoal|{ODD.replace('|', '/')}"
    assert (moved["Subject"], moved["MachineMade"], moved["Confidence"]) == (ODD, False, 1)
    assert grey["Subject"] == f"cluster {cluster['grey']:02}"


def test_exiv2_reads_it_back_and_writes_it_again(decided, photos):
    assert main(["export", str(decided[0]), str(photos), "--to", "xmp"]) == 0
    file = photos / "red-3.png.xmp"
    lines = read("exiv2", "-K", "Xmp.dc.subject", "-Pv", str(file)).splitlines()
    assert lines == [ODD]
    read("exiv2", "-M", "set Xmp.xmp.Rating 4", str(file))
    rewritten = merged(file.read_bytes(), image("dogs"))
    assert said(rewritten)[:2] == (["dogs"], ["shoal|dogs"])
    file.write_bytes(rewritten)
    assert read("exiv2", "-K", "Xmp.xmp.Rating", "-Pv", str(file)).strip() == "4"
    assert read("exiv2", "-K", "Xmp.shoal.MachineMade", "-Pv", str(file)).strip() == "True"
