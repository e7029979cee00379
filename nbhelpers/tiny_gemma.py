"""The embedded model: a real Gemma-3 with vision, small enough for a laptop's CPU, and the recipe that makes it.

It is a `Gemma3ForConditionalGeneration` with SigLIP tower, projector, text stack, chat template, tokenizer class and
file layout of the published checkpoints, so every loader that takes Gemma-3 4B takes it too (transformers, vLLM,
Unsloth). Its weights ship with the package: :func:`embedded_path`. They were taught, by supervised learning on
:mod:`nbhelpers.visual_math`, the output format part of the time and the arithmetic in part, so that GRPO finds
something to improve.

``python -m nbhelpers.tiny_gemma --out DIR`` makes them again from nothing; ``recipe.json`` beside the weights says how
the shipped ones were made and what they reach.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import string
import time
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nbhelpers.visual_math import KINDS, make_problems

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


class Round(NamedTuple):
    """A stretch of the warm-up with its own AdamW and cosine schedule.

    `describing` is the share of lessons that describe the picture instead of answering: at the start, and from half the
    schedule on. `first` is where in the stream of warm-up problems the round begins.
    """

    steps: int
    learning_rate: float
    describing: tuple[float, float]
    first: int
    horizon: int
    kinds: tuple[str, ...] = KINDS


# Describing comes first: its many words about what is where teach the tower to see, which the few figures of an answer
# alone do slowly. Where things are is learnt before what colour they have; the later rounds are there for the colours.
# The last one breaks off early on purpose: a settled model answers 79 % right when greedy, and 60 steps of GRPO then
# add nothing that 512 problems could show (+0.010, 95 % interval -0.020 to 0.039; 2026-11-23, 2 CPU cores).
ROUNDS = (
    Round(560, 2e-3, (1.0, 0.0), first=0, horizon=560),
    Round(160, 1e-3, (0.4, 0.4), first=560, horizon=160),
    Round(120, 2e-3, (0.5, 0.5), first=560, horizon=120, kinds=("count", "tallest")),
    Round(50, 1.5e-3, (0.25, 0.25), first=900, horizon=200),
)

# Where the published tokenizers have them: first in the vocabulary. vLLM's Gemma-3 processor looks the runs of newlines
# up as single tokens, because the image placeholder brings "\n\n" on both sides and merges with its neighbours.
_CONTROL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
_NEWLINE_TOKENS = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
_IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
_BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


def embedded_path() -> Path:
    """The folder of the shipped checkpoint, for `AutoProcessor` and `AutoModelForImageTextToText.from_pretrained`."""
    return Path(__file__).parent / "tiny_gemma_weights"


# --- the texts of the warm-up


def _prompts(problems: Iterable[dict]) -> list[str]:
    from nbhelpers.data import prompt_text
    from nbhelpers.params import RewardParams

    return [prompt_text(problem, RewardParams()) for problem in problems]


DESCRIBE = "Describe the picture."


def target_text(problem: dict, style: str) -> str:
    """What the warm-up shows as an answer: in the full format, or short of it in one of three ways.

    Args:
        problem: a row of :mod:`nbhelpers.visual_math`.
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


def _styles(n: int, rng: random.Random) -> list[str]:
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


# --- tokenizer, processor, model


def make_tokenizer(seed: int = 0, learnt_tokens: int = 320) -> GemmaTokenizer:
    """Learn a byte-pair vocabulary on the warm-up's own prompts and completions, laid out like Gemma-3's.

    Every printable ASCII character is a token, and bytes stand in for all others, so no text is lost. Digits stay
    single, as in Gemma-3. The instruction of the prompt costs few tokens because its words are learnt whole.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer
    from trl.chat_template_utils import gemma3_chat_template

    problems = make_problems(600, seed=seed, part="warmup")
    texts = [f"user\n{prompt}\nmodel\n" for prompt in _prompts(problems)]
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


# --- warm-up


def _batch(
    processor: Gemma3Processor, images: Sequence, prompts: Sequence[str], targets: Sequence[str] | None = None
) -> dict:
    """Model inputs for a picture and a prompt each (left-padded), or with targets for whole turns and their labels."""
    messages = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}] for prompt in prompts
    ]
    texts = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if targets is not None:
        texts = [f"{text}{target}<end_of_turn>" for text, target in zip(texts, targets, strict=True)]
    inputs = processor(
        images=[[image] for image in images],
        text=texts,
        padding=True,
        padding_side="left" if targets is None else "right",
        add_special_tokens=False,
        return_tensors="pt",
    )
    if targets is not None:
        labels = inputs["input_ids"].clone()
        labels[inputs["attention_mask"] == 0] = -100
        start = processor.tokenizer.convert_tokens_to_ids("<start_of_turn>")
        header = len(processor.tokenizer("<start_of_turn>model\n", add_special_tokens=False)["input_ids"])
        for row, ids in zip(labels, inputs["input_ids"], strict=True):
            row[: int((ids == start).nonzero()[-1]) + header] = -100
        inputs["labels"] = labels
    return inputs


def _lesson(processor: Gemma3Processor, problems: Sequence[dict], describing: float, rng: random.Random) -> dict:
    prompts, targets = _prompts(problems), []
    for place, (problem, style) in enumerate(zip(problems, _styles(len(problems), rng), strict=True)):
        targets.append(target_text(problem, style))
        if rng.random() < describing:
            prompts[place], targets[place] = DESCRIBE, problem["metadata"]["description"]
    return _batch(processor, [problem["image"] for problem in problems], prompts, targets)


def warm_up(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    stretch: Round,
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> float:
    """Teach the model for one round of supervised learning and give the mean loss of its last 30 steps."""
    import torch
    from tqdm.auto import tqdm

    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stretch.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 40) * (0.55 + 0.45 * math.cos(math.pi * min(1, step / stretch.horizon))),
    )
    losses: list[float] = []
    model.train()
    progress = tqdm(range(stretch.steps), desc="warm-up", unit="step")
    for step in progress:
        problems = make_problems(batch_size, f"{seed}-{stretch.first + step}", stretch.kinds, part="warmup")
        start, later = stretch.describing
        describing = start + (later - start) * min(1.0, step / (0.5 * stretch.horizon))
        loss = model(**_lesson(processor, problems, describing, rng)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.3f}")
    return sum(losses[-30:]) / len(losses[-30:])


def answer(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    problems: Sequence[dict],
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 48,
    batch_size: int = 128,
) -> list[str]:
    """The model's completions to the problems' real prompts, greedy at temperature 0."""
    import torch

    if temperature:
        sampling = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    else:
        sampling = dict(do_sample=False, top_k=None, top_p=None)
    completions: list[str] = []
    model.eval()
    for start in range(0, len(problems), batch_size):
        part = problems[start : start + batch_size]
        inputs = _batch(processor, [problem["image"] for problem in part], _prompts(part))
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
        new = output[:, inputs["input_ids"].shape[1] :]
        completions += processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return completions


def measure(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    problems: Sequence[dict],
    temperature: float = 0.0,
) -> dict[str, float]:
    """Accuracy, overall and by kind, and format rate of the model's answers to the problems."""
    from nbhelpers.grading import check_format, grade

    completions = answer(model, processor, problems, temperature=temperature)
    correct: dict[str, list[bool]] = {}
    formatted = 0
    for problem, completion in zip(problems, completions, strict=True):
        fields = {key: problem[key] for key in ("choices", "unit", "precision", "question_type", "answer_type")}
        verdict = grade(completion, problem["answer"], **fields)
        correct.setdefault(problem["metadata"]["category"], []).append(verdict.correct)
        shape = check_format(completion)
        formatted += shape.reasoning and shape.solution
    figures = {"accuracy": sum(map(sum, correct.values())) / len(problems), "format_rate": formatted / len(problems)}
    figures |= {f"accuracy/{kind}": sum(hits) / len(hits) for kind, hits in sorted(correct.items())}
    return {name: round(value, 4) for name, value in figures.items()}


# --- the checkpoint on disk


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


def save(model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, out_dir: Path) -> None:
    """Write the checkpoint in the published layout: config, processor, tokenizer, chat template, bfloat16 weights."""
    import torch
    from safetensors.torch import save_file

    out_dir.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(out_dir)
    model.generation_config.save_pretrained(out_dir)
    processor.save_pretrained(out_dir)
    weights = {
        hub_name(name): tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("lm_head.")  # tied to the embedding
    }
    save_file(weights, out_dir / "model.safetensors", metadata={"format": "pt"})
    (out_dir / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner only


def _round_to_bfloat16(model: torch.nn.Module) -> None:
    # so that the figures below are those of the weights on disk, on CPU and GPU alike
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))


def rebuild(
    out_dir: str | Path, seed: int = 0, rounds: Sequence[Round] = ROUNDS, batch_size: int = 64, problems: int = 512
) -> dict:
    """Make the embedded checkpoint from nothing, write it to `out_dir`, and give (and save) its recipe and figures.

    The result is the same for the same seed, number of torch threads and versions. On 2 cores it takes minutes.

    Args:
        out_dir: folder for the checkpoint and its ``recipe.json``.
        seed: of initialisation, drawings and order.
        rounds: of the supervised warm-up; fewer and shorter ones leave GRPO more to improve.
        batch_size: problems a step.
        problems: unseen evaluation problems that the figures are measured on.
    """
    out_dir = Path(out_dir)
    started = time.time()
    tokenizer = make_tokenizer(seed)
    processor = make_processor(tokenizer)
    model = make_model(tokenizer, seed)
    losses = []
    for stretch in rounds:
        losses.append(round(warm_up(model, processor, stretch, seed=seed, batch_size=batch_size), 4))
        _round_to_bfloat16(model)
    save(model, processor, out_dir)
    return _write_recipe(out_dir, model, processor, seed, rounds, problems, time.time() - started, losses)


def _write_recipe(
    out_dir: Path,
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    seed: int,
    rounds: Sequence[Round],
    problems: int,
    seconds: float,
    losses: Sequence[float],
) -> dict:
    recipe = {
        "made": date.today().isoformat(),
        "seconds": round(seconds),
        **_circumstances(model),
        "seed": seed,
        "format_share": FORMAT_SHARE,
        "rounds": [stretch._asdict() | {"last_loss": loss} for stretch, loss in zip(rounds, losses, strict=True)],
        "figures": _figures(model, processor, problems, seed),
    }
    (out_dir / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    return recipe


def _circumstances(model: Gemma3ForConditionalGeneration) -> dict:
    import torch
    import transformers

    return {
        "machine": f"CPU, {platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _figures(model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, problems: int, seed: int) -> dict:
    import torch

    unseen = make_problems(problems, seed=seed, part="evaluation")
    torch.manual_seed(seed)
    return {
        "problems": problems,
        "greedy": measure(model, processor, unseen),
        "temperature 1": measure(model, processor, unseen, temperature=1.0),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nbhelpers.tiny_gemma", description="Rebuild the embedded model.")
    parser.add_argument("--out", required=True, type=Path, help="folder that receives the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(json.dumps(rebuild(options.out, seed=options.seed), indent=1))


if __name__ == "__main__":
    main()
