"""The embedded model's architecture, tokenizer and files: Gemma-3 with vision, as small as it goes.

It is a `Gemma3ForConditionalGeneration` with SigLIP tower, projector, text stack, chat template, tokenizer class and
file layout of the published checkpoints, so every loader that takes Gemma-3 4B takes it too (transformers, vLLM,
Unsloth).
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Gemma3ForConditionalGeneration, Gemma3Processor, GemmaTokenizer

IMAGE_SIZE = 160  # pixels; the processor shrinks every picture to this square
IMAGE_TOKENS = 25
TEXT = dict(
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
VISION = dict(
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=3,
    num_attention_heads=8,
    image_size=IMAGE_SIZE,
    patch_size=16,
    # as in the published checkpoints: without it Unsloth's hand-over to vLLM cannot rebuild the tower
    vision_use_head=False,
)

# Where the published tokenizers have them: first in the vocabulary. vLLM's Gemma-3 processor looks the runs of newlines
# up as single tokens, because the image placeholder brings "\n\n" on both sides and merges with its neighbours.
CONTROL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
NEWLINE_TOKENS = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
PICTURE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
LEARNT_TOKENS = 384
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))

# Words of everyday mathematics, so that questions from elsewhere do not fall apart into single letters.
_EVERYDAY = """
What is the value of the number shown in the figure? Which of the following is true for the given triangle? Find the
length of the side when the angle equals the sum of the other two angles. How many more people than last year were
there in total? According to the table, on which day did the store sell the most? The diameter of the circle is twice
as large as its radius. What percent of the items are less than the average price? As shown in the diagram, the lines
are parallel and the points lie on the same line. Calculate the perimeter and the area of the square. Look at the
graph and choose the correct option. What is the difference between the highest and the lowest value in the chart? The
function has its maximum at this point. If the height of the box is given, what is its volume? Each of them has the
same size and color. Please answer the question with an integer, or with a number to one or two decimal places,
requiring the unit. Choices Choose from the image. What will be the probability that the next one is greater than
before? Determine which figure has been shown by these degrees, meters, centimeters, minutes, dollars. We know that it
can be written as follows, so we have, and then it would not be equal, because by adding both we would get this number
first.
"""


def embedded_path() -> Path:
    """The folder of the shipped checkpoint, for `AutoProcessor` and `AutoModelForImageTextToText.from_pretrained`."""
    return Path(__file__).parent / "weights"


def make_tokenizer(texts: Iterable[str]) -> GemmaTokenizer:
    """Learn a byte-pair vocabulary on the warm-up's own texts, laid out like Gemma-3's.

    Every printable ASCII character is a token, and bytes stand in for all others, so no text is lost. Digits stay
    single, as in Gemma-3. The instruction of the prompt costs few tokens because its words are learnt whole.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer
    from trl.chat_template_utils import gemma3_chat_template

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    # Merges never cross these borders, so the published pre-tokenizer, which has none, splits the same way.
    borders = Regex(r"▁?</?[A-Z]+>|▁?\d|\n|▁?[A-Za-z]+|▁?[^\w▁]|▁")
    learner.pre_tokenizer = pre_tokenizers.Split(borders, "isolated")
    alphabet = ["▁", *(c for c in string.printable if c.isprintable() and c != " ")]
    size = len(alphabet) + 1 + LEARNT_TOKENS
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator([*texts, *[_EVERYDAY.replace("\n", " ")] * 3], trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = [piece for piece in sorted(learnt["vocab"], key=learnt["vocab"].get) if piece != "\n"]
    tokens = [*CONTROL_TOKENS, *NEWLINE_TOKENS, *PICTURE_TOKENS, *BYTE_TOKENS, *pieces]

    tokenizer = GemmaTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in learnt["merges"]],
        eos_token="<end_of_turn>",
        model_max_length=TEXT["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
        extra_special_tokens=dict(zip(("boi_token", "eoi_token", "image_token"), PICTURE_TOKENS, strict=True)),
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in NEWLINE_TOKENS])
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
    """A freshly initialised model in float32, about 3.3 million parameters."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in CONTROL_TOKENS + PICTURE_TOKENS}
    stop = [ids["<eos>"], ids["<end_of_turn>"]]
    special = dict(pad_token_id=ids["<pad>"], bos_token_id=ids["<bos>"])
    config = Gemma3Config(
        text_config=dict(TEXT, vocab_size=64 * math.ceil(len(tokenizer) / 64), eos_token_id=ids["<eos>"], **special),
        vision_config=dict(VISION),
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
        eos_token_id=stop,
        **special,
    )
    config.architectures = ["Gemma3ForConditionalGeneration"]
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(config).float()
    # transformers leaves the projector at zeros, and zeros would keep the pictures out for good
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    model.generation_config._from_model_config = False  # it is set here on purpose, as in the published checkpoints
    model.generation_config.update(eos_token_id=stop, do_sample=True, top_k=64, top_p=0.95, **special)
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


def round_to_bfloat16(model: torch.nn.Module) -> None:
    """Round the weights as the files do, so that figures measured on `model` are those of the files."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))


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
