"""The record of verified submissions: a file with a line of JSON for each run of `verify`.

It belongs to the person who verifies. A leaderboard reads results from it and not from submissions, whose authors cannot
write to it.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from saliency_bench.core.errors import StorageError
from saliency_bench.store.durable import replace_file, storing
from saliency_bench.store.suite import Submission

#: The keys of a line: the digest of the submission, its name, and the result.
_DIGEST, _NAME, _RESULT = "digests_sha256", "submission", "found"


def record(path: Path, submission: Submission, result: str) -> None:
    """Adds the result for a submission, in words, to the file.

    Raises:
        StorageError: the file has other content, or the disk refuses.
    """
    _read(path)
    line = json.dumps(
        {_DIGEST: submission.digest, _NAME: submission.name, _RESULT: result}, ensure_ascii=False
    )
    with storing(path):
        before = path.read_bytes() if path.is_file() else b""
    replace_file(path, before + f"{line}\n".encode())


def with_record(path: Path, submission: Submission) -> Submission:
    """Returns the submission with the recorded result for exactly these numbers; the last line about them counts.

    Raises:
        StorageError: the file has other content, or cannot be read.
    """
    result = _read(path).get(submission.digest)
    return submission if result is None else replace(submission, verified=result)


def _read(path: Path) -> Mapping[str, str]:
    """Reads the results by the digest of a submission; empty if there is no file yet."""
    results = {}
    with storing(path):
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            results[str(fields[_DIGEST])] = str(fields[_RESULT])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StorageError(
                f"{path}:{number} is no line that saliency-bench verify wrote. Restore the file, or give another: verified=FILE"
            ) from error
    return results
