"""What the processes of one run, which a launcher started, say when one of them ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState


@contextmanager
def one_sentence_if_another_process_ends(folder: Path | None) -> Iterator[None]:
    """They learn of it by a broken connection, or by the launcher's SIGTERM, whichever comes first.

    Said by the first process, and in case that is the one that ended, by the second; not before they know the folder, since
    what ends the first until then it says itself.
    """
    state = PartialState()
    speaks = folder is not None and state.process_index < 2
    sentence = (
        "Another process of this run has ended, or this one was told to; what it had to say stands above. "
        f"The same command with --resume --output-dir {folder} goes on from the last checkpoint"
    )

    def end(signum, frame):
        raise ConnectionError(sentence)

    previous = signal.signal(signal.SIGTERM, end) if speaks else None
    try:
        yield
    except RuntimeError as error:
        if state.num_processes == 1 or not any(word in str(error) for word in ("Connection closed", "reset by peer", "NCCL")):
            raise
        raise (ConnectionError(sentence) if speaks else SystemExit(1)) from error
    finally:
        if speaks:
            signal.signal(signal.SIGTERM, previous)
