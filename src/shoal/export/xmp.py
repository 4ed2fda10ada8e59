"""XMP sidecars: a cluster as a keyword of each image, in a file beside it or in a folder of its own.

``photo.jpg`` has ``photo.jpg.xmp``, as darktable, digiKam and Immich name it. What a sidecar holds already stays; a
later export changes the keywords of shoal alone. A video has one sidecar, with the clusters of all its frames.

| property | |
|---|---|
| dc:subject | the keywords; the cluster is one of them |
| lr:hierarchicalSubject | the same below the keyword shoal: ``shoal|cats`` |
| shoal:MachineMade | True, or False where a person has said the cluster |
| shoal:Confidence | of the clustering, up to 1; of a video the least |
| shoal:Cluster | its number; of a video several |
| shoal:AddedSubject, shoal:AddedHierarchicalSubject | the keywords, unless the sidecar had them before |

No standard has a property for keywords that a machine has chosen: those of IPTC (2025.1) are about images that a
machine has made. Hence a namespace of our own. Source: XMP Specification, ISO 16684-1.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from xml.dom import minidom
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape, quoteattr

from shoal.errors import UserError
from shoal.export.images import LabelledImage, labelled_images
from shoal.files import DISK_FULL, atomic_write, real
from shoal.progress import ProgressCallback
from shoal.results.result import Result
from shoal.sort.names import Taken, safe_name

META, RDF = "adobe:ns:meta/", "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC, LR = "http://purl.org/dc/elements/1.1/", "http://ns.adobe.com/lightroom/1.0/"
SHOAL = "urn:shoal:xmp:1.0/"
XMLNS = "http://www.w3.org/2000/xmlns/"

KEYWORDS = (("subject", DC, "dc"), ("hierarchicalSubject", LR, "lr"))
"""Properties that hold keywords, with their namespaces and the usual prefixes of these."""

ROOT_KEYWORD = "shoal"
INDENT = "\n  "

LARGEST = 2**23
"""Bytes of a sidecar that is read; darktable's with hundreds of edits have less than one million."""

EMPTY = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="{META}" x:xmptk="shoal"><rdf:RDF xmlns:rdf="{RDF}">
 <rdf:Description rdf:about=""/>
</rdf:RDF></x:xmpmeta>
"""


class UnmergeableError(ValueError):
    """A sidecar is there that nothing can be added to; the message says why."""


@dataclass
class Written:
    """What has become of the sidecars."""

    new: int = 0
    merged: int = 0
    unchanged: int = 0
    left: list[tuple[Path, str]] = field(default_factory=list)
    """Sidecars that are not written or left as they are, and why."""


def export_xmp(result: Result, folder: Path, progress: ProgressCallback) -> Written:
    """Write a sidecar for each image that is in a cluster, and for each video with such frames.

    Sidecars of images in ``folder`` lie beside them, those of others in folders of their names. Of an image that is in
    no cluster any more, an earlier keyword is taken back.

    Raises:
        UserError: as ``labelled_images``; or the disk is full.
    """
    files = defaultdict[str, list[LabelledImage]](list)
    for image in labelled_images(result):
        files[image.video or image.id].append(image)
    goal, done = real(folder), Written()
    for number, (images, path) in enumerate(zip(files.values(), sidecar_paths(files, goal), strict=True)):
        progress(number, len(files))
        try:
            _write(images, path, goal, done)
        except UnmergeableError as error:
            done.left.append((path, str(error)))
    return done


def sidecar_paths(files: Mapping[str, Sequence[LabelledImage]], folder: Path) -> Iterator[Path]:
    """Where the sidecar of each file belongs, in a folder or below, by its name and what is an image of it."""
    taken, places = Taken(), dict[Path, Path]()
    for name, (image, *_) in files.items():
        file = image.video_path if image.video else image.path
        if file is None:
            *parents, own = (safe_name(part, "image") for part in name.split("/"))
            inside = "/".join(parents)
            yield folder / inside / taken.name(inside, f"{own}.xmp")
            continue
        place = places.setdefault(file.parent, real(file.parent))
        if folder in (place, *place.parents):
            yield place / f"{file.name}.xmp"
        else:
            parts = [part for part in PurePath(name).parts if part not in ("..", PurePath(name).anchor)]
            inside = "/".join(parts[:-1])
            yield folder / inside / taken.name(inside, f"{file.name}.xmp")


def _write(images: Sequence[LabelledImage], path: Path, folder: Path, done: Written) -> None:
    if folder not in (place := real(path.parent), *place.parents):
        raise UnmergeableError(f"a link leads from there to {place}, outside of the folder")
    old = _read(path)
    if old is None and not any(image.label for image in images):
        return
    new = merged(old or EMPTY.encode(), *images)
    if new is None:
        done.unchanged += 1
        return
    try:
        mode = None if old is None else path.stat().st_mode
        atomic_write(path, new, flush=bool(old))
        if mode is not None:
            path.chmod(stat.S_IMODE(mode))
    except UserError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno in DISK_FULL:
            raise
        raise UnmergeableError((cause.strerror or str(cause)).lower()) from error
    if old is None:
        done.new += 1
    else:
        done.merged += 1


def _read(path: Path) -> bytes | None:
    """The content of a sidecar; None where there is none."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise UnmergeableError("there is something else of its name")
        if found.st_size > LARGEST:
            raise UnmergeableError("it is too large for a sidecar")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnmergeableError((error.strerror or str(error)).lower()) from error


def merged(content: bytes, *images: LabelledImage) -> bytes | None:
    """A sidecar with what the result says of an image, or of the frames of a video; None if it says so already.

    Raises:
        UnmergeableError: it is not XMP.
    """
    try:
        if b"<!DOCTYPE" in content:
            raise UnmergeableError("it has a document type, which XMP does not have")
        document = minidom.parseString(content)
        if document.doctype is not None:
            raise UnmergeableError("it has a document type, which XMP does not have")
        before = "".join(_markup(document))
        sidecar = _Sidecar(document)
        sidecar.forget()
        if labelled := [image for image in images if image.label]:
            sidecar.say(labelled)
        after = "".join(_markup(document))
    except (ExpatError, ValueError, RecursionError, LookupError) as error:
        if isinstance(error, UnmergeableError):
            raise
        raise UnmergeableError("it cannot be read as XMP") from error
    return None if after == before else f'<?xml version="1.0" encoding="UTF-8"?>\n{after}\n'.encode()


class _Sidecar:
    """The properties of a sidecar. Whatever shoal has not said is left alone."""

    def __init__(self, document: minidom.Document) -> None:
        found = document.getElementsByTagNameNS(RDF, "RDF")
        if len(found) != 1:
            raise UnmergeableError("it cannot be read as XMP")
        self.document, self.rdf = document, found[0]
        self.prefix = f"{self.rdf.prefix}:" if self.rdf.prefix else ""
        self.descriptions = [each for each in _elements(self.rdf) if _name(each) == (RDF, "Description")]

    def forget(self) -> None:
        """Take back all that shoal has said before."""
        added = self._forget_own()
        for name, namespace, _ in KEYWORDS:
            words = added.get(f"Added{name[0].upper()}{name[1:]}", [])
            for bag in self._bags(name, namespace):
                for item in _elements(bag):
                    if _text(item) in words:
                        _remove(item)
                owner = bag.parentNode
                if not _elements(bag) and isinstance(owner, minidom.Element):
                    _remove(owner)

    def _forget_own(self) -> dict[str, list[str]]:
        """Take back what is in shoal's own namespace; programs that rewrite a sidecar make attributes of it."""
        found = dict[str, list[str]]()
        for description in self.descriptions:
            for element in [each for each in _elements(description) if each.namespaceURI == SHOAL]:
                items = [item for bag in _elements(element) for item in _elements(bag)]
                found[element.localName] = [*map(_text, items or [element])]
                _remove(element)
            for attribute in [*description.attributes.values()]:
                if attribute.namespaceURI == SHOAL:
                    found[attribute.localName] = [attribute.value]
                    description.removeAttributeNode(attribute)
        return found

    def say(self, images: Sequence[LabelledImage]) -> None:
        """Add what the result says."""
        said = {"MachineMade": [str(not all(image.by_person for image in images))]}
        said["Cluster"] = [", ".join(dict.fromkeys(str(image.cluster) for image in images))]
        if known := [image.confidence for image in images if image.confidence is not None]:
            said["Confidence"] = [f"{min(known):.6g}"]
        labels = [*dict.fromkeys(image.label for image in images)]
        ways = (labels, [f"{ROOT_KEYWORD}|{label.replace('|', '/')}" for label in labels])
        for (name, namespace, prefix), words in zip(KEYWORDS, ways, strict=True):
            if added := [word for word in words if self._add(name, namespace, prefix, word)]:
                said[f"Added{name[0].upper()}{name[1:]}"] = added
        for name, values in said.items():
            self._append_text(self._append(name, SHOAL, "shoal"), values)

    def _append_text(self, element: minidom.Element, values: Sequence[str]) -> None:
        """One value as text, several as a list."""
        if len(values) == 1:
            element.appendChild(self.document.createTextNode(values[0]))
            return
        bag = element.appendChild(self._element(RDF, f"{self.prefix}Bag"))
        for value in values:
            self._append_text(bag.appendChild(self._element(RDF, f"{self.prefix}li")), [value])

    def _bags(self, name: str, namespace: str) -> list[minidom.Element]:
        """The lists of keywords under a property."""
        found = [each for top in self.descriptions for each in _elements(top) if _name(each) == (namespace, name)]
        bags = [inner for each in found for inner in _elements(each)]
        if len(bags) != len(found) or any(top.hasAttributeNS(namespace, name) for top in self.descriptions):
            raise UnmergeableError(f"its {name} is not a list of keywords")
        return bags

    def _add(self, name: str, namespace: str, prefix: str, word: str) -> bool:
        """Add a keyword; whether it was not there."""
        bags = self._bags(name, namespace)
        if any(_text(each) == word for bag in bags for each in _elements(bag)):
            return False
        if not bags:
            bags = [self._element(RDF, f"{self.prefix}Bag")]
            self._append(name, namespace, prefix).appendChild(bags[0])
        self._append_text(bags[0].appendChild(self._element(RDF, f"{self.prefix}li")), [word])
        return True

    def _append(self, name: str, namespace: str, prefix: str) -> minidom.Element:
        """A new property, on a line of its own."""
        if not self.descriptions:
            self.descriptions = [self._element(RDF, "rdf:Description")]
            self.descriptions[0].setAttributeNS(XMLNS, "xmlns:rdf", RDF)
            self.descriptions[0].setAttributeNS(RDF, "rdf:about", "")
            self.rdf.appendChild(self.descriptions[0])
        element = self._element(namespace, f"{prefix}:{name}")
        element.setAttributeNS(XMLNS, f"xmlns:{prefix}", namespace)
        self.descriptions[0].appendChild(self.document.createTextNode(INDENT))
        self.descriptions[0].appendChild(element)
        return element

    def _element(self, namespace: str, name: str) -> minidom.Element:
        return self.document.createElementNS(namespace, name)


def _elements(parent: minidom.Node) -> list[minidom.Element]:
    return [each for each in parent.childNodes if isinstance(each, minidom.Element)]


def _name(element: minidom.Element) -> tuple[str | None, str | None]:
    return element.namespaceURI, element.localName


def _text(element: minidom.Element) -> str:
    return "".join(each.data for each in element.childNodes if isinstance(each, minidom.Text))


def _remove(element: minidom.Element) -> None:
    """Take an element away, with the line that it began."""
    before, parent = element.previousSibling, element.parentNode
    assert isinstance(parent, minidom.Element)  # roots of documents stay
    if isinstance(before, minidom.Text):  # read again, it is one text with what was before it
        before.data = before.data.removesuffix(INDENT)
    parent.removeChild(element)


def _markup(node: minidom.Node) -> Iterator[str]:
    """The markup of a node and all in it. ``minidom`` writes line breaks in attributes so that they read as spaces."""
    if isinstance(node, minidom.Element):
        attributes = "".join(f" {name}={quoteattr(value)}" for name, value in node.attributes.items())
        yield f"<{node.tagName}{attributes}{'' if node.childNodes else '/'}>"
    elif isinstance(node, minidom.Text):
        yield escape(node.data, {"\r": "&#13;"})
    elif isinstance(node, minidom.Comment):
        yield f"<!--{node.data}-->"
    elif isinstance(node, minidom.ProcessingInstruction):
        yield f"<?{node.target} {node.data}?>"
    for child in node.childNodes:
        yield from _markup(child)
    if isinstance(node, minidom.Element) and node.childNodes:
        yield f"</{node.tagName}>"
