"""Parameters of a run: sections, presets, overrides, and sentences for what cannot be used."""

from nbhelpers.params.differing import differing_settings, extends, flat, settings_digest, settings_table, then_and_now
from nbhelpers.params.files import parse_overrides, read_yaml
from nbhelpers.params.places import (
    available_presets,
    is_hub_id,
    places_of,
    presets_folder,
    repository_root,
    resolve_path,
)
from nbhelpers.params.run_params import RunParams
from nbhelpers.params.sections import (
    DEFAULT_DELIMITERS,
    REWARD_FUNCTIONS,
    SECTIONS,
    AnswerType,
    BatchPlan,
    DatasetParams,
    Delimiters,
    LoraParams,
    ModelParams,
    RewardParams,
    Section,
    TrainingParams,
)
from nbhelpers.params.sentences import ParamsError, PlainError, as_given, did_you_mean, one_line
from nbhelpers.params.trust import Layer, not_only_data, trusting
from nbhelpers.params.words import chance, counted, interval_of_points, percent, points
