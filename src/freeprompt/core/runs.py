"""Several runs in one pass of the network: each has its own rows, controls and step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from freeprompt.core.attention import Call
from freeprompt.core.control import Control
from freeprompt.core.run import Run
from freeprompt.core.sites import Site


@dataclass(frozen=True)
class Part:
    """One run's share of a batch.

    Attributes:
        run: The run, or None for rows that nothing acts on.
        rows: Its batch rows.
    """

    run: Run | None
    rows: slice

    def live(self, site: Site) -> tuple[Control, ...]:
        """Return its controls that are live at a site."""
        return () if self.run is None else self.run.live.get(site, ())


class Runs:
    """Stands where a `Run` does, and hands every run its own rows of the batch.

    A control sees the batch that it would see if its run were alone, so no control needs to know
    of the others.

    Args:
        known: All sites of the model.

    Attributes:
        count: Number of batch rows of all runs.
        latent_size: (height, width) of the latent grid in this pass.
        hits: Sites reached in this pass at which something is live.
        live: Controls by site, of all runs.
    """

    def __init__(self, known: Sequence[Site]):
        self.sites = frozenset(known)
        self._parts: tuple[Part, ...] = ()
        self._publish((), (0, 0))

    @contextmanager
    def at(
        self, runs: Sequence[tuple[Run | None, int]], latent_size: tuple[int, int]
    ) -> Iterator[None]:
        """Say who is in the next pass.

        Args:
            runs: Each run, held at its own step, with its number of batch rows, in their order.
            latent_size: (height, width) of the latents, the same for all.
        """
        ends = list(accumulate(count for _, count in runs))
        places = [slice(end - count, end) for end, (_, count) in zip(ends, runs, strict=True)]
        parts = [Part(run, place) for (run, _), place in zip(runs, places, strict=True)]
        self._publish(parts, latent_size)
        try:
            yield
        finally:
            self._publish((), (0, 0))

    def attended(self, site: Site, call: Call) -> Tensor:
        """Compute attention, every run's rows under its own controls."""
        self.hits.append(site)
        return torch.cat([self._attended(part, site, call) for part in self._parts])

    def _attended(self, part: Part, site: Site, call: Call) -> Tensor:
        mask = call.mask
        if mask is not None and mask.dim() == call.q.dim() and len(mask) == len(call.q):
            mask = mask[part.rows]
        own = call.with_(q=call.q[part.rows], k=call.k[part.rows], v=call.v[part.rows], mask=mask)
        if part.run is None or not part.live(site):
            return own.fused()
        return part.run.attended(site, own.with_(run=part.run))

    def featured(self, site: Site, out: Tensor) -> Tensor:
        """Return what becomes of a feature map, every run's rows under its own controls."""
        if not self.live[site]:
            return out
        parts = [
            out[part.rows]
            if part.run is None or not part.live(site)
            else part.run.featured(site, out[part.rows])
            for part in self._parts
        ]
        return torch.cat(parts)

    def _publish(self, parts: Sequence[Part], latent_size: tuple[int, int]) -> None:
        self._parts, self.latent_size = tuple(parts), latent_size
        self.hits: list[Site] = []
        self.count = parts[-1].rows.stop if parts else 0
        self.live = {
            site: tuple(control for part in parts for control in part.live(site))
            for site in self.sites
        }
