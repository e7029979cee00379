"""TODO."""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.problems import make_problems

if TYPE_CHECKING:
    import torch
    from transformers import Gemma3ForConditionalGeneration, Gemma3Processor, GemmaTokenizer


IMAGE_SIZE = 64  # pixels; the processor shrinks every picture to this square


IMAGE_TOKENS = 16


_TEXT = dict(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,  # the smallest that all of vLLM's attention backends take
    query_pre_attn_scalar=64,
    max_position_embeddings=2048,
    sliding_window=512,
    layer_types=["sliding_attention", "full_attention"] * 2,
)


_VISION = dict(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=IMAGE_SIZE,
    patch_size=16,
    # as in the published checkpoints: without it Unsloth's hand-over to vLLM cannot rebuild the tower
    vision_use_head=False,
)


FORMAT_SHARE = 0.6  # of the warm-up's completions show the whole output format


# Where the published tokenizers have them: first in the vocabulary. vLLM's Gemma-3 processor looks the runs of newlines
# up as single tokens, because the image placeholder brings "\n\n" on both sides and merges with its neighbours.
_CONTROL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")


_NEWLINE_TOKENS = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")


_IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")


_BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


def embedded_path() -> Path:
    """The folder of the shipped checkpoint, for `AutoProcessor` and `AutoModelForImageTextToText.from_pretrained`."""
    return Path(__file__).parent / "weights"


def asked(problems: Iterable[dict]) -> list[str]:
    from nbhelpers.params import RewardParams
    from nbhelpers.problems import prompt_text

    return [prompt_text(problem, RewardParams()) for problem in problems]


DESCRIBE = "Describe the picture."


def target_text(problem: dict, style: str) -> str:
    """What the warm-up shows as an answer: in the full format, or short of it in one of three ways.

    Args:
        problem: a row of `nbhelpers.problems.make_problems`.
        style: "full"; "untagged_answer" (reasoning in its block, the answer in plain words), "answer_only" (no
            reasoning block) or "plain" (no block at all). With the last three the format reward has steps to climb.
    """
    reasoning, answer, choices = problem["metadata"]["solution"], problem["answer"], problem["choices"]
    if choices:
        answer = string.ascii_uppercase[choices.index(answer)]  # the prompt asks for the letter
    return {
        "full": f"<REASONING>{reasoning}</REASONING>\n<SOLUTION>{answer}</SOLUTION>",
        "untagged_answer": f"<REASONING>{reasoning}</REASONING>\nThe answer is {answer}.",
        "answer_only": f"{reasoning}\n<SOLUTION>{answer}</SOLUTION>",
        "plain": f"{reasoning}\nThe answer is {answer}.",
    }[style]


def styles(n: int, rng: random.Random) -> list[str]:
    rest = (1 - FORMAT_SHARE) / 3
    return rng.choices(
        ["full", "untagged_answer", "answer_only", "plain"], weights=[FORMAT_SHARE, rest, rest, rest], k=n
    )


# Words of everyday mathematics, so that questions from elsewhere do not fall apart into single letters.
_EVERYDAY = """
What is the value of the number shown in the figure? Which of the following is true for the given triangle? Find the
length of the side when the angle equals the sum of the other two angles. How many more people than last year were there
in total? According to the table, on which day did the store sell the most? The diameter of the circle is twice as large
as its radius. What percent of the items are less than the average price? As shown in the diagram, the lines are parallel
and the points lie on the same line. Calculate the perimeter and the area of the square. Look at the graph and choose the
correct option. What is the difference between the highest and the lowest value in the chart? The function has its maximum
at this point. If the height of the box is given, what is its volume? Each of them has the same size and color. Please
answer the question with an integer, or with a number to one or two decimal places, requiring the unit. Choices Choose
from the image. What will be the probability that the next one is greater than before? Determine which figure has been
shown by these degrees, meters, centimeters, minutes, dollars. We know that it can be written as follows, so we have, and
then it would not be equal, because by adding both we would get this number first.
"""


def make_tokenizer(seed: int = 0, learnt_tokens: int = 320) -> GemmaTokenizer:
    """Learn a byte-pair vocabulary on the warm-up's own prompts and completions, laid out like Gemma-3's.

    Every printable ASCII character is a token, and bytes stand in for all others, so no text is lost. Digits stay
    single, as in Gemma-3. The instruction of the prompt costs few tokens because its words are learnt whole.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer
    from trl.chat_template_utils import gemma3_chat_template

    problems = make_problems(600, seed=seed, part="warmup")
    texts = [f"user\n{prompt}\nmodel\n" for prompt in asked(problems)]
    for style in ("full", "untagged_answer", "answer_only", "plain"):
        texts += [target_text(problem, style) for problem in problems]
    texts += [f"user\n{DESCRIBE}\nmodel\n" + problem["metadata"]["description"] for problem in problems]
    texts += [_EVERYDAY.replace("\n", " ")] * 3

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    # Merges never cross these borders, so the published pre-tokenizer, which has none, splits the same way.
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?</?[A-Z]+>|▁?\d|\n|▁?[A-Za-z]+|▁?[^\w▁]|▁"), "isolated")
    alphabet = ["▁", *(c for c in string.printable if c.isprintable() and c != " ")]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 1 + learnt_tokens, initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = [piece for piece in sorted(learnt["vocab"], key=learnt["vocab"].get) if piece != "\n"]
    tokens = [*_CONTROL_TOKENS, *_NEWLINE_TOKENS, *_IMAGE_TOKENS, *_BYTE_TOKENS, *pieces]

    tokenizer = GemmaTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in learnt["merges"]],
        eos_token="<end_of_turn>",
        model_max_length=_TEXT["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in _CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in _NEWLINE_TOKENS])
    tokenizer.chat_template = gemma3_chat_template
    return tokenizer


def make_processor(tokenizer: GemmaTokenizer) -> Gemma3Processor:
    """Gemma-3's processor for :data:`IMAGE_SIZE` pictures: every image becomes :data:`IMAGE_TOKENS` tokens."""
    from transformers import Gemma3Processor
    from transformers.utils import is_torchvision_available

    if is_torchvision_available():
        from transformers import Gemma3ImageProcessor as ImageProcessor
    else:
        from transformers import Gemma3ImageProcessorPil as ImageProcessor
    return Gemma3Processor(
        image_processor=ImageProcessor(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            resample=2,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            do_pan_and_scan=False,
        ),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=IMAGE_TOKENS,
    )


def make_model(tokenizer: GemmaTokenizer, seed: int = 0) -> Gemma3ForConditionalGeneration:
    """A freshly initialised model in float32, about 1.5 million parameters."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _CONTROL_TOKENS + _IMAGE_TOKENS}
    stop = [ids["<eos>"], ids["<end_of_turn>"]]
    config = Gemma3Config(
        text_config=dict(
            **_TEXT,
            vocab_size=64 * math.ceil(len(tokenizer) / 64),
            pad_token_id=ids["<pad>"],
            bos_token_id=ids["<bos>"],
            eos_token_id=ids["<eos>"],
        ),
        vision_config=dict(_VISION),
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<bos>"],
        eos_token_id=stop,
    )
    config.architectures = ["Gemma3ForConditionalGeneration"]
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(config).float()
    # transformers leaves the projector at zeros, and zeros would keep the pictures out for good
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    model.generation_config._from_model_config = False  # it is set here on purpose, as in the published checkpoints
    model.generation_config.update(
        pad_token_id=ids["<pad>"], bos_token_id=ids["<bos>"], eos_token_id=stop, do_sample=True, top_k=64, top_p=0.95
    )
    return model


def hub_name(name: str) -> str:
    """A parameter's module path in transformers 5 -> its name in the published checkpoints.

    `save_pretrained` writes names that vLLM 0.26 does not know ("vision_tower.encoder..."), so the weights are saved
    under the published ones, which transformers, vLLM and Unsloth all read.
    """
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        return "language_model.model." + name.removeprefix("language_model.")
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return "vision_tower.vision_model." + name.removeprefix("vision_tower.")
    return name


def write_checkpoint(model: Any, weights: Iterable[tuple[str, torch.Tensor]], out_dir: Path) -> None:
    """Write `weights`, by their names in transformers, in the published layout: config and bfloat16 weights."""
    import torch
    from safetensors.torch import save_file

    out_dir.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(out_dir)
    model.generation_config.save_pretrained(out_dir)
    published = {
        hub_name(name): tensor.to("cpu", torch.bfloat16).contiguous()
        for name, tensor in weights
        if not name.startswith("lm_head.")  # tied to the embedding
    }
    save_file(published, out_dir / "model.safetensors", metadata={"format": "pt"})
    (out_dir / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner only


def save(model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, out_dir: Path) -> None:
    """Write a checkpoint with its processor, tokenizer and chat template."""
    write_checkpoint(model, model.state_dict().items(), out_dir)
    processor.save_pretrained(out_dir)
