"""The embedded model through the Unsloth backend with vLLM, in a process of its own: Unsloth has to be imported before
TRL, and one process holds one engine.

usage: python unsloth_run.py FOLDER     writes FOLDER/found.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: str) -> None:
    from nbhelpers.params import RunParams
    from nbhelpers.policy import adapter_norm, load_policy, verify
    from nbhelpers.policy.unsloth import load_saved
    from nbhelpers.problems import grpo_dataset, load_problems
    from nbhelpers.runs import RunDirectory
    from nbhelpers.training import check, train

    params = RunParams.load(
        "smoke",
        output_dir=folder,
        model={
            "backend": "unsloth",
            "load_in_4bit": False,
            "fast_inference": True,
            "gpu_memory_utilization": 0.1,
            "max_seq_length": 512,
        },
        training={"max_steps": 20, "per_device_train_batch_size": 16, "num_generations": 4},
        dataset={"max_samples": 96},
    )
    run = RunDirectory(params.output_dir)
    check(params)
    policy = load_policy(params.model, params.lora, params.training)
    import trl

    problems = load_problems(params.dataset)
    rows = grpo_dataset(problems.train, params)[:8]
    sampled = policy.sample(rows["prompt"], rows["image"], max_new_tokens=48, temperature=1.0, samples_per_problem=2)
    with policy.without_adapter():
        base = policy.sample(rows["prompt"], rows["image"], max_new_tokens=48)
    before, _ = verify(policy, policy.engine, rows["prompt"], rows["image"])
    frozen = {
        name: float(p.detach().float().sum()) for name, p in policy.model.named_parameters() if "lora" not in name
    }
    result = train(policy, problems, params, run)
    after, _ = verify(policy, policy.engine, rows["prompt"], rows["image"])
    now = {name: float(p.detach().float().sum()) for name, p in policy.model.named_parameters() if "lora" not in name}
    loaded = load_saved(run.final_model_dir, params.model.model_copy(update={"fast_inference": False}))
    found = {
        "backend": policy.backend,
        "trainer": trl.GRPOTrainer.__name__,
        "sampled": [[completion.text for completion in group] for group in sampled],
        "base": [group[0].text for group in base],
        "parity": [before.mean, after.mean],
        "steps": result.steps,
        "adapter_norm": result.adapter_norm,
        "moved": [name for name, value in frozen.items() if now[name] != value],
        "saved_norm": adapter_norm(loaded),
    }
    Path(folder, "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
