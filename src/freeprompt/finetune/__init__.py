"""Teaching a model one subject from a few pictures: DreamBooth with LoRA, and textual inversion.

What is written are small files in the layouts that diffusers and `freeprompt --lora`,
`--embedding` read. The model itself is left exactly as it was.
"""

from freeprompt.finetune.embedding import train_embedding
from freeprompt.finetune.lesson import Trained
from freeprompt.finetune.lora import train_lora
from freeprompt.finetune.settings import EmbeddingTraining, LoraTraining

__all__ = ["EmbeddingTraining", "LoraTraining", "Trained", "train_embedding", "train_lora"]
