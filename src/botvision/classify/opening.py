"""Open shards and their indexes: by local path or http(s), and by nothing that runs a command."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit

RETRIES = 5  # of a connection, or of a server that says it is busy
TIMEOUT = (30, 300)  # s to connect, and between two pieces
PIECE = 2**20  # bytes


def is_remote(url: str) -> bool:
    """Whether it is opened over a network."""
    return scheme_of(url) in {"http", "https"}


def scheme_of(url: str) -> str:
    """What stands before a URL's colon, in lower case; nothing for a path, `C:` included."""
    found = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]+):", url)
    return found[1].lower() if found else ""


def checked(url: str, *, by: str, folder: Path | None = None) -> str:
    """A shard's or index's place, refused unless it is a local path or http(s).

    `pipe:` and others, which WebDataset would hand to a shell or to another program, run what a stranger's file says.

    Args:
        url: as it was found.
        by: what names it, for the error.
        folder: of the index, in which alone a `file:` URL may lead.

    Returns:
        A path or an http(s) URL.

    Raises:
        ValueError: any other scheme.
    """
    scheme = scheme_of(url)
    if scheme in {"", "http", "https"}:
        return url
    if scheme == "file" and folder is not None:
        parts = urlsplit(url.strip())
        path = folder / unquote(parts.path)  # an absolute one stays as it is
        if parts.netloc in {"", "localhost"} and path.resolve().is_relative_to(folder.resolve()):
            return str(path)
        raise ValueError(
            f"{by} names {url[:80]!r}, which lies outside its own folder {folder}; name shards beside the index, or by "
            "their path"
        )
    raise ValueError(
        f"{by} names {url[:80]!r}: shards are opened by local path, http or https alone, never by {scheme}:, which "
        "could run commands; download them and give their paths"
    )


def beside(source: str, url: str) -> str:
    """A shard that an index at `source` lists: relative to the index, on its own server where that is remote."""
    if not isinstance(url, str):
        raise ValueError(f"{source} names {url!r} for a shard; it needs a path or URL")
    if is_remote(source):
        try:
            joined = urljoin(source, url)
        except ValueError as error:
            raise ValueError(f"{source} names {url[:80]!r}, which is no URL: {error}; write the index anew") from error
        place = checked(joined, by=source)
        if not is_remote(place):
            raise ValueError(f"{source} names {url[:80]!r}, which is not on a server: an index behind a URL names URLs")
        return place
    folder = Path(source).parent
    place = checked(url, by=source, folder=folder)
    relative = not is_remote(place) and not Path(place).is_absolute() and str(folder) != "."
    return f"{folder}/{place}" if relative else place


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """A path or http(s) URL as a stream of bytes; never through a shell.

    Raises:
        OSError: it is not there, or broke off.
    """
    if not is_remote(url):
        with Path(url).open("rb") as stream:
            yield stream
        return
    import requests
    from requests.adapters import HTTPAdapter, Retry

    again = Retry(RETRIES, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
    with requests.Session() as session:
        for scheme in ("http://", "https://"):  # a redirection to any other scheme finds no adapter
            session.mount(scheme, HTTPAdapter(max_retries=again))
        with session.get(url, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            with io.BufferedReader(Pieces(response.iter_content(PIECE)), PIECE) as stream:
                yield stream


class Pieces(io.RawIOBase):
    """An iterator of bytes as a stream to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.rest = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As much as there is of a piece, or as fits."""
        while not self.rest:
            piece = next(self.pieces, None)
            if piece is None:
                return 0
            self.rest = piece
        taken, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)
