"""How far a run is, read from its folder while it goes on."""

import re
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

from freeprompt.batch.store import Store

RECENT = 200  # groups of each shard that the rate is taken from


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a run is.

    Attributes:
        done: Edits with a picture.
        failed: Edits with an error.
        total: Edits there will be.
        reasons: Number of failed edits by reason, the commonest first.
        rate: Edits a second of late, all shards together; 0 if nothing was made.
        sample_forwards: Samples that the denoiser has evaluated for what is done.
        seconds: Seconds that workers have spent on it.
        bytes: Size of the pictures.
    """

    done: int
    failed: int
    total: int
    reasons: dict[str, int]
    rate: float
    sample_forwards: float
    seconds: float
    bytes: int

    @property
    def left(self) -> int:
        """Edits that are neither done nor failed."""
        return max(0, self.total - self.done - self.failed)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at the rate of late; None if nothing was made yet."""
        return self.left / self.rate if self.rate else None


def look(folder: Path) -> Status:
    """Read how far a run is.

    Raises:
        ConfigError: if the folder is none of a run.
    """
    store = Store(folder)
    about = store.about()
    reasons: dict[str, str] = {}
    done: set[str] = set()
    forwards = seconds = rate = 0.0
    size = 0
    for path in store.parts():
        recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        for commit in store.commits(path):
            recent.append((len(commit["rows"]), commit.get("took", 0.0)))
            for record in commit["rows"]:
                name = record["id"]
                if record["error"]:
                    reasons[name] = reason(record["error"])
                    continue
                done.add(name)
                forwards += record["sample_forwards"]
                seconds += record["seconds"]
                size += record["bytes"]
        took = sum(seconds for _, seconds in recent)
        rate += sum(count for count, _ in recent) / took if took else 0.0
    failed = Counter(why for name, why in reasons.items() if name not in done)
    return Status(
        done=len(done),
        failed=failed.total(),
        total=about.get("edits", len(done)),
        reasons=dict(failed.most_common()),
        rate=rate,
        sample_forwards=forwards,
        seconds=seconds,
        bytes=size,
    )


def reason(error: str) -> str:
    """Return what errors of one kind have in common: names and numbers are left out."""
    short = error.partition(". ")[0]
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'", "'...'", short))
