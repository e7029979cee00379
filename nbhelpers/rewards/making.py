"""The configured rewards: the package's own with their settings, and the user's, held to their word."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any

from nbhelpers.params import RewardParams, did_you_mean
from nbhelpers.rewards.functions import BUILT_IN, Reward
from nbhelpers.rewards.guarding import RewardError, guarded


def _own_function(name: str) -> Reward:
    """The user's reward `module:function`."""
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever stands at the top of the user's module
        said = " ".join(str(error).split())
        raise RewardError(
            f"reward {name!r}: cannot import module {module_name!r} ({type(error).__name__}: {said})."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = did_you_mean(function_name, public)
        raise RewardError(f"reward {name!r}: module {module_name!r} has no function {function_name!r}{hint}")
    return function


def own_code(reward_params: RewardParams) -> dict[str, str]:
    """Twelve hexadecimal digits of the file that each of the user's own functions stands in, by the function's name; a
    module without a file has none.

    Raises:
        RewardError: a function cannot be found.
    """
    digests = {}
    for name in filter(lambda name: ":" in name, reward_params.functions):
        _own_function(name)
        file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
        if file:
            digests[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    return digests


def _named(name: str, function: Reward, **settings: Any) -> Reward:
    # TRL logs rewards/<__name__>/mean; it would unwrap a functools.partial and log the wrapped function's name.
    def reward(*args: Any, **kwargs: Any) -> list[float | None]:
        return function(*args, **kwargs, **settings)

    reward.__name__ = name
    return reward


def make_reward_funcs(reward_params: RewardParams, *, max_completion_length: int | None = None) -> list[Reward]:
    """The configured rewards, in the order of `reward_params.functions`, each with a `__name__` for the logs.

    Args:
        reward_params: The section `reward`: delimiters, values, and the names of the functions. A name with a colon is
            a function of the user's own, `module:function`, with TRL's signature; it receives the data set's columns,
            and has `reward_params.timeout` seconds for a call.
        max_completion_length: Tokens that a completion may have; only `overlong` needs it.

    Raises:
        RewardError: The user's own function cannot be found. Called, it raises one for whatever it does wrong.
        ValueError: `overlong` lacks its length.
    """
    delimiters = reward_params.delimiters
    settings: dict[str, dict[str, Any]] = {
        "formatting": {"formatting_reward": reward_params.formatting_reward, "delimiters": delimiters},
        "correctness": {"correctness_reward": reward_params.correctness_reward, "delimiters": delimiters},
        "closeness": {"delimiters": delimiters},
        "overlong": {"max_completion_length": max_completion_length},
    }
    functions: list[Reward] = []
    for name in reward_params.functions:
        if ":" in name:
            short = name.partition(":")[2]
            taken = [*reward_params.functions, *(function.__name__ for function in functions)]
            functions.append(guarded(name if short in taken else short, _own_function(name), reward_params.timeout))
        elif name == "overlong" and max_completion_length is None:
            raise ValueError("reward 'overlong' needs max_completion_length, the tokens that a completion may have")
        else:
            functions.append(_named(name, BUILT_IN[name], **settings.get(name, {})))
    return functions
