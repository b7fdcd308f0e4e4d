"""Run a batch again and again, killing it at random moments; a process of its own.

    python -m tests.batch.killed MANIFEST MODEL OUT KILLS SEED

Everything is imported and loaded once; each run is a fork of that, so that the kills fall on the
work and not on imports. Prints one line of JSON: kills, finished runs, and the last folder.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

os.environ["TOKENIZERS_PARALLELISM"] = "false"
torch.set_num_threads(1)

from tests.batch.samples import asked_together  # noqa: E402

from freeprompt.batch import run, worker  # noqa: E402
from freeprompt.batch.worker import Worker  # noqa: E402


def forked(manifest: Path, model: Path, out: Path) -> int:
    """Start a run in a child; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run(asked_together(manifest, model, out))
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def main(manifest: Path, model: Path, base: Path, kills: int, rng: random.Random) -> None:
    setup = asked_together(manifest, model, base).setup
    editor = Worker(setup).editor
    worker.load = lambda *args, **options: editor  # type: ignore[assignment]
    began = time.monotonic()
    out = base / "0"
    _, status = os.waitpid(forked(manifest, model, out), 0)
    assert status == 0
    whole, done, runs = time.monotonic() - began, 0, 1
    finished = [str(out)]
    out = base / "1"
    while done < kills:
        pid = forked(manifest, model, out)
        time.sleep(rng.uniform(0, whole / 2))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            done += 1
            continue
        assert status == 0
        finished.append(str(out))
        runs += 1
        out = base / str(runs)
    _, status = os.waitpid(forked(manifest, model, out), 0)
    assert status == 0
    print(json.dumps({"kills": done, "finished": [*finished, str(out)]}))


if __name__ == "__main__":
    manifest, model, base, kills, seed = sys.argv[1:]
    main(Path(manifest), Path(model), Path(base), int(kills), random.Random(int(seed)))
