"""What can be set of a training for one subject; the flags of the command line are these fields."""

from dataclasses import dataclass

from freeprompt.core.params import Parameters, param, same
from freeprompt.errors import ConfigError

HOLE = "{}"


@dataclass(frozen=True, kw_only=True)
class LoraTraining(Parameters):
    """DreamBooth with LoRA: a rare word comes to mean the subject, by a small change of weights.

    Source: Ruiz et al., CVPR 2023, arXiv:2208.12242 (DreamBooth); Hu et al., ICLR 2022,
    arXiv:2106.09685 (LoRA).
    """

    prompt: str = param(
        "",
        "What the pictures show, with a rare word for the subject, such as 'a sks dog'",
        source="DreamBooth: 'a [V] [class noun]'",
    )
    class_prompt: str = param(
        "",
        "What others of its kind are called, such as 'a dog', to keep what the model knows of "
        "them (prior preservation); empty does without",
        source="DreamBooth, section 3.3",
    )
    class_count: int = param(
        20,
        "Pictures of others of its kind that are drawn by the model",
        low=1,
        source="ours; DreamBooth: about 1000, diffusers' script: 100",
    )
    class_weight: float = param(
        1.0, "Weight of these in the loss", low=0, high=100, source="DreamBooth: 1"
    )
    steps: int = param(400, "Gradient steps", low=1, source="DreamBooth's LoRA scripts: 400-1000")
    rate: float = param(1e-4, "Learning rate", low=0, source="diffusers' script")
    rank: int = param(
        8, "Rank of the change of each weight", low=1, high=1024, source="usual: 4-32"
    )
    text: bool = param(
        False, "Change the text encoder as well", source="DreamBooth found it better and dearer"
    )
    batch: int = param(1, "Pictures a step, one after another", low=1, source="diffusers' script")
    mirror: bool = param(
        False, "Take each picture mirrored as well", source="ours; not for what has a side"
    )
    recompute: bool = param(
        False,
        "Compute activations twice instead of keeping them: less memory, a third slower",
        source="diffusers' gradient checkpointing",
    )
    seed: int = param(0, "Of all that is drawn", low=0, source="ours")

    def check(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            ConfigError: saying what is missing.
        """
        if not self.prompt.strip():
            raise ConfigError(
                "There is no prompt that says what the pictures show. Give one with a rare word "
                "for the subject: --prompt 'a sks dog' (prompt=)."
            )
        if self.class_prompt.strip().casefold() == self.prompt.strip().casefold():
            raise ConfigError(
                f"The class prompt {self.class_prompt!r} is the prompt itself, so the subject "
                "would be unlearnt as it is learnt. Leave the rare word out of it: 'a dog'."
            )


@dataclass(frozen=True, kw_only=True)
class EmbeddingTraining(Parameters):
    """Textual inversion: vectors for a new word, found by gradients; the model stays as it is.

    Source: Gal et al., ICLR 2023, arXiv:2208.01618.
    """

    token: str = param("<sks>", "The new word", source="ours; the paper writes S*")
    like: str = param(
        "", "Word to start from, which names the kind of thing, such as 'dog'", source="paper"
    )
    prompts: str = param(
        "a photo of a {}|a picture of a {}|a {}",
        "Texts about the pictures, {} being the new word, separated by |",
        source="ours; the paper has 27 in this vein",
    )
    vectors: int = param(1, "Vectors of the new word", low=1, high=75, source="paper: 1")
    steps: int = param(500, "Gradient steps", low=1, source="ours; paper: 5000")
    rate: float = param(5e-3, "Learning rate", low=0, source="paper")
    batch: int = same(LoraTraining, "batch")
    mirror: bool = same(LoraTraining, "mirror")
    recompute: bool = same(LoraTraining, "recompute")
    seed: int = same(LoraTraining, "seed")

    @property
    def texts(self) -> list[str]:
        """The prompts, with the new word in each."""
        return [one.strip().replace(HOLE, self.token) for one in self.prompts.split("|")]

    def check(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            ConfigError: saying what is missing.
        """
        if not self.like.strip():
            raise ConfigError(
                "There is no word to start from. Say what kind of thing the pictures show: "
                "--like dog (like=)."
            )
        for one in self.prompts.split("|"):
            if HOLE not in one:
                raise ConfigError(
                    f"The prompt {one.strip()!r} has no {HOLE} where the new word belongs, such as "
                    "'a photo of a {}'."
                )
