"""Run by test_memory.py in a process of its own: the shape checks of the suite do not trace."""

import torch

import freeprompt as fp
from freeprompt.models.tiny import tiny_sd

SOURCE, TARGET, STEPS = "a red dog", "a blue cat", 5


def main() -> None:
    """Whole edits through a network compiled in place: the same bytes, and no graph a step."""
    pipe = tiny_sd(sample_size=8)
    pipe.unet.compile(dynamic=False, backend="eager")
    plain, compiled = fp.Editor(tiny_sd(sample_size=8)), fp.Editor(pipe)
    image = plain.edit(TARGET, source=SOURCE, steps=2).images[0]
    counters = torch._dynamo.utils.counters
    graphs = []
    for given in ({"source": SOURCE}, {"image": image}):
        for _ in range(2):
            wanted = plain.edit(TARGET, steps=STEPS, **given).images[0]
            found = compiled.edit(TARGET, steps=STEPS, **given).images[0]
            assert found.tobytes() == wanted.tobytes(), given
            graphs.append(counters["stats"]["unique_graphs"])
    # sharing and not; then one row, and three that share, and two: none at the second edits
    assert graphs == [2, 2, 5, 5], graphs
    assert not counters["graph_break"], counters["graph_break"]
    print("edits agree")


if __name__ == "__main__":
    main()
