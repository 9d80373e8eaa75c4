"""Downloads: several mirrors, checked, atomic, kept in the platform's cache folder."""

import os
from collections.abc import Sequence
from pathlib import Path

import pooch
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import HTTPError, RequestException, Timeout

from triptych.data.registry import File, lookup
from triptych.errors import UserError


def cache_folder(name: str, cache: Path | None = None) -> Path:
    """Where the downloaded files of a data set are kept, whether or not they are there yet."""
    return Path(cache or pooch.os_cache("triptych")) / name


def fetch(name: str, mirrors: Sequence[str] | None = None, cache: Path | None = None) -> Path:
    """Download what is missing or damaged of a data set, and return the folder of its .gz files.

    Each file is tried at each mirror in turn. It gets its name only when it is complete and its
    md5 is right. An embedded data set downloads nothing.

    Raises:
        UserError: unknown data set, no mirror has a good copy, or the cache cannot be written.
    """
    source = lookup(name)
    if not source.files:
        return embedded_folder()
    folder = cache_folder(name, cache)
    faults: dict[str, str] = {}
    for file in source.files:
        # A mirror that failed once goes to the end of the queue: its timeout is not paid per file.
        queue = sorted(mirrors or source.mirrors, key=lambda mirror: mirror in faults)
        if not any(_download(file, mirror, folder, faults) for mirror in queue):
            told = ", ".join(f"{mirror} ({fault})" for mirror, fault in faults.items())
            raise UserError(
                f"{file.name}.gz of {name} could not be downloaded from {told}: check the network, "
                "or get the files by other means and name their folder with --data"
            )
    return folder


def embedded_folder() -> Path:
    """The folder of scikit-learn's own data files."""
    import sklearn

    return Path(sklearn.__file__).parent / "datasets" / "data"


def _download(file: File, mirror: str, folder: Path, faults: dict[str, str]) -> bool:
    """True when the file is in the folder afterwards; else the reason is in `faults`."""
    url = f"{mirror.rstrip('/')}/{file.name}.gz"
    try:
        got = pooch.retrieve(url, f"md5:{file.md5}", f"{file.name}.gz", folder, progressbar=True)
        if os.stat(got).st_uid == os.geteuid():  # pooch leaves it to its owner, a cache is shared
            os.chmod(got, 0o644)
    except (RequestException, ValueError) as error:
        faults[mirror] = _reason(error)
        return False
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): make room there, set "
            "XDG_CACHE_HOME to another folder, or name a folder with the files with --data"
        ) from error
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, Timeout):
        return "no answer in time"
    if isinstance(error, NoConnection):
        return "no connection"
    if isinstance(error, RequestException):
        return "broken off"
    return "wrong md5" if "hash" in str(error) else str(error)
