"""What the warm-up shows: prompts with the answers they should get, and the loss on them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbhelpers.embedded import habits
from nbhelpers.embedded.model import IMAGE_SIZE, IMAGE_TOKENS
from nbhelpers.problems import KINDS, make_problems

if TYPE_CHECKING:
    import torch
    from transformers import Gemma3ForConditionalGeneration, Gemma3Processor

TAUGHT = (*KINDS, "table", "decimal", "share", "angle")  # these twice as often: they need the sharpest eyes
FIRST_IMAGE_TOKEN = 5  # after <bos><start_of_turn>user\n and \n\n<start_of_image>
ROW = 128  # tokens; every batch has one shape, so that a GPU compiles it once


@dataclass(frozen=True)
class Round:
    """A stretch of the warm-up: steps, pictures a step, the rates of AdamW and of Muon, and what is taught."""

    title: str
    steps: int
    pictures: int
    rate: float
    muon_rate: float
    with_habits: bool


def prompt_of(problem: dict) -> str:
    """The prompt that the policy will meet: the warm-up teaches with no other."""
    from nbhelpers.params import RewardParams
    from nbhelpers.problems import prompt_text

    return prompt_text(problem, RewardParams())


def tokenizer_texts(seed: int) -> list[str]:
    """All sorts of texts of the warm-up, for the tokenizer to learn its vocabulary from."""
    rows = make_problems(900, seed=f"tokenizer {seed}", part="warmup")
    texts = [f"user\n{prompt_of(row)}\nmodel\n" for row in rows]
    texts += [habits.written(row, works, style) for row in rows for works in (True, False) for style in habits.STYLES]
    return texts + [f"user\n{habits.DESCRIBE}\nmodel\n{row['metadata']['description']}" for row in rows]


def turns(prompts: Sequence[str], processor: Gemma3Processor) -> list[str]:
    """Prompts in the chat template, up to where the model's turn begins."""
    messages = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for text in prompts]
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


class Lessons:
    """Step -> a batch of lessons, drawn when it is asked for; a step is the same wherever it is drawn.

    Two rows a picture: in the first round its description and the worked answer to its problem, in the second two
    answers as the habits have them.
    """

    def __init__(self, processor: Gemma3Processor, stretch: Round, seed: int = 0):
        self.processor, self.stretch, self.seed = processor, stretch, seed

    def __len__(self) -> int:
        return self.stretch.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """Pixels (pictures, 3, size, size) as bytes; ids and, for the answers, labels (2 x pictures, ROW)."""
        import numpy as np
        import torch

        if step >= len(self):
            raise IndexError(step)
        seed = f"{self.seed} {self.stretch.title} {step}"
        rng = random.Random(seed)
        problems = make_problems(self.stretch.pictures, seed=seed, part="warmup", kinds=TAUGHT)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        pixels = np.stack([np.asarray(problem["image"].resize(size, 2)) for problem in problems])
        prompts = [prompt_of(problem) for problem in problems]
        if self.stretch.with_habits:
            answers = [habits.taught(problem, rng) for problem in problems * 2]
            ids, labels = self._encode(prompts * 2, answers)
        else:
            answers = [problem["metadata"]["description"] for problem in problems]
            answers += [
                habits.written(problem, True, rng.choices(habits.STYLES, habits.NEAT)[0]) for problem in problems
            ]
            ids, labels = self._encode([habits.DESCRIBE] * len(problems) + prompts, answers)
        return {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), "ids": ids, "labels": labels}

    def _encode(self, prompts: Sequence[str], answers: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        image, tokenizer = self.processor.full_image_sequence, self.processor.tokenizer
        before = [turn.replace(tokenizer.boi_token, image) for turn in turns(prompts, self.processor)]
        encode = lambda texts: tokenizer(list(texts), add_special_tokens=False)["input_ids"]  # noqa: E731
        starts = encode(before)
        ends = encode(f"{answer}<end_of_turn>" for answer in answers)
        ids = torch.full((len(starts), ROW), tokenizer.pad_token_id)
        labels = torch.full_like(ids, -100)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            ids[row, : len(start) + len(end)] = torch.tensor(start + end)
            labels[row, len(start) : len(start) + len(end)] = torch.tensor(end)
        return ids, labels


def lesson_loss(
    model: Gemma3ForConditionalGeneration, pixels: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The model's own loss with less work: a picture goes through the tower once for both of its rows.

    And one mask serves all rows, where transformers makes one a row from the token types. The image tokens stand at the
    same places everywhere, as the picture comes first in a prompt.
    """
    import torch

    first, after = FIRST_IMAGE_TOKEN, FIRST_IMAGE_TOKEN + IMAGE_TOKENS
    places = torch.arange(ids.shape[1], device=ids.device)
    of_image = (places >= first) & (places < after)
    mask = (places[:, None] >= places) | (of_image[:, None] & of_image)
    features = model.model.get_image_features(pixels.float() / 127.5 - 1).pooler_output
    words = model.model.language_model.embed_tokens(ids)
    embeddings = torch.cat([words[:, :first], torch.cat([features] * 2).to(words.dtype), words[:, after:]], 1)
    output = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask={"full_attention": mask[None, None], "sliding_attention": mask[None, None]},
        position_ids=places[None],
        use_cache=False,
    )
    logits = model.lm_head(output.last_hidden_state[:, after:-1])
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels[:, after + 1 :].flatten())
