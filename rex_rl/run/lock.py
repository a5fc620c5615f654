"""One process per run: otherwise a job submitted twice would write metrics and checkpoints twice into one folder."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from rex_rl.errors import ConfigError

LOCK = ".lock"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock a run's folder, which is made where it is missing. The kernel releases it when the process ends.

    A file system without locks, such as Lustre mounted without `flock`, gives a warning.

    Raises:
        ConfigError: another process holds the lock, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")  # not "w": the holder's text has to stay readable
    except OSError as error:
        raise ConfigError(f"run_root = {folder.parent}: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(f"{folder}: {file.read().strip()} works on this run; wait, or take a new name") from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s): see that no second job works on it", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
