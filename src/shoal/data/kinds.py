"""What kind of file something is, by its name or by its first bytes, and whether shoal reads it.

A folder of photographs holds more than images. Every file is either read or told by its kind, with what to do to have
it read. A listing asks the suffix, and opens only those files whose suffix says nothing; decoding asks the content,
which is right where a file has the suffix of another kind.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from PIL import Image

HEAD = 512
"""Bytes from the start of a file that tell its kind."""

INSTALL = "pip install 'shoal[formats]'"


@cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    name: str
    """What one of them is called; ``many`` where several are called otherwise."""
    suffixes: str = ""
    """Its suffixes, in lower case and without the dot, separated by spaces."""
    reader: str = ""
    """Name of a format of Pillow, as whose ``formats`` it is opened."""
    package: str = ""
    """A package of the extra ``formats``, or ``video``, that reads it, by the name of its module."""
    remedy: str = ""
    """How to have it read nevertheless."""
    role: Literal["image", "other", "plain"] = "image"
    """An image; some other file that holds pictures perhaps; or one that plainly is none."""
    many: str = ""

    def count(self, n: int) -> str:
        """So many of them."""
        return f"{n} {self.many if self.many and n != 1 else self.name}"

    @property
    def is_read(self) -> bool:
        """Whether it is an image that shoal reads as it is installed here."""
        if self.role != "image":
            return False
        return _is_installed(self.package) if self.package else self.reader in _formats_of_pillow()

    @property
    def refusal(self) -> str:
        """Why it is not read, in a few words."""
        if self is VIDEO and not _is_installed(self.package):
            return f"{self.name}: pip install 'shoal[video]', then {self.remedy}"
        if self.package and self is not VIDEO:
            return f"{self.name}: {INSTALL}"
        return f"{self.name}: {self.remedy}" if self.remedy else self.name


_FRAMES, _AS_PNG, _AS_TIFF = "save frames of it as images", "export it as PNG", "export it as TIFF"

JPEG = Kind("JPEG", "jpg jpeg jpe jfif jif pjpeg pjp mpo jps ljpg", "JPEG", remedy="save it as PNG")
TIFF = Kind("TIFF", "tif tiff", "TIFF", remedy="save it as 8-bit grey or RGB")
HEIC = Kind("HEIC", "heic heif hif heics heifs", "HEIF", "pillow_heif")
AVIF = Kind("AVIF", "avif avifs", "AVIF", remedy="needs a Pillow built with AVIF")
JPEG_XL = Kind("JPEG XL", "jxl", "JXL", "pillow_jxl")
RAW = Kind(
    "camera raw",
    "dng nef nrw cr2 cr3 crw arw srf sr2 raf orf ori rw2 rwl raw pef ptx srw x3f mrw kdc dcr dcs k25 erf mef mos iiq "
    "3fr fff cap eip gpr rwz bay",
    package="rawpy",
)
DICOM = Kind("DICOM", "dcm dicom dic", package="pydicom")
PSD = Kind("PSD", "psd", "PSD")
TGA = Kind("TGA", "tga icb vda vst", "TGA")
DIB = Kind("DIB", "dib", "DIB")

JPEG_LS = Kind("JPEG-LS", "jls", remedy=_AS_PNG, role="other")
VIDEO = Kind(
    "video",
    "mp4 m4v mov qt avi mkv webm wmv flv mpg mpeg mpe m2v m2ts mts 3gp 3g2 ogv vob insv lrv asf rm rmvb mxf braw r3d",
    package="av",
    remedy="take frames of it with --every 2s",
    role="other",
    many="videos",
)
PACKED_VIDEO = Kind(
    "video in a compressed tar",
    remedy="unpack the archive, or pack it as .zip or .tar",
    role="other",
    many="videos in compressed tars",
)
PDF = Kind("PDF", "pdf", remedy="export its pages as images", role="other")
SVG = Kind("SVG", "svg svgz", remedy=_AS_PNG, role="other")
POSTSCRIPT = Kind("PostScript", "eps ps ai epsf epsi", remedy=_AS_PNG, role="other")
ARCHIVE = Kind(
    "archive",
    "zip tar tgz gz bz2 xz 7z rar zst lz4 lzma tbz2 txz iso cab dmg",
    remedy="give its path to read it, or unpack it",
    role="other",
    many="archives",
)
UNKNOWN = Kind("file of an unknown kind", role="other", many="files of unknown kinds")
DENIED = Kind("file that may not be opened", role="other", many="files that may not be opened")

TEXT = Kind(
    "text",
    "txt md rst log nfo ini cfg conf yaml yml toml tex bib srt vtt lst url webloc lnk gpx kml py js jsx css scss c h "
    "cpp hpp java sh bat ps1 r m go rs php map properties gitignore cls caption tags prompt",
    role="plain",
    many="texts",
)
TABLE = Kind("table", "csv tsv xls xlsx ods arff parquet arrow feather", role="plain", many="tables")
JSON = Kind("JSON", "json jsonl ndjson geojson ipynb", role="plain")
HTML = Kind("HTML", "html htm xhtml mht mhtml webarchive", role="plain")
XML = Kind("XML", "xml plist rdf", role="plain")
BROKEN = Kind("broken image", role="plain", many="broken images")
EMPTY = Kind("empty file", role="plain", many="empty files")
IRREGULAR = Kind("link, pipe or device", role="plain", many="links, pipes or devices")
HIDDEN = Kind("hidden file", role="plain", many="hidden files")
HIDDEN_FOLDER = Kind("hidden folder", role="plain", many="hidden folders")
OUTPUT = Kind("result of shoal", role="plain", many="results of shoal")
CLOSED_FOLDER = Kind("folder without permission", role="plain", many="folders without permission")

KINDS = (
    *(JPEG, TIFF, HEIC, AVIF, JPEG_XL, RAW, DICOM, PSD, TGA, DIB),
    Kind("PNG", "png apng", "PNG"),
    Kind("WebP", "webp", "WEBP"),
    Kind("BMP", "bmp", "BMP"),
    Kind("GIF", "gif", "GIF"),
    Kind("PPM", "ppm pgm pbm pnm pfm", "PPM"),
    Kind("JPEG 2000", "jp2 j2k jpx jpf j2c jpc jpm", "JPEG2000", remedy=_AS_PNG),
    Kind("QOI", "qoi", "QOI"),
    Kind("PCX", "pcx", "PCX"),
    Kind("SGI", "sgi rgb rgba bw", "SGI"),
    Kind("DDS", "dds", "DDS"),
    Kind("icon", "ico", "ICO", many="icons"),
    Kind("icon", "icns", "ICNS", many="icons"),
    *(JPEG_LS, VIDEO, PACKED_VIDEO, PDF, SVG, POSTSCRIPT, ARCHIVE, UNKNOWN, DENIED),
    Kind("JPEG XR", "jxr wdp hdp", remedy=_AS_PNG, role="other"),
    Kind("BPG", "bpg", remedy=_AS_PNG, role="other"),
    Kind("FLIF", "flif", remedy=_AS_PNG, role="other"),
    Kind("OpenEXR", "exr", remedy="save it as a 16-bit PNG or TIFF", role="other"),
    Kind("Radiance HDR", "hdr rgbe", remedy="save it as a 16-bit PNG or TIFF", role="other"),
    Kind("FITS", "fits fit fts", remedy=_AS_TIFF, role="other"),
    Kind("NIfTI", "nii", remedy="save its slices as images", role="other"),
    Kind("microscopy", "czi nd2 lif lsm oib oif vsi mrxs scn", remedy=_AS_TIFF, role="other"),
    Kind("whole-slide image", "svs ndpi", remedy="cut it into tiles", role="other", many="whole-slide images"),
    Kind(
        "editor's file",
        "psb xcf kra ora afphoto afdesign clip pdn pxd sai mdp cdr indd sketch fig xd cpt psp pspimage",
        remedy=_AS_PNG,
        role="other",
        many="editors' files",
    ),
    Kind("drawing", "wmf emf dwg dxf vsd vsdx odg drawio", remedy=_AS_PNG, role="other", many="drawings"),
    Kind("X bitmap", "xbm xpm", remedy=_AS_PNG, role="other", many="X bitmaps"),
    Kind("FLI animation", "fli flc", remedy=_FRAMES, role="other", many="FLI animations"),
    Kind("SunRaster", "ras", remedy=_AS_PNG, role="other"),
    Kind(
        "document",
        "doc docx odt rtf ppt pptx odp pages key numbers epub mobi azw3 djvu djv xps",
        remedy="export its pictures as images",
        role="other",
        many="documents",
    ),
    *(TEXT, TABLE, JSON, HTML, XML, BROKEN, EMPTY, IRREGULAR, HIDDEN, HIDDEN_FOLDER, OUTPUT, CLOSED_FOLDER),
    Kind("sidecar", "xmp aae pp3 dop cos on1 vrd", role="plain", many="sidecars"),
    Kind("sound", "mp3 wav flac ogg oga m4a aac wma opus amr aif aiff mid midi", role="plain", many="sounds"),
    Kind(
        "data file",
        "npy npz pt pth pkl pickle h5 hdf5 safetensors onnx ckpt mat tfrecord db sqlite sqlite3 lmdb mdb idx index "
        "faiss lrcat lrprev",
        role="plain",
        many="data files",
    ),
    Kind("font", "ttf otf woff woff2", role="plain", many="fonts"),
    Kind("program", "exe dll so dylib pyc pyo o a class jar apk msi deb rpm app", role="plain", many="programs"),
    Kind("file of the system", "thumbs.db ehthumbs.db desktop.ini", role="plain", many="files of the system"),
)
"""All kinds that are told apart. The last has whole names in place of suffixes."""

_BY_SUFFIX = {f".{suffix}": kind for kind in KINDS[:-1] for suffix in kind.suffixes.split()}
_BY_FILE_NAME = dict.fromkeys(KINDS[-1].suffixes.split(), KINDS[-1])
_BY_NAME = {kind.name: kind for kind in KINDS}
_BY_REFUSAL = {kind.refusal: kind for kind in KINDS if kind.package or kind.remedy}
_BY_REFUSAL |= dict.fromkeys((f"{VIDEO.name}: {_FRAMES}",), VIDEO)  # as earlier versions said

IMAGE_SUFFIXES = frozenset(suffix for suffix, kind in _BY_SUFFIX.items() if kind.role == "image")
"""Suffixes of images, in lower case with the dot."""

PASSED_FOLDERS = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", ".@__thumb"),  # network drives
        *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
        *("__macosx", "network trash folder", "temporary items"),  # macOS
    )
)
"""Folders, by their names in lower case, that a system fills with thumbnails or with what was deleted."""


def kind_of_name(name: str) -> Kind | None:
    """Tell the kind of a file by its name; None where the suffix says nothing."""
    kind = _BY_SUFFIX.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - a Path for each of a million is slow
    if kind is None or kind.role == "plain":
        return _BY_FILE_NAME.get(name[name.rfind("/") + 1 :].lower(), kind)
    return kind


def is_image_name(name: str) -> bool:
    """Tell an image file by its suffix, also one that is read only with a package that is not installed."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - as above


def kind_named(name: str) -> Kind:
    """Return the kind of a name; a new one where there is none, as for a folder that a system fills."""
    return _BY_NAME.get(name) or Kind(name, role="plain")


def refused_kind(reason: str) -> Kind | None:
    """Return the kind that something was skipped for; None if it was for some damage."""
    return _BY_REFUSAL.get(reason)


def damaged(kind: Kind, or_else: str) -> str:
    """The reason for a file that is broken, or is something else."""
    return f"a damaged {kind.name}, or {or_else}"


def kind_of_reason(reason: str) -> Kind:
    """Return the kind of what was skipped, as far as the reason tells it."""
    found = _DAMAGED.match(reason)
    return refused_kind(reason) or _BY_NAME.get(found[1] if found else "", BROKEN)


_DAMAGED = re.compile("a damaged (.+?), or ")


_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0\x10\0\0\0CR\x02", "camera raw"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"IIRO", "camera raw"),
    (b"IIRS", "camera raw"),
    (b"MMOR", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"FOVb", "camera raw"),
    (b"\0MRM", "camera raw"),
    (b"II\x1a\0\0\0HEAPCCDR", "camera raw"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS\0\x01", "PSD"),
    (b"8BPS\0\x02", "editor's file"),
    (b"gimp xcf", "editor's file"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\x01\xda\0\x01", "SGI"),
    (b"\x01\xda\0\x02", "SGI"),
    (b"\x01\xda\x01\x01", "SGI"),
    (b"\x01\xda\x01\x02", "SGI"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"\xd7\xcd\xc6\x9a", "drawing"),
    (b"/* XPM */", "X bitmap"),
    (b"\x59\xa6\x6a\x95", "SunRaster"),
    (b"AT&TFORM", "document"),
    (b"\xd0\xcf\x11\xe0", "document"),
    (b"{\\rtf", "document"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"FLV\x01", "video"),
    (b"\0\0\x01\xba", "video"),
    (b"\0\0\x01\xb3", "video"),
    (b"0&\xb2u\x8ef\xcf\x11", "video"),
    (b"\x06\x0e+4\x02\x05\x01\x01", "video"),
    (b".RMF", "video"),
    (b"DKIF", "video"),
    (b"PK\x03\x04", "archive"),
    (b"\x1f\x8b", "archive"),
    (b"BZh", "archive"),
    (b"\xfd7zXZ\0", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "archive"),
    (b"Rar!\x1a\x07", "archive"),
    (b"ID3", "sound"),
    (b"OggS", "sound"),
    (b"fLaC", "sound"),
    (b"\x93NUMPY", "data file"),
    (b"PAR1", "table"),
    (b"\x89HDF\r\n", "data file"),
    (b"SQLite format 3", "data file"),
    (b"\x7fELF", "program"),
)
"""How files begin; the first that fits."""

_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), HEIC),
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    b"crx ": RAW,
}
_ATOMS = (b"moov", b"mdat", b"wide")  # with which a QuickTime movie without brands begins
_SYNC = b"GGG"  # at the beginning of each packet of an MPEG transport stream, which may have a time before it
_GENERAL_BRANDS = (b"mif1", b"msf1", b"miaf")  # of images whose coding only the other brands tell
_PCX = re.compile(rb"\n[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]", re.DOTALL)
_PPM = re.compile(rb"P([1-6f]|F)\s")
_MARKUP = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(!doctype html|html|svg|\?xml)", re.IGNORECASE)
_TEXT_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")


def kind_of_content(head: bytes) -> Kind | None:
    """Tell the kind of a file by its first ``HEAD`` bytes; None where they say nothing."""
    if head[:3] == b"\xff\xd8\xff":
        return JPEG_LS if _is_jpeg_ls(head) else JPEG
    if head[4:8] == b"ftyp":
        return _kind_of_brands(head)
    if head[:4] == b"RIFF":
        return {b"WEBP": _BY_NAME["WebP"], b"AVI ": VIDEO}.get(head[8:12], _BY_NAME["sound"])
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return _BY_NAME[name]
    if head[128:132] == b"DICM":
        return DICOM
    is_stream = head[4:8] in _ATOMS or _SYNC in (head[0:377:188], head[4:389:192])
    return _kind_of_weak_magic(head) or (VIDEO if is_stream else _kind_of_text(head))


def _is_jpeg_ls(head: bytes) -> bool:
    """Tell JPEG-LS from JPEG by its frame header, before which there may be other segments."""
    at = 2
    while head[at : at + 1] == b"\xff" and b"\xe0" <= head[at + 1 : at + 2] <= b"\xef":
        at += 2 + int.from_bytes(head[at + 2 : at + 4])
    return head[at : at + 2] == b"\xff\xf7"


def _kind_of_brands(head: bytes) -> Kind:
    """Tell the kind of a file in ISO's base format by its major brand, or else by those it is compatible with."""
    end = min(int.from_bytes(head[:4]), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    if brands[0] in _BRANDS or (brands[0] in _GENERAL_BRANDS and known):
        return known[0]
    return HEIC if brands[0] in _GENERAL_BRANDS else VIDEO


def _kind_of_weak_magic(head: bytes) -> Kind | None:
    """Tell kinds whose first bytes are so few that others have them as well."""
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return _BY_NAME["BMP"]
    if _PPM.match(head):
        return _BY_NAME["PPM"]
    if _PCX.match(head):
        return _BY_NAME["PCX"]
    if head[:4] == b"icns":
        return _BY_SUFFIX[".icns"]
    if head[:4] == b"\0\0\x01\0" and b"\0" < head[4:5] <= b"\x40" and head[5:6] == head[9:10] == b"\0":
        return _BY_SUFFIX[".ico"]
    size = int.from_bytes(head[:4], "little")
    planes = head[8:10] if size == 12 else head[12:14]
    return DIB if size in (12, 40, 52, 56, 64, 108, 124) and planes == b"\x01\0" else None


def _kind_of_text(head: bytes) -> Kind | None:
    if markup := _MARKUP.match(head):
        if b"<svg" in head.lower():
            return SVG
        return XML if markup[1] == b"?xml" else HTML
    if not head or _TEXT_CONTROLS.search(head):
        return None
    try:
        head[:-3].decode()  # without what may be the beginning of a letter
    except UnicodeDecodeError:
        return None
    return JSON if head.lstrip()[:1] in (b"{", b"[") else TEXT


@cache
def _formats_of_pillow() -> frozenset[str]:
    Image.init()  # AVIF and JPEG 2000 are not in every build of Pillow
    return frozenset(Image.OPEN)


@cache
def readers() -> tuple[str, ...]:
    """The packages of the extra ``formats`` that are installed: with others, other files are read."""
    packages = {kind.package for kind in KINDS if kind.package and kind is not VIDEO} | {"tifffile", "imagecodecs"}
    return tuple(sorted(filter(_is_installed, packages)))
