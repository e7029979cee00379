"""Write a Gemma-3 4B vision checkpoint of the true shape with random weights, for timing where the real weights cannot be had.

usage: python make_true_shape.py TOKENIZER_DIR OUT_DIR        (a GPU or 20 GB of memory; 8.6 GB on disk)

TOKENIZER_DIR holds Gemma-3's tokenizer.json and tokenizer_config.json. The names are the published checkpoint's, which vLLM and Unsloth
expect. It answers nonsense. Each layer adds little to its input (post-norms of 0.1), so that bfloat16 rounding does not grow from layer
to layer as it does in other random networks, and vLLM's log-probs can be compared with the trainer's.
"""

from __future__ import annotations

import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

from nbhelpers.embedded import hub_name


def main(tokenizer_dir: str, out: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    image_processor = Gemma3ImageProcessor(size={"height": 896, "width": 896}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = Gemma3Processor(
        image_processor=image_processor, tokenizer=tokenizer, chat_template=tokenizer.chat_template, image_seq_length=256
    )
    config = Gemma3Config(
        text_config={
            "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208, "sliding_window": 1024,
            "max_position_embeddings": 131072, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 1e6,
            "query_pre_attn_scalar": 256,
        },
        vision_config={
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 896,
            "patch_size": 14, "vision_use_head": False,
        },
        mm_tokens_per_image=256, boi_token_index=255999, eoi_token_index=256000, image_token_index=262144,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=1152**-0.5)
    for layer in model.model.language_model.layers:
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            torch.nn.init.constant_(norm.weight, -0.9)  # Gemma's norms scale by 1 + weight
    # Tied embeddings would answer each token with itself; this leaves some entropy.
    torch.nn.init.constant_(model.model.language_model.norm.weight, -0.75)
    model.tie_weights()
    model.generation_config.update(eos_token_id=[1, 106], pad_token_id=0, bos_token_id=2)
    os.makedirs(out, exist_ok=True)
    weights = {hub_name(k): v.contiguous().cpu() for k, v in model.state_dict().items() if not k.startswith("lm_head")}
    model.config.architectures = ["Gemma3ForConditionalGeneration"]
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    processor.save_pretrained(out)
    save_file(weights, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    main(*sys.argv[1:3])
