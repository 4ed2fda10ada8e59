"""Archives of a few members."""

import io
import tarfile
import zipfile

MODES = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}


def write_zip(path, members, method=zipfile.ZIP_DEFLATED):
    """Members by name: bytes; a list of pairs may name one twice."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, content)
    return path


def write_tar(path, members, **options):
    """Members by name: bytes, or a whole ``TarInfo``; a list of pairs may name one twice."""
    with tarfile.open(path, MODES[path.suffix], **options) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path
