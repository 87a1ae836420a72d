"""Reads files out of .deb, wheel, sdist and npm packages without installing them."""

import gzip
import io
import lzma
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A downloaded package."""

    path: Path

    def matching(self, pattern: str) -> list[bytes]:
        """The contents of the files whose whole path matches, in the order of their names."""
        files = {}
        if self.path.suffix == ".whl":
            with zipfile.ZipFile(self.path) as wheel:
                for name in wheel.namelist():
                    if re.fullmatch(pattern, name):
                        files[name] = wheel.read(name)
        else:
            debian = self.path.suffix == ".deb"
            stream = io.BytesIO(_debian_data(self.path.read_bytes())) if debian else None
            with tarfile.open(None if debian else self.path, fileobj=stream) as tar:
                for member in tar:
                    if member.isfile() and re.fullmatch(pattern, member.name):
                        content = tar.extractfile(member)
                        files[member.name] = content.read() if content else b""
        if not files:
            raise ValueError(f"No file of {self.path.name} matches {pattern}.")
        return [files[name] for name in sorted(files)]


def _debian_data(raw: bytes) -> bytes:
    # An ar archive: an 8-byte magic, then members with 60-byte headers, padded to even length.
    at = 8
    while at < len(raw):
        name, size = raw[at : at + 16].decode().strip(), int(raw[at + 48 : at + 58])
        body = raw[at + 60 : at + 60 + size]
        if name.startswith("data.tar.xz"):
            return lzma.decompress(body)
        if name.startswith("data.tar.gz"):
            return gzip.decompress(body)
        at += 60 + size + size % 2
    raise ValueError("The .deb has no data.tar.xz or data.tar.gz.")
