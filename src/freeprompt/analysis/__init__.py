"""The microscope: what attention does, collected without changing a picture.

Names are imported on first use, so that looking at maps needs neither matplotlib nor a judge.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeprompt.analysis.maps import AttentionMaps, CrossMaps
    from freeprompt.analysis.reduce import Observed, WatchCross, WatchSelf
    from freeprompt.analysis.self_maps import Components, SelfMaps

_HOME = {
    "AttentionMaps": "freeprompt.analysis.maps",
    "Components": "freeprompt.analysis.self_maps",
    "CrossMaps": "freeprompt.analysis.maps",
    "Observed": "freeprompt.analysis.reduce",
    "SelfMaps": "freeprompt.analysis.self_maps",
    "WatchCross": "freeprompt.analysis.reduce",
    "WatchSelf": "freeprompt.analysis.reduce",
}

__all__ = [
    "AttentionMaps",
    "Components",
    "CrossMaps",
    "Observed",
    "SelfMaps",
    "WatchCross",
    "WatchSelf",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'freeprompt.analysis' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
