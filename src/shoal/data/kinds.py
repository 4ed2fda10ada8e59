"""Kinds of files by their names, and whether shoal reads them.

A folder of photographs holds more than images. Every file is either read or counted by its kind, with what to do to
have it read. A listing asks the suffix, and opens only those files whose suffix says nothing; decoding asks the content
(``content.py``), which is right where a file has the suffix of another kind.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from PIL import Image

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
UNSEEN = Kind("file that was not reached", many="files that were not reached")
"""Taken for an image, whose reading then says why it is none."""
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

BY_SUFFIX = {f".{suffix}": kind for kind in KINDS[:-1] for suffix in kind.suffixes.split()}
_BY_FILE_NAME = dict.fromkeys(KINDS[-1].suffixes.split(), KINDS[-1])
BY_NAME = {kind.name: kind for kind in KINDS}
_BY_REFUSAL = {kind.refusal: kind for kind in KINDS if kind.package or kind.remedy}
_BY_REFUSAL |= dict.fromkeys((f"{VIDEO.name}: {_FRAMES}",), VIDEO)  # as earlier versions said

IMAGE_SUFFIXES = frozenset(suffix for suffix, kind in BY_SUFFIX.items() if kind.role == "image")
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
    kind = BY_SUFFIX.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - a Path for each of a million is slow
    if kind is None or kind.role == "plain":
        return _BY_FILE_NAME.get(name[name.rfind("/") + 1 :].lower(), kind)
    return kind


def is_image_name(name: str) -> bool:
    """Tell an image file by its suffix, also one that is read only with a package that is not installed."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - as above


def kind_named(name: str) -> Kind:
    """Return the kind of a name; a new one where there is none, as for a folder that a system fills."""
    return BY_NAME.get(name) or Kind(name, role="plain")


def refused_kind(reason: str) -> Kind | None:
    """Return the kind that something was skipped for; None if it was for some damage."""
    return _BY_REFUSAL.get(reason)


def damaged(kind: Kind, or_else: str) -> str:
    """The reason for a file that is broken, or is something else."""
    return f"a damaged {kind.name}, or {or_else}"


def kind_of_reason(reason: str) -> Kind:
    """Return the kind of what was skipped, as far as the reason tells it."""
    found = _DAMAGED.match(reason)
    return refused_kind(reason) or BY_NAME.get(found[1] if found else "", BROKEN)


_DAMAGED = re.compile("a damaged (.+?), or ")


@cache
def _formats_of_pillow() -> frozenset[str]:
    Image.init()  # AVIF and JPEG 2000 are not in every build of Pillow
    return frozenset(Image.OPEN)


@cache
def readers() -> tuple[str, ...]:
    """The packages of the extra ``formats`` that are installed: with others, other files are read."""
    packages = {kind.package for kind in KINDS if kind.package and kind is not VIDEO} | {"tifffile", "imagecodecs"}
    return tuple(sorted(filter(_is_installed, packages)))
