"""Files and archives by their whole path, on this machine or on the Hub, once that is allowed."""

import contextlib
import zipfile
from collections.abc import Iterator
from typing import Any

from data.errors import one_line
from data.images import MAX_FILE_BYTES, ImageError, Status

# Archives kept open; a data set may have thousands. To open one on the Hub takes several requests.
_MOST_OPEN = 8


def read_remote(path: str) -> bytes:
    """The bytes of a file of the Hub (`hf://...`).

    Raises:
        ImageError: they cannot be had.
    """
    with _explain(), _open(path) as file:
        return _limit(file.read(MAX_FILE_BYTES + 1))


class Archives:
    """Members of zip archives; those read last stay open."""

    def __init__(self) -> None:
        self._files: dict[str, zipfile.ZipFile] = {}

    def read(self, container: str, member: str) -> bytes:
        """The bytes of one member.

        Raises:
            ImageError: they cannot be had.
        """
        with _explain():
            try:
                with self._take(container).open(member) as file:
                    return _limit(file.read(MAX_FILE_BYTES + 1))
            except ImageError:
                raise
            except KeyError:
                message = f"its archive has no {member}"
                raise ImageError(Status.DECODE_ERROR, message) from None
            except BaseException:
                # The line may have been cut: the next image begins with a new one.
                if container in self._files:
                    self._drop(container)
                raise

    def close(self) -> None:
        """Close all of them."""
        for container in list(self._files):
            self._drop(container)

    def _take(self, container: str) -> zipfile.ZipFile:
        if container not in self._files:
            if len(self._files) >= _MOST_OPEN:
                self._drop(next(iter(self._files)))
            self._files[container] = zipfile.ZipFile(_open(container))
        return self._files[container]

    def _drop(self, container: str) -> None:
        archive = self._files.pop(container)
        inner = archive.fp
        with contextlib.suppress(OSError):
            archive.close()
            # A file that was handed to ZipFile is not closed by it.
            if inner is not None:
                inner.close()


def _open(path: str) -> Any:
    if "://" not in path:
        return open(path, "rb")
    # datasets' own opener: it knows the Hub and its tokens, and tries again.
    from datasets.utils.file_utils import xopen

    return xopen(path, "rb")


def _limit(content: bytes) -> bytes:
    if len(content) > MAX_FILE_BYTES:
        raise ImageError(Status.TOO_LARGE, f"over the {MAX_FILE_BYTES:,} bytes allowed")
    return content


@contextlib.contextmanager
def _explain() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(Status.DECODE_ERROR, "the file is not there", reached=False) from error
    except zipfile.BadZipFile as error:
        raise ImageError(Status.DECODE_ERROR, f"its archive is damaged: {error}") from error
    except Exception as error:  # whatever a file system of fsspec raises
        reason = one_line(error)
        message = f"cannot be read: {reason}"
        raise ImageError(Status.DECODE_ERROR, message, reached=False) from error
