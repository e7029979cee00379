"""An engine for tests without a GPU: transformers in the place of vLLM."""

from __future__ import annotations

import torch

from nbhelpers.policy import mends
from nbhelpers.policy.vllm.engine import Engine


class TransformersEngine(Engine):
    """An engine whose completions and log-probs come from `model.generate`, shifted by `noise` as by another kernel."""

    noise = 0.0

    def take_adapter(self, model):
        self.handed_over = getattr(self, "handed_over", 0) + 1
        self.request = "adapter"

    def drop_adapter(self):
        self.request = None

    def generate(self, prompts, images, *, n=1, max_tokens=16, temperature=1.0, **sampling):
        policy, requests = self.llm, []
        self.requests = getattr(self, "requests", []) + [(len(prompts), n)]
        processor, model = policy.processor, policy.model
        pixels = processor.image_processor(images=[[image] for image in images], return_tensors="pt")["pixel_values"]
        for ids, picture in zip(prompts, pixels, strict=True):
            requests += [(ids, picture)] * n
        width = max(len(ids) for ids, _ in requests)
        pad = processor.tokenizer.pad_token_id
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids, _ in requests])
        training = model.training
        model.eval()
        with torch.no_grad():
            out = model.generate(
                input_ids=input_ids,
                attention_mask=(input_ids != pad).long(),
                pixel_values=torch.stack([p for _, p in requests]),
                token_type_ids=(input_ids == processor.tokenizer.image_token_id).long(),
                do_sample=True,
                temperature=temperature,
                top_k=0,
                max_new_tokens=max_tokens,
                eos_token_id=self.stop_ids,
                pad_token_id=pad,
                return_dict_in_generate=True,
                output_logits=True,
                suppress_tokens=self.banned_ids,
            )
        model.train(training)
        logps = torch.stack([torch.log_softmax(step.float() / temperature, -1) for step in out.logits], dim=1)
        tokens = out.sequences[:, width:]
        logps = logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        ids = []
        for row in tokens.tolist():
            end = next((place for place, token in enumerate(row) if token in self.stop_ids), len(row) - 1)
            ids.append(row[: end + 1])
        return ids, [row[: len(kept)].sub(self.noise).tolist() for row, kept in zip(logps, ids, strict=True)]


def engine_for(policy):
    stop_ids = mends.end_of_turn_ids(policy.processor, policy.model)
    return TransformersEngine(policy, None, stop_ids, mends.never_sampled_ids(policy.processor))
