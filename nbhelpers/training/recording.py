"""TODO."""

from __future__ import annotations

import functools

from nbhelpers.grading import Delimiters
from nbhelpers.policy import grade_row
from nbhelpers.problems import PROBLEM_COLUMNS
from nbhelpers.runs import SampleWriter


@functools.cache
def recording_trainer_class() -> type:
    """`GRPOTrainer` of the TRL that is imported (Unsloth replaces it), with a record of each rollout."""
    from accelerate.utils import gather_object
    from trl import GRPOTrainer

    class RecordingGRPOTrainer(GRPOTrainer):
        """Writes every completion with its rewards, verdict and advantage to `samples.jsonl`."""

        def record_to(self, writer: SampleWriter | None, delimiters: Delimiters) -> None:
            self._writer, self._delimiters = writer, delimiters
            self._groups_in_step = (0, 0)

        def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            start = self.accelerator.process_index * len(prompts)
            self._scored = (inputs, completions, completion_ids_list, rewards[start : start + len(prompts)].tolist())
            return rewards

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            if self.model.training:
                rows, images = self._rollout_rows(output["advantages"].tolist())
                rows, images = gather_object(rows), gather_object(images)
                if self._writer is not None:
                    self._writer.write(self._name_groups(rows), images)
            return output

        def _rollout_rows(self, advantages: list[float]) -> tuple[list[dict], list]:
            inputs, completions, completion_ids, rewards = self._scored
            weights = self.reward_weights.tolist()
            rows = []
            for example, completion, ids, row_rewards, advantage in zip(
                inputs, completions, completion_ids, rewards, advantages, strict=True
            ):
                text = completion if isinstance(completion, str) else completion[0]["content"]
                by_function = {
                    n: None if r != r else r for n, r in zip(self.reward_func_names, row_rewards, strict=True)
                }
                total = sum(w * r for w, r in zip(weights, by_function.values(), strict=True) if r is not None)
                problem = {key: example.get(key) for key in PROBLEM_COLUMNS}
                rows.append(
                    {
                        "step": self.state.global_step + 1,
                        "pid": example["pid"],
                        "kind": example["kind"],
                        **problem,
                        "prompt": _conversation_text(example["prompt"]),
                        "completion": text,
                        "rewards": by_function,
                        "reward": total,
                        "advantage": advantage,
                        "length": len(ids),
                        "truncated": ids[-1] not in self.eos_token_ids,
                        **grade_row(text, problem, self._delimiters),
                    }
                )
            return rows, [example["image"] for example in inputs]

        def _name_groups(self, rows: list[dict]) -> list[dict]:
            step = rows[0]["step"]
            first = self._groups_in_step[1] if self._groups_in_step[0] == step else 0
            for place, row in enumerate(rows):
                row["group"] = f"{step}-{first + place // self.num_generations}"
                row["index"] = place % self.num_generations
            self._groups_in_step = (step, first + len(rows) // self.num_generations)
            return rows

    return RecordingGRPOTrainer


def _conversation_text(conversation: list[dict]) -> str:
    """The words of a prompt, without the picture's place."""
    parts = []
    for message in conversation:
        content = message["content"]
        parts += (
            [content] if isinstance(content, str) else [part["text"] for part in content if part.get("type") == "text"]
        )
    return "\n".join(parts)
