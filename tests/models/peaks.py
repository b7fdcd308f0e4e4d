"""What tensors hold at the most, for tests: torch's own account of every allocation."""

from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Any) -> int:
    """Return the most memory that tensors held at one time during `work`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = found.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
