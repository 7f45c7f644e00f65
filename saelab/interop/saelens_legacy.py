"""SAELens' `cfg.json` from before version 6: a run's whole configuration, at the top level.

What the SAE computes stood among what only its training needed, under names that changed. The rest is known
here by name, from its first to its last such version, so that a key nobody knows is still an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.interop.reading import Fields, shown

_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
_METADATA = frozenset(
    """
    model_name hook_name model_class_name hook_head_index model_from_pretrained_kwargs prepend_bos
    exclude_special_tokens neuronpedia_id context_size seqpos_slice dataset_path sae_lens_version
    sae_lens_training_version hook_name_out hook_head_index_out
    """.split()  # noqa: SIM905
)
_COMPUTES = frozenset(
    [
        "architecture",
        "d_in",
        "d_sae",
        "d_out",
        "dtype",
        "device",
        "apply_b_dec_to_input",
        "normalize_activations",
        "reshape_activations",
    ]
)
_IN_TRAINING = frozenset(
    """
    act_store_device adam_beta1 adam_beta2 autocast autocast_lm b_dec_init_method begin_batch_token
    begin_sequence_token buffer_size_gb cached_activations_path checkpoint_path column_name compile_llm compile_sae
    data_dir data_files dataset_name dataset_trust_remote_code dead_feature_estimation_method dead_feature_threshold
    dead_feature_window decoder_heuristic_init decoder_orthogonal_init disable_concat_sequences
    eval_batch_size_prompts eval_every_n_wandb_logs expansion_factor feature_reinit_scale feature_sampling_method
    feature_sampling_window finetuning_method finetuning_tokens from_pretrained_path hf_is_private_repo hf_num_shards
    hf_repo_id hf_revision hook_eval hook_layer hook_point_eval hook_point_layer init_encoder_as_decoder_transpose
    is_dataset_tokenized jumprelu_bandwidth jumprelu_init_threshold l0_lambda l1_coefficient l1_warm_up_steps
    llm_compilation_mode log_activations_store_to_wandb log_optimizer_state_to_wandb log_to_wandb lp_norm lr
    lr_decay_steps lr_end lr_scheduler_name lr_warm_up_steps model_batch_size model_kwargs mse_loss_normalization
    n_batches_in_buffer n_checkpoints n_eval_batches n_eval_seqs n_restart_cycles new_cached_activations_path
    noise_scale normalize_sae_decoder num_proc output_path pretokenize_batch_size resample_batches resume run_name
    sae_compilation_mode save_path scale_sparsity_penalty_by_decoder_norm seed sequence_separator_token shuffle
    shuffle_every_n_buffers split store_batch_size store_batch_size_prompts streaming tokenizer_name tokens_per_buffer
    total_training_steps total_training_tokens train_batch_size train_batch_size_tokens training_tokens
    use_cached_activations use_ghost_grads verbose wandb_entity wandb_id wandb_log_frequency wandb_project
    """.split()  # noqa: SIM905
)
_FIRST_MODERN = 6


def applies(values: Mapping[str, Any], where: str) -> bool:
    """Whether this is a configuration from before version 6.

    Raises:
        SaelabError: its version is none.
    """
    version = values.get("sae_lens_version")
    if "metadata" in values or version is None:
        return "metadata" not in values
    found = re.match(r"(\d{1,4})\.\d", version) if isinstance(version, str) else None
    if found is None:
        raise SaelabError(f"sae_lens_version is {shown(version)}", where=where)
    return int(found[1]) < _FIRST_MODERN


def modernised(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same configuration as version 6 would have written it.

    Raises:
        SaelabError: a key that no version had, or an activation that version 6 no longer has.
    """
    fields = Fields({_RENAMED.get(key, key): value for key, value in values.items()}, where)
    fields.ignore(*_IN_TRAINING)
    if fields.take("finetuning_scaling_factor", bool, False):
        raise SaelabError("finetuning_scaling_factor is on, which scales codes after encoding", where=where)
    modern = fields.pop(_COMPUTES)
    modern.setdefault("architecture", "standard")
    modern |= _activation(fields)
    metadata = fields.pop(_METADATA)
    fields.done()
    normalised = modern.get("normalize_activations")
    if normalised is None or isinstance(normalised, bool):
        modern["normalize_activations"] = "expected_average_only_in" if normalised else "none"
    if modern.get("d_sae") is None and type(values.get("expansion_factor")) is int and type(modern.get("d_in")) is int:
        modern["d_sae"] = modern["d_in"] * values["expansion_factor"]
    return {**modern, "metadata": {key: value for key, value in metadata.items() if value is not None}}


def _activation(fields: Fields) -> dict[str, Any]:
    """TopK was an activation function, not an architecture."""
    function, settings = fields.take("activation_fn", str, "relu"), fields.section("activation_fn_kwargs", {})
    found: dict[str, Any] = {}
    if function == "topk":
        found = {"architecture": "topk", "k": settings.take("k", int)}
    elif function != "relu":
        raise SaelabError(f"the activation function {shown(function)} has no counterpart", where=fields.where)
    settings.done()
    return found


def without_scaling_factor(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Without a `scaling_factor` of ones, which some versions saved.

    Raises:
        SaelabError: it holds anything else.
    """
    kept = dict(tensors)
    factor = kept.pop("scaling_factor", None)
    if factor is not None and not torch.equal(factor.float(), torch.ones_like(factor).float()):
        raise SaelabError("scaling_factor is not 1 throughout, and nothing says how it is meant", where=where)
    return kept
