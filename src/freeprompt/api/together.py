"""Edits of different images at a time, in the same batches."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from freeprompt.api.editor import Editor
from freeprompt.errors import ConfigError
from freeprompt.models import UNetModel
from freeprompt.models.memory import ran_out, release
from freeprompt.models.side_by_side import Ended, side_by_side

T = TypeVar("T")
AT_ONCE = 4


def together(
    editor: Editor, edits: Sequence[Callable[[Editor], T]], *, at_once: int = AT_ONCE
) -> list[T]:
    """Make several edits side by side, so that a batch of the denoiser holds rows of all of them.

    Targets of one image share a batch anyway; this is for different images, seeds, methods or
    inversions. A batch costs less than its rows one by one, on a GPU much less. The pictures are
    those that the edits would give alone, up to the rounding of a larger batch.

    Args:
        editor: The editor.
        edits: Each is called with an editor of its own, in a thread of its own; only one of them
            runs at a time.
        at_once: How many go side by side; each takes the memory of its own batch.

    Returns:
        What each of them returned, in order.

    Raises:
        ConfigError: if `at_once` is less than 1.
        AlreadyAttached: if this model is editing right now, or an edit trains (`imagic`).
        Exception: the first that an edit raised, when all that began with it have ended.

    Example:
        >>> import freeprompt as fp
        >>> editor = fp.load("tiny-sd", device="cpu")
        >>> def cat(seed):
        ...     return lambda own: own.edit("a cat", source="a dog", steps=2, seed=seed)
        >>> [result.provenance.seed for result in fp.together(editor, [cat(1), cat(2)])]
        [1, 2]
    """
    if at_once < 1:
        raise ConfigError(f"at_once must be at least 1; got {at_once!r}.")
    made: list[T] = []
    for start in range(0, len(edits), at_once):
        made += [one.get() for one in ended_together(editor, edits[start : start + at_once])]
    return made


def ended_together(editor: Editor, edits: Sequence[Callable[[Editor], T]]) -> list[Ended[T]]:
    """Run edits side by side and return how each ended, for those who look after errors.

    What does not fit into memory together is done again alone. So is everything with a compiled
    model, which would be compiled for every company it is in.
    """
    if len(edits) == 1 or editor.model.memory.compile:
        return [_alone(editor, edit) for edit in edits]
    wrapped = [partial(_with_model, editor, edit) for edit in edits]
    ended = list(side_by_side(editor.model, wrapped))
    short = [i for i, one in enumerate(ended) if one.error is not None and ran_out(one.error)]
    for i in short:
        ended[i] = Ended()  # the frames of its error hold tensors
    if short:
        release(editor.model.device)
    for i in short:
        ended[i] = _alone(editor, edits[i])
    return ended


def _with_model(editor: Editor, edit: Callable[[Editor], T], model: UNetModel) -> T:
    own = copy.copy(editor)
    own.model = model
    return edit(own)


def _alone(editor: Editor, edit: Callable[[Editor], T]) -> Ended[T]:
    try:
        return Ended(result=edit(editor))
    except Exception as error:
        return Ended(error=error)
