"""What `verify` found of submissions, in a file of whoever verifies: a line of JSON for each time.

A leaderboard takes it from there, and from no submission: who hands one in cannot write there.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from saliency_bench.core.errors import StorageError
from saliency_bench.store.durable import replace_file, storing
from saliency_bench.store.suite import Submission

#: Of a line: the digest of the submission, what it is called, and what came out.
_DIGEST, _NAME, _FOUND = "digests_sha256", "submission", "found"


def record(path: Path, submission: Submission, found: str) -> None:
    """Adds what came out for a submission, in words, to the file.

    Raises:
        StorageError: the file holds other things, or the disk refuses.
    """
    _read(path)
    line = json.dumps(
        {_DIGEST: submission.digest, _NAME: submission.name, _FOUND: found}, ensure_ascii=False
    )
    with storing(path):
        before = path.read_bytes() if path.is_file() else b""
    replace_file(path, before + f"{line}\n".encode())


def with_record(path: Path, submission: Submission) -> Submission:
    """The submission with what the file says of exactly these numbers; the last line about them counts.

    Raises:
        StorageError: the file holds other things, or cannot be read.
    """
    found = _read(path).get(submission.digest)
    return submission if found is None else replace(submission, verified=found)


def _read(path: Path) -> Mapping[str, str]:
    """What was found, by the digest of a submission; nothing where there is no file yet."""
    found = {}
    with storing(path):
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            of_line = json.loads(line)
            found[str(of_line[_DIGEST])] = str(of_line[_FOUND])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StorageError(
                f"{path}:{number} is no line that saliency-bench verify wrote. Restore the file, or give another: verified=FILE"
            ) from error
    return found
