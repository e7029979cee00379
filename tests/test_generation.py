"""vLLM's side of a run, with a stand-in for the engine where vLLM would need a GPU (tests/gpu has the real one)."""

from __future__ import annotations

import contextlib
import copy
import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from stand_in_engine import TransformersEngine, engine_for
from tiny_policy import policy_with_adapter, some_problems, two_steps

from nbhelpers.params.sections import ModelParams, TrainingParams
from nbhelpers.policy import mends
from nbhelpers.policy.vllm import engine as engine_module
from nbhelpers.policy.vllm import inside, parity, setup
from nbhelpers.policy.vllm.engine import Engine, _start, engine_arguments, sample_with_engine, start_engine
from nbhelpers.policy.vllm.hand_over import MergedAdapter
from nbhelpers.policy.vllm.inside import LoraAdapter
from nbhelpers.policy.vllm.parity import judge_parity, parity_report
from nbhelpers.policy.vllm.setup import GenerationError, capture_sizes
from nbhelpers.runs import Gpu
from nbhelpers.training import inside_trl
from nbhelpers.training.inside_trl import importance_weights


def gaps(size, *, tokens=400, length=512, mode="token_truncate", seed=0):
    """The report on tokens sampled from vLLM's distribution over eight words; the trainer has its logits with noise of
    this size.
    """
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, 8, generator=made, dtype=torch.float64)
    ours, theirs = logits.log_softmax(-1), (logits + size * torch.randn(tokens, 8, generator=made)).log_softmax(-1)
    sampled = torch.multinomial(ours.exp(), 1, generator=made)
    logps = (side.gather(1, sampled).T for side in (ours, theirs))
    return parity_report(*logps, torch.ones(1, tokens), length=length, mode=mode)


class TestParity:
    def test_equal_log_probs_agree_and_say_nothing(self):
        report = gaps(0.0)
        assert (report.mean, report.max, report.kl, report.weight, report.lowest_weight) == (0, 0, 0, 1, 1)
        assert judge_parity(report) is None

    def test_only_tokens_under_the_mask_count(self):
        trainer = torch.tensor([[0.0, 0.0, 9.0]])
        mask = torch.tensor([[1, 1, 0]])
        report = parity_report(torch.tensor([[0.1, -0.3, 0.0]]), trainer, mask, length=8, mode="token_truncate")
        assert report.tokens == 2
        assert report.mean == pytest.approx(0.2) and report.max == pytest.approx(0.3)

    @pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
    def test_what_rounding_does_is_agreement_at_full_length(self, mode):
        report = gaps(0.005, mode=mode)
        assert 0.002 < report.mean < 0.008 and report.lowest_weight > 0.95
        assert judge_parity(report) is None

    def test_the_weight_of_a_completion_falls_with_its_length(self):
        """0.05 nats per token, which used to pass without a word."""
        short, long = gaps(0.07, length=32), gaps(0.07, length=512)
        assert short.mean == long.mean < 0.06
        assert short.weight > 0.85 and long.weight < 0.5
        assert judge_parity(short) is None and "A completion of 512 tokens would weigh" in judge_parity(long)

    def test_a_sequence_mode_stops_where_a_token_mode_warns(self):
        """0.13 nats per token: as a whole a completion of 512 tokens weighs next to nothing, a token nearly all."""
        whole, each = gaps(0.2, mode="sequence_mask"), gaps(0.2)
        assert 0.1 < whole.mean < 0.2 and whole.weight < 0.01
        with pytest.raises(GenerationError, match="fast_inference=false"):
            judge_parity(whole)
        assert "Each token is weighed by itself" in judge_parity(each)

    def test_the_kl_is_estimated_with_less_noise_than_the_mean_gap(self):
        """Over ten draws; the estimator's own error is of the size that is seen."""
        reports = [gaps(0.1, seed=seed) for seed in range(10)]
        kls = torch.tensor([report.kl for report in reports])
        assert float(kls.std()) == pytest.approx(sum(report.error for report in reports) / 10, rel=0.6)
        assert float(kls.std()) < 0.5 * 0.1 / 400**0.5  # the mean gap has 0.1 / sqrt(400)

    def test_a_hand_over_that_failed_stops_whatever_the_mode(self):
        report = parity_report(
            torch.zeros(2, 20), torch.full((2, 20), -1.1), torch.ones(2, 20), length=512, mode="token_truncate"
        )
        with pytest.raises(GenerationError, match="learn little or nothing"):
            judge_parity(report)

    @pytest.mark.parametrize("broken", [math.nan, -math.inf])
    def test_a_token_without_a_log_prob_stops_too(self, broken):
        vllm = torch.zeros(1, 4)
        vllm[0, 2] = broken
        assert parity_report(vllm, torch.zeros(1, 4), torch.ones(1, 4), length=4, mode="token_truncate").stops

    def test_nothing_to_compare_is_an_error(self):
        with pytest.raises(GenerationError, match="no token"):
            parity_report(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 4), length=4, mode="token_truncate")


class TestEngineArguments:
    @pytest.mark.parametrize(
        ("completions", "sizes"),
        [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16, 32, 64])],
    )
    def test_graphs_are_captured_for_the_batch_sizes_that_occur(self, completions, sizes):
        assert capture_sizes(completions) == sizes

    def test_vllm_keeps_its_graphs_without_compiling(self):
        """In mode 0 vLLM 0.26 drops every graph mode that needs compiled pieces."""
        arguments = engine_arguments("x", ModelParams(), completions=6, lora_rank=None)
        expected = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2, 4, 6]}
        assert arguments["compilation_config"] == expected

    def test_every_batch_that_occurs_fits_a_graph(self):
        for completions in range(1, 130):
            sizes = capture_sizes(completions)
            assert sizes == sorted(set(sizes)) and sizes[-1] == completions

    def test_an_engine_without_adapter_asks_for_none(self):
        arguments = engine_arguments("x", ModelParams(), completions=4, lora_rank=None)
        assert "enable_lora" not in arguments and arguments["max_num_seqs"] == 4

    def test_the_users_environment_is_left_alone(self, monkeypatch, tmp_path):
        for variable in (
            "VLLM_CACHE_ROOT",
            "TRITON_CACHE_DIR",
            "TORCHINDUCTOR_CACHE_DIR",
            "VLLM_LOGGING_LEVEL",
            "VLLM_USE_FLASHINFER_SAMPLER",
        ):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path))
        monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
        setup.prepare_environment()
        import os

        assert os.environ["TRITON_CACHE_DIR"] == "/mine"
        assert os.environ["VLLM_CACHE_ROOT"] == str(tmp_path / "vllm")


class TestCollapsePictures:
    NEWLINES = (101, 102, 103, 104)
    SEQUENCE = (102, 7, 8, 8, 8, 9, 102)

    def expand(self, ids):
        """What vLLM 0.26 does with a prompt (`Gemma3MultiModalProcessor._apply_token_matches`)."""
        out = [token for given in ids for token in (self.SEQUENCE if given == 7 else [given])]
        for left, right, merged in ((101, 102, 103), (102, 101, 103), (102, 102, 104)):
            place = 0
            while place < len(out) - 1:
                if (out[place], out[place + 1]) == (left, right):
                    out[place : place + 2] = [merged]
                place += 1
        return out

    @pytest.mark.parametrize(
        "prompt",
        [
            [1, 7, 2],
            [1, 101, 7, 2],
            [1, 102, 7, 2],
            [1, 7, 101, 2],
            [101, 7, 102],
            [7],
            [1, 2, 3],
            [1, 7, 2, 101, 7, 101, 3],
        ],
    )
    def test_a_collapsed_prompt_expands_to_what_it_was(self, prompt):
        expanded = self.expand(prompt)
        collapsed = inside.collapse_pictures(expanded, self.SEQUENCE, 7, self.NEWLINES)
        assert collapsed == prompt
        assert self.expand(collapsed) == expanded

    def test_a_prompt_that_is_not_expanded_stays(self):
        assert inside.collapse_pictures([1, 101, 7, 2], self.SEQUENCE, 7, self.NEWLINES) == [1, 101, 7, 2]

    def test_the_embedded_processors_prompts_collapse_to_one_marker(self, policy):
        problems = some_problems(1)
        inputs = policy.processor(
            images=[[problems["image"][0]]], text=[policy.prompt_text(problems["prompt"][0])], add_special_tokens=False
        )
        ids = inputs["input_ids"][0]
        collapsed = inside.collapse_pictures(ids, *inside._picture_tokens(policy.processor))
        text = policy.processor.tokenizer(policy.prompt_text(problems["prompt"][0]), add_special_tokens=False)[
            "input_ids"
        ]
        assert collapsed == text and len(ids) > len(text) + 15


@pytest.fixture(scope="module")
def policy():
    return policy_with_adapter()


class StandIn(ModuleType):
    """Of a module of vLLM's."""


def stand_in(monkeypatch, name, **members):
    """A module of this name with these members, reached through its parents, which are empty or stand-ins already."""
    parts = name.split(".")
    for place in range(1, len(parts) + 1):
        path = ".".join(parts[:place])
        if not isinstance(sys.modules.get(path), StandIn):
            monkeypatch.setitem(sys.modules, path, StandIn(path))
        if place > 1:
            setattr(sys.modules[path.rpartition(".")[0]], parts[place - 1], sys.modules[path])
    vars(sys.modules[name]).update(members)
    return sys.modules[name]


def test_vllm_finds_a_prompts_picture_once(monkeypatch):
    """The stand-in is frozen, as vLLM 0.26's `PlaceholderRange` is."""
    from dataclasses import dataclass

    looked = []

    @dataclass(frozen=True)
    class PlaceholderRange:
        offset: int

        def extract_embeds_range(self):
            looked.append(self.offset)
            return [(self.offset, self.offset + 3)]

    stand_in(monkeypatch, "vllm.multimodal.inputs", PlaceholderRange=PlaceholderRange)
    inside.find_pictures_once()
    first, second = PlaceholderRange(5), PlaceholderRange(9)
    assert [first.extract_embeds_range() for _ in range(3)] == [[(5, 8)]] * 3
    assert second.extract_embeds_range() == [(9, 12)]
    assert looked == [5, 9] and first == PlaceholderRange(5)


def test_pictures_are_looked_for_among_a_prompts_tokens_alone(monkeypatch):
    class DefaultModelState:
        supports_mm_inputs = True

        def prepare_attn(self, input_batch, mode, *, for_capture=False):
            return self.supports_mm_inputs, mode, for_capture

    stand_in(monkeypatch, "vllm.v1.worker.gpu.model_states.default", DefaultModelState=DefaultModelState)
    inside.leave_pictures_out_of_decoding()
    state, scheduled = DefaultModelState(), {}
    for name, tokens in (("decode", [1, 1]), ("prompt", [1, 450])):
        scheduled[name] = SimpleNamespace(num_scheduled_tokens=np.array(tokens))
    assert state.prepare_attn(scheduled["decode"], "FULL", for_capture=True) == (False, "FULL", True)
    assert state.prepare_attn(scheduled["prompt"], "NONE") == (True, "NONE", False)
    assert state.supports_mm_inputs


@pytest.mark.parametrize("listens", [True, False])
def test_log_probs_come_from_the_sampler_where_it_can_be_heard(monkeypatch, listens):
    from nbhelpers.policy.vllm import drawn

    class Vllm:
        """One token of each prompt, drawn inside of `generate`, told with its log-prob where that is asked for."""

        def generate(self, rows, given, **_):
            outputs = []
            for number, (row, sampling) in enumerate(zip(rows, given, strict=True)):
                for heard in drawn._listening:
                    logits = torch.zeros(1, 10)
                    heard.note([f"{number}-0123abcd"], torch.tensor([3]), torch.tensor([7]), logits, torch.tensor([1]))
                told = None if sampling["logprobs"] is None else [{7: SimpleNamespace(logprob=-1.0)}]
                completion = SimpleNamespace(index=0, token_ids=[7], logprobs=told)
                ids = row["prompt_token_ids"]
                outputs.append(SimpleNamespace(request_id=str(number), outputs=[completion], prompt_token_ids=ids))
            return outputs

    vllm = ModuleType("vllm")
    vllm.SamplingParams = dict
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    ids, logps = Engine(Vllm(), None, [1], listens=listens).generate([[4, 5], [6]], None, temperature=1.0)
    assert ids == [[7], [7]] and logps == [[pytest.approx(-math.log(10) if listens else -1.0)]] * 2
    assert not drawn._listening


@pytest.mark.parametrize(
    ("changes", "way"), [({}, MergedAdapter), ({"enable_lora": True, "max_lora_rank": 16}, LoraAdapter)]
)
def test_the_adapter_goes_over_the_way_the_engine_was_started_for(policy, monkeypatch, changes, way):
    import dataclasses
    import sys
    from types import ModuleType, SimpleNamespace

    started = []
    runner = SimpleNamespace(get_model=lambda: torch.nn.Module(), lora_config=changes.get("enable_lora"))
    driver = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
    vllm = ModuleType("vllm")
    llm = SimpleNamespace(
        llm_engine=SimpleNamespace(model_executor=driver), model_config=SimpleNamespace(model="embedded")
    )
    vllm.LLM = lambda **arguments: started.append(arguments) or llm
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    for name in ("mend", "prepare_environment"):
        monkeypatch.setattr(engine_module, name, lambda: None)
    monkeypatch.setattr(engine_module, "quick_start", lambda source, tokenizer: contextlib.nullcontext())
    monkeypatch.setattr(engine_module, "weights_from", lambda model: contextlib.nullcontext("policy"))
    monkeypatch.setattr(engine_module, "sample_first_token", lambda policy, engine: None)
    monkeypatch.setattr(way, "take", lambda self, model: "taken")
    monkeypatch.setattr(engine_module, "this_gpu", lambda: Gpu("a card", "", 24.0, 20.0))
    for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(variable, "0")
    one = dataclasses.replace(policy, engine=None, sampler=None)
    params = ModelParams(name="embedded", backend="transformers", load_in_4bit=False, max_seq_length=512)
    engine = start_engine(one, params, completions=6, **changes)
    assert isinstance(engine.hand_over, way) and engine.request == "taken" and one.engine is engine
    assert 0 < started[0]["gpu_memory_utilization"] < 20 / 24  # auto
    assert started[0]["max_num_seqs"] == 6 and started[0].get("enable_lora", False) == ("enable_lora" in changes)


def test_too_little_memory_is_a_sentence_with_what_to_set():
    def no_memory(**arguments):
        raise ValueError(
            "Free memory on device (3.1/24.0 GiB) on startup is less than desired GPU memory utilization (0.5, "
            "12.0 GiB)."
        )

    with pytest.raises(GenerationError, match=r"Free memory.*model\.gpu_memory_utilization=0\.35"):
        _start(no_memory, {"gpu_memory_utilization": 0.5})


def test_vllm_starts_again_where_the_card_got_emptier_meanwhile(monkeypatch, capsys):
    measured = "Error in memory profiling. Initial free memory 77.96 GiB, current free memory 78.39 GiB."
    attempts, waited = [], []
    monkeypatch.setattr(engine_module.time, "sleep", waited.append)

    def start(failures):
        def llm(**arguments):
            attempts.append(arguments)
            assert len(attempts) > failures, measured
            return "an engine"

        attempts.clear()
        return _start(llm, {"gpu_memory_utilization": 0.5})

    assert start(failures=2) == "an engine" and len(attempts) == 3 and waited == list(engine_module.PATIENCE)
    assert capsys.readouterr().out.count("vLLM starts again") == 2
    monkeypatch.setattr(engine_module, "gpu_processes", lambda: ["process 4711 (python, 60.0 GiB)"])
    with pytest.raises(GenerationError, match="On the card: process 4711"):
        start(failures=3)


def test_other_failures_of_vllm_are_not_dressed_up():
    def other(**arguments):
        raise ValueError("unknown architecture")

    with pytest.raises(ValueError, match="unknown architecture"):
        _start(other, {"gpu_memory_utilization": 0.5})


def test_vllm_starts_with_the_policys_tokenizer_and_in_this_process(policy, monkeypatch):
    from transformers import AutoProcessor, AutoTokenizer

    def not_called(why):
        return lambda *_: pytest.fail(why)

    pool, second_python, routers = map(not_called, ("deep copies", "a second Python", "kernels of other models"))
    renderers = stand_in(monkeypatch, "vllm.renderers.hf", maybe_make_thread_pool=pool)
    registry = stand_in(monkeypatch, "vllm.model_executor.models.registry", _run_in_subprocess=second_python)
    warmup = stand_in(
        monkeypatch, "vllm.model_executor.warmup.kernel_warmup", _warmup_ll_bf16_router_gemm=routers,
        flashinfer_autotune=not_called("kernels of other models"),
    )  # fmt: skip
    sampling = not_called("kernels for every kind of sampling")
    worker = stand_in(monkeypatch, "vllm.v1.worker.gpu_worker", warmup_kernels=sampling)
    with inside.quick_start(policy.source, policy.processor.tokenizer):
        assert registry._run_in_subprocess(lambda: 7) == 7
        warmup._warmup_ll_bf16_router_gemm(), warmup.flashinfer_autotune("runner"), worker.warmup_kernels("runner")
        shared = AutoProcessor.from_pretrained(policy.source).tokenizer
        assert renderers.maybe_make_thread_pool(shared, 2) is shared
        assert copy.deepcopy(shared) is shared
    assert shared is not policy.processor.tokenizer
    assert shared._tokenizer is policy.processor.tokenizer._tokenizer
    assert renderers.maybe_make_thread_pool is pool and registry._run_in_subprocess is second_python
    assert warmup._warmup_ll_bf16_router_gemm is routers
    assert AutoTokenizer.from_pretrained(policy.source)._tokenizer is not shared._tokenizer
    with inside.quick_start("unsloth/gemma-3-4b-it", policy.processor.tokenizer):
        snapshot = AutoTokenizer.from_pretrained("/cache/hub/models--unsloth--gemma-3-4b-it/snapshots/0a1b")
        other = AutoTokenizer.from_pretrained(policy.source)
    assert snapshot._tokenizer is policy.processor.tokenizer._tokenizer is not other._tokenizer


@pytest.mark.parametrize(("training", "completions"), [(None, 128), (TrainingParams(), 32)])
def test_unsloths_vllm_generates_more_at_once_where_nothing_is_trained(monkeypatch, training, completions):
    """A preview of 160 completions takes two rounds instead of five. 256 would be taken for no choice at all."""
    from nbhelpers.policy import memory, unsloth

    asked = {}
    monkeypatch.setattr(unsloth, "import_unsloth", list)
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastVisionModel=None))
    for name in ("check_generated", "mend"):
        monkeypatch.setattr(unsloth, name, lambda: None)
    monkeypatch.setattr(unsloth, "vllm_started_quickly", contextlib.nullcontext)
    monkeypatch.setattr(
        unsloth, "_from_pretrained", lambda source, params, **given: asked.update(given) or (None, None)
    )
    params = ModelParams(fast_inference=True, gpu_memory_utilization=0.4)
    unsloth.load_unsloth_policy(params, None, "a folder", training=training, seed=1)
    assert asked["max_num_seqs"] == completions == memory.completions_at_once(training, "unsloth")
    assert asked["compilation_config"]["cudagraph_capture_sizes"][-1] == completions
    assert {"fast_inference": True, "gpu_memory_utilization": 0.4}.items() <= asked.items()
    card, auto = Gpu("", "", 80.0, 80.0), ModelParams(name="unsloth/gemma-3-4b-it", fast_inference=True)
    alone, beside = (memory.budget(auto, 16, one, "unsloth", card) for one in (None, TrainingParams()))
    assert alone.wanted > beside.wanted and alone.least == beside.least


def test_the_vllm_that_unsloth_starts_takes_the_same_short_cuts(policy, monkeypatch):
    import inspect
    import sys
    from types import ModuleType

    from nbhelpers.policy import unsloth

    inside, started = [], []

    @contextlib.contextmanager
    def quick_start(source, tokenizer):
        inside.append((source, tokenizer.convert_tokens_to_ids("<start_of_image>")))
        yield
        inside.clear()

    def load_vllm(model_name, config=None, max_num_seqs=256):
        started.append((model_name, config, max_num_seqs, *inside))
        return "engine"

    zoo, utils = ModuleType("unsloth_zoo"), ModuleType("unsloth_zoo.vllm_utils")
    zoo.vllm_utils, utils.load_vllm = utils, load_vllm
    monkeypatch.setitem(sys.modules, "unsloth_zoo", zoo)
    monkeypatch.setitem(sys.modules, "unsloth_zoo.vllm_utils", utils)
    monkeypatch.setattr(unsloth, "quick_start", quick_start)
    with unsloth.vllm_started_quickly():
        assert inspect.getfullargspec(utils.load_vllm).args == [
            "model_name",
            "config",
            "max_num_seqs",
        ]  # as Unsloth asks
        assert utils.load_vllm(model_name=policy.source, config="config", max_num_seqs=6) == "engine"
    marker = policy.processor.tokenizer.convert_tokens_to_ids("<start_of_image>")
    assert started == [(policy.source, "config", 6, (policy.source, marker))]
    assert utils.load_vllm is load_vllm


class TestCheckParity:
    def test_two_forwards_of_one_model_agree(self, policy):
        problems = some_problems(4)
        report = parity.check_parity(policy, engine_for(policy), problems["prompt"], problems["image"], length=12)
        assert report.tokens >= 4 and report.max < 1e-3

    def test_a_shifted_engine_is_caught(self, policy):
        engine = engine_for(policy)
        engine.noise = 1.0
        problems = some_problems(2)
        report = parity.check_parity(policy, engine, problems["prompt"], problems["image"], length=12)
        assert report.mean == pytest.approx(1.0, abs=1e-3) and report.stops


def trained_with(policy, engine, folder, *, from_the_loss, **arguments):
    """Two GRPO steps with TRL over the stand-in engine: (trainer, adapter afterwards)."""
    from trl import GRPOTrainer

    return two_steps(
        policy,
        folder,
        trainer_class=inside_trl.scoring_in_groups(GRPOTrainer) if from_the_loss else GRPOTrainer,
        built_inside=inside_trl.generating_with(engine),
        use_vllm=True,
        vllm_mode="colocate",
        gradient_checkpointing=False,
        **arguments,
    )


def own_log_probs(trainer, model, inputs, *args, **kwargs):
    from trl import GRPOTrainer

    return GRPOTrainer._get_per_token_logps_and_entropies(trainer, model, *args, **kwargs)


@pytest.mark.parametrize(
    "arguments", [{}, {"gradient_accumulation_steps": 2, "vllm_importance_sampling_mode": "token_truncate"}]
)
def test_importance_weights_from_the_loss_train_as_trls_own(policy, tmp_path, monkeypatch, arguments):
    """From TRL's own log-probs, so that nothing but the weights differs."""
    monkeypatch.setattr(inside_trl, "_packed", own_log_probs)
    engine = engine_for(policy)
    engine.noise = 0.02
    stock, expected = trained_with(policy, engine, tmp_path / "stock", from_the_loss=False, **arguments)
    ours, trained = trained_with(policy, engine, tmp_path / "ours", from_the_loss=True, **arguments)
    for name, value in expected.items():
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-5, msg=name)
    for key in ("loss", "reward", "sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/mean"):
        ours_by_step = [line[key] for line in ours.state.log_history if key in line]
        assert ours_by_step == pytest.approx(
            [line[key] for line in stock.state.log_history if key in line], rel=1e-3, abs=1e-5
        ), key
        assert len(ours_by_step) == 2
    moved = [n for n, p in policy.model.named_parameters() if n in trained and not torch.equal(p, trained[n])]
    assert moved


def test_a_group_is_one_request_and_the_adapter_goes_over_each_step(policy, tmp_path):
    engine = engine_for(policy)
    trained_with(policy, engine, tmp_path, from_the_loss=True)
    assert engine.requests == [(2, 4), (2, 4)]
    assert engine.handed_over == 2


def test_prompts_that_are_no_groups_are_requested_one_by_one():
    assert inside_trl._repeats([[1], [1], [2], [2]], 2)
    assert not inside_trl._repeats([[1], [2], [2], [1]], 2)
    assert not inside_trl._repeats([[1], [1], [1]], 2)


def test_weights_outside_the_bounds_are_masked_or_truncated():
    logps, sampled, mask = torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2), torch.ones(1, 2)
    masked, gaps = importance_weights(logps, sampled, mask, mode="token_mask", low=None, high=3.0)
    assert masked.tolist() == [[1.0, 0.0]] and gaps.tolist() == [0.0, 2.0]
    cut, _ = importance_weights(logps, sampled, mask, mode="sequence_truncate", low=None, high=3.0)
    assert cut.tolist() == [[3.0]]


def test_each_prompt_has_luck_of_its_own_whatever_the_batch(policy, monkeypatch):
    """vLLM draws from a request's seed alone: prompts that shared one would be right and wrong together."""
    asked = []

    class Llm:
        def generate(self, rows, sampling, **options):
            asked.extend(given["seed"] for given in sampling)
            return [SimpleNamespace(prompt_token_ids=row["prompt_token_ids"], outputs=[]) for row in rows]

    vllm = ModuleType("vllm")
    vllm.SamplingParams = lambda **given: given
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr(Engine, "take_adapter", lambda self, model: None)
    engine, problems = Engine(Llm(), None, [1]), some_problems(5)
    options = {"max_new_tokens": 4, "temperature": 1.0, "samples_per_problem": 1, "progress": None}
    for seed, batch_size in ((0, 5), (0, 2), (1, 5)):
        sample_with_engine(
            policy, engine, problems["prompt"], problems["image"], **options, seed=seed, batch_size=batch_size
        )
    assert len(set(asked[:5])) == 5 and asked[:5] == asked[5:10] and not set(asked[:5]) & set(asked[10:])


def test_sampling_uses_the_engine_and_leaves_the_adapter_out_when_asked(policy):
    calls = []

    class Recording(TransformersEngine):
        def generate(self, prompts, images, **options):
            calls.append(self.request)
            return super().generate(prompts, images, **{"temperature": 1.0, **options})

    engine = Recording(policy, None, mends.end_of_turn_ids(policy.processor, policy.model))
    problems = some_problems(3)
    options = {
        "max_new_tokens": 6,
        "temperature": 1.0,
        "samples_per_problem": 2,
        "seed": 0,
        "batch_size": 2,
        "progress": None,
    }
    completions = sample_with_engine(policy, engine, problems["prompt"], problems["image"], **options)
    with policy.without_adapter():
        sample_with_engine(policy, engine, problems["prompt"], problems["image"], **options)
    assert [len(group) for group in completions] == [2, 2, 2]
    assert calls == ["adapter", "adapter", None, None]
