"""Where the package keeps weights and configs."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
CONFIGS = Path(__file__).parent / "configs"
