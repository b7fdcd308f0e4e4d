"""The studio: edit, compare and look inside, on one page in a browser (extra `studio`).

Nothing is implemented here a second time: every button calls what the library and the command line
call, on one model, one job at a time.
"""

from freeprompt.studio.page import build, launch

__all__ = ["build", "launch"]
