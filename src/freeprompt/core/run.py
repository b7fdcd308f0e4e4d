"""The state of one attached run: which controls are live now, and what has fired so far."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from freeprompt.core.attention import Call, attend
from freeprompt.core.control import Control
from freeprompt.core.rows import Rows
from freeprompt.core.sites import Site, describe
from freeprompt.errors import ControlNeverFired, UnsupportedModel


@dataclass(frozen=True)
class Planned:
    """A control with its selection resolved to the sites of one model."""

    control: Control
    sites: frozenset[Site]


def _planned(control: Control, known: Sequence[Site], name: str) -> Planned:
    sites = frozenset(control.sites.select(known, name))
    kind = type(control)
    features = kind.feature is not Control.feature
    attention = kind.qkv is not Control.qkv or kind.probs is not Control.probs
    if kind.probs is not Control.probs and not (control.needs_probs or control.edits_probs):
        raise ControlNeverFired(
            f"{kind.__name__} overrides probs but sets neither needs_probs nor edits_probs, so its "
            "probs would never be called. Set needs_probs to look at maps, edits_probs to edit."
        )
    for site in sites:
        if not (features if site.kind == "feature" else attention):
            raise ControlNeverFired(
                f"{kind.__name__} does nothing at {site.kind} sites, but was given "
                f"{control.sites.expression!r}, which selects {site.name}."
            )
    control.check(sites)
    return Planned(control, sites)


class Run:
    """Live controls by site, set for each step by whoever runs the loop; never counted.

    Attributes:
        rows: What each batch row is.
        step: Index of the current step.
        latent_size: (height, width) of the latent grid in the current step.
        fired: (step, site) pairs at which an editing control acted, with the number of times.
        hits: Sites reached in the current step. A fresh list each step, so that compiled code
            which appends to it meets the same guard every time.
    """

    def __init__(self, controls: Sequence[Control], rows: Rows, known: Sequence[Site], name: str):
        self.rows = rows
        self.step = -1
        self.latent_size = (0, 0)
        self.fired: Counter[tuple[int, Site]] = Counter()
        self.hits: list[Site] = []
        self.live: dict[Site, tuple[Control, ...]] = {}
        self._plan = [_planned(control, known, name) for control in controls]
        self._reached: set[int] = set()
        self._acted: set[int] = set()
        self._known, self._name = known, name
        self.set_live(())

    @property
    def count(self) -> int:
        """Number of batch rows."""
        return len(self.rows)

    @property
    def sites(self) -> frozenset[Site]:
        """All sites that some control wants."""
        return frozenset().union(*(planned.sites for planned in self._plan))

    @contextmanager
    def at(self, step: int, latent_size: tuple[int, int]) -> Iterator[None]:
        """Hold the run at `step` for one pass of the network, and book what fired."""
        live = {i: p for i, p in enumerate(self._plan) if step in p.control.window}
        self.step, self.latent_size, self.hits = step, latent_size, []
        self.set_live(live.values())
        try:
            yield
            self._book(live)
        finally:
            self.set_live(())  # whoever calls the network between steps gets it unedited

    def set_live(self, live: Iterable[Planned]) -> None:
        """Publish the live controls of every site, as tuples that compiled code can guard on."""
        live = tuple(live)
        self.live = {site: tuple(p.control for p in live if site in p.sites) for site in self.sites}

    def attended(self, site: Site, call: Call) -> Tensor:
        """Compute attention under the controls that are live at its site."""
        self.hits.append(site)
        return attend(call, self.live[site])

    def featured(self, site: Site, out: Tensor) -> Tensor:
        """Return what becomes of a feature map under the controls that are live there."""
        if self.live[site]:
            self.hits.append(site)
        for control in self.live[site]:
            out = control.feature(site, self.step, self.rows, out)
        return out

    def finish(self) -> None:
        """Check at a clean end that every control whose window was reached has acted.

        Raises:
            ControlNeverFired: naming the first control that did not.
        """
        for i, planned in enumerate(self._plan):
            if planned.sites and i in self._reached and i not in self._acted:
                raise ControlNeverFired(
                    f"{type(planned.control).__name__} on {planned.control.sites.expression!r} "
                    f"never fired in {self._name!r}, which has {describe(self._known)}. "
                    "The picture would be an unedited one."
                )

    def _book(self, live: Mapping[int, Planned]) -> None:
        hit = dict.fromkeys(self.hits)  # in the order they were passed
        for i, planned in live.items():
            self._reached.add(i)
            missed = planned.sites - hit.keys()
            if missed:
                raise UnsupportedModel(
                    f"{self._name!r} did not pass through {sorted(s.name for s in missed)} at step "
                    f"{self.step}, so the edit there would be silently missing."
                )
            self._acted.add(i)
        self.fired.update(
            (self.step, site)
            for site in hit
            if any(not control.observes for control in self.live[site])
        )
