"""What other tools wrote is read to the last bit, and what saelab writes comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from saelab.errors import SaelabError
from saelab.files import read_json
from saelab.interop import WRITABLE, Origin, export
from saelab.sae import SAE, VARIANTS, build
from saelab.sae.foreign import recognised
from saelab.training.start import start_from
from tests.interop.conftest import FIXTURES, LATENTS, D, foreign


def test_codes_supports_and_reconstructions_are_the_other_tools(there):
    sae = SAE.load(there.source)
    code = sae.encode(there.x).to_dense()
    assert torch.equal(code != 0, there.code != 0)
    torch.testing.assert_close(code, there.code, atol=1e-5, rtol=0)
    torch.testing.assert_close(sae(there.x), there.recon, atol=1e-5, rtol=0)


def test_it_is_an_inference_form_that_saelab_keeps(there, tmp_path):
    sae = SAE.load(there.source)
    assert sae.identity.form == "inference"
    assert not any(parameter.requires_grad for parameter in sae.parameters())
    sae.save(tmp_path / "kept")
    again = SAE.load(tmp_path / "kept")
    assert (again.sha256(), again.identity) == (sae.sha256(), sae.identity)
    assert torch.equal(again(there.x), sae(there.x))


def test_it_says_where_it_comes_from(there):
    imported = SAE.load(there.source).identity.provenance["imported"]
    assert imported["format"] == there.source.relative_to(FIXTURES).parts[0] == recognised(there.source)
    assert all(len(sha256) == 64 for sha256 in imported["sha256"].values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "saelens/gated",
            Origin("gpt2-small", "blocks.3.hook_resid_post", None, "some/text", context_length=64, prepend_bos=True),
        ),
        ("sparsify/layers.3", Origin(hook="blocks.3.hook_resid_post")),
        ("sparsify/h.2.mlp", Origin(hook="blocks.2.mlp.hook_in", target_hook="blocks.2.hook_mlp_out")),
        (
            "dictionary_learning/gated",
            Origin("EleutherAI/pythia-70m-deduped", "blocks.3.hook_resid_post", context_length=64),
        ),
        (
            "gemma_scope/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
            Origin("google/gemma-2-2b", "blocks.20.hook_resid_post", context_length=1024, prepend_bos=True),
        ),
    ],
)
def test_model_hook_and_text_are_taken_from_what_the_files_say(name, expected):
    assert Origin.of(SAE.load(FIXTURES / name).identity) == expected


FIXED_K = {"topk", "gradient_topk", "variational"}
NOWHERE = {"top_afa", "codebook"}
HELD = {
    "saelens": set(VARIANTS) - NOWHERE,
    "sparsify": FIXED_K,
    "dictionary_learning": set(VARIANTS) - NOWHERE - {"abs_topk", "matching_pursuit"},
}
ROUNDED = {("feature_choice", "dictionary_learning")}
"""Thresholds per latent there come without the subtraction of b_dec: W_enc b_dec moves into b_enc, and is rounded."""


def check_round_trip(sae: SAE, directory: Path, format: str) -> SAE:
    """Weights, codes and reconstructions have the same bits when they come back."""
    export(sae, directory, format)
    back = SAE.load(directory)
    ours, theirs = sae.state_dict(), back.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value.expand_as(theirs[name]), theirs[name]) for name, value in ours.items())
    x = 2 * torch.randn(64, sae.identity.d_in)
    assert torch.equal(back.encode(x).to_dense(), sae.encode(x).to_dense())
    assert torch.equal(back(x), sae(x))
    return back


@pytest.mark.parametrize(
    ("kind", "format"), [(kind, format) for format in WRITABLE for kind in sorted(HELD[format])], ids=str
)
def test_weights_come_back_bit_for_bit(make, tmp_path, kind, format):
    sae = make(kind)
    if (kind, format) not in ROUNDED:
        check_round_trip(sae, tmp_path / "there", format)
        return
    export(sae, tmp_path / "there", format)
    back, x = SAE.load(tmp_path / "there"), 2 * torch.randn(64, D)
    torch.testing.assert_close(back(x), sae(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(back.encode(x).to_dense() != 0, sae.encode(x).to_dense() != 0)


@pytest.mark.parametrize(
    ("kind", "format"),
    [(kind, format) for format in WRITABLE for kind in sorted(set(VARIANTS) - HELD[format])],
    ids=str,
)
def test_what_a_format_cannot_express_is_refused_with_the_reason(make, tmp_path, kind, format):
    reason = rf"cannot hold this SAE: this '{kind}' \w+ .*, for which it has no form"
    with pytest.raises(SaelabError, match=reason):
        export(make(kind), tmp_path / "there", format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "settings", "format"),
    [
        ("relu", {"d_out": 24}, "saelens"),
        ("relu", {"d_out": 24, "skip": True}, "saelens"),
        ("batch_topk", {"d_out": 24}, "saelens"),
        ("jumprelu", {"d_out": D, "skip": True}, "saelens"),
        ("topk", {"d_out": D}, "sparsify"),
        ("topk", {"d_out": D, "skip": True}, "sparsify"),
        ("matching_pursuit", {"ends_at_repeat": True, "residual_threshold": 0.1}, "saelens"),
    ],
    ids=str,
)
def test_transcoders_and_settings_come_back_too(make, tmp_path, kind, settings, format):
    sae = make(kind, **settings)
    identity = check_round_trip(sae, tmp_path / "there", format).identity
    assert (identity.transcoder, identity.skip, identity.d_out) == (
        sae.identity.transcoder,
        sae.identity.skip,
        sae.identity.d_out,
    )
    assert identity.settings.get("ends_at_repeat") == settings.get("ends_at_repeat")


@pytest.mark.parametrize(
    ("kind", "settings", "format", "reason"),
    [
        ("topk", {"d_out": 24}, "saelens", "its transcoders are ReLU or JumpReLU"),
        ("topk", {"d_out": 24}, "sparsify", "reads width 16 and gives width 24"),
        ("topk", {"d_out": D}, "dictionary_learning", "reconstruct their input alone"),
        ("matching_pursuit", {"selection": "absolute"}, "saelens", "it picks by magnitude"),
    ],
    ids=str,
)
def test_what_transcoders_and_settings_a_format_lacks_is_refused(make, tmp_path, kind, settings, format, reason):
    with pytest.raises(SaelabError, match=reason):
        export(make(kind, **settings), tmp_path / "there", format)


def test_only_inference_forms_in_new_directories_and_known_formats_are_written(make, tmp_path):
    sae = make("topk")
    with pytest.raises(SaelabError, match=r"unknown SAE format 'saelense'.*\n  fix: did you mean 'saelens'"):
        export(sae, tmp_path / "there", "saelense")
    with pytest.raises(SaelabError, match=r"reads Gemma Scope, and does not write it"):
        export(sae, tmp_path / "there", "gemma_scope")
    with pytest.raises(SaelabError, match="this directory exists already"):
        export(sae, tmp_path, "saelens")
    with pytest.raises(SaelabError, match="only the inference form can be exported"):
        export(build("topk", D, {"n_latents": LATENTS, "k": 4}).sae, tmp_path / "there", "saelens")
    assert list(tmp_path.iterdir()) == []


def test_metadata_says_where_the_sae_belongs_and_comes_back(make, tmp_path):
    sae = make("topk")
    sae.identity.provenance = {
        "model": {"name": "gpt2"},
        "hook": "blocks.7.attn.hook_z",
        "data": {"dataset": "some/text"},
        "windows": {"context_length": 96, "prepend_bos": False},
        "mask": {"first_position": True, "special": [0, 1], "norm_limits": {}},
        "trained_tokens": 1000,
    }
    known = Origin.of(sae.identity)
    export(sae, tmp_path / "saelens", "saelens")
    config = read_json(tmp_path / "saelens" / "cfg.json")
    assert config["reshape_activations"] == "hook_z"
    assert config["normalize_activations"] == "none"
    assert config["metadata"] | {"sae_lens_version": "6"} == config["metadata"] | {
        "sae_lens_version": "6",
        "model_name": "gpt2",
        "hook_name": "blocks.7.attn.hook_z",
        "context_size": 96,
        "prepend_bos": False,
        "dataset_path": "some/text",
        "exclude_special_tokens": True,
        "seqpos_slice": [1, None],
        "trained_tokens": 1000,
        "saelab_sha256": sae.sha256(),
    }
    assert int(config["metadata"]["sae_lens_version"].split(".")[0]) >= 6  # else its loader drops all of this
    back = SAE.load(tmp_path / "saelens")
    assert Origin.of(back.identity) == known
    export(back, tmp_path / "again", "saelens")
    again = read_json(tmp_path / "again" / "cfg.json")
    assert {**again["metadata"], **config["metadata"]} == again["metadata"] | config["metadata"]
    assert {key: value for key, value in again.items() if key != "metadata"} == {
        key: value for key, value in config.items() if key != "metadata"
    }


def test_dictionary_learning_says_what_its_loader_asks_for(make, tmp_path):
    sae = make("matryoshka", prefixes=(8, 16, LATENTS))
    sae.identity.provenance = {"model": {"name": "gpt2"}, "hook": "blocks.7.hook_mlp_out"}
    export(sae, tmp_path / "there", "dictionary_learning")
    trainer = read_json(tmp_path / "there" / "config.json")["trainer"]
    assert trainer["dict_class"] == "MatryoshkaBatchTopKSAE"
    assert (trainer["k"], trainer["layer"], trainer["lm_name"]) == (6, 7, "gpt2")
    back = SAE.load(tmp_path / "there")
    assert back.identity.settings == {"n_latents": LATENTS, "k": 6, "prefixes": [8, 16, LATENTS]}
    assert Origin.of(back.identity) == Origin("gpt2", "blocks.7.hook_mlp_out")


def test_a_relu_sae_whose_rows_the_loader_would_rescale_goes_out_in_the_other_class(make, tmp_path):
    centred = SAE.load(FIXTURES / "saelens" / "standard")
    export(centred, tmp_path / "there", "dictionary_learning")
    assert read_json(tmp_path / "there" / "config.json")["trainer"]["dict_class"] == "AutoEncoderNew"
    there = foreign(FIXTURES / "saelens" / "standard")
    torch.testing.assert_close(SAE.load(tmp_path / "there")(there.x), there.recon, atol=1e-5, rtol=1e-5)


def test_what_is_no_sae_names_all_that_could_be_one(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(SaelabError, match=r"no SAE here in a form that saelab knows\n  fix: .*SAELens: cfg.json and"):
        SAE.load(tmp_path)
    with pytest.raises(SaelabError, match="does not exist"):
        SAE.load(tmp_path / "none")
    with pytest.raises(SaelabError, match="no SAE here"):
        SAE.load(tmp_path / "readme.txt")


def test_files_of_two_tools_in_one_place_are_ambiguous(tmp_path):
    for name in ("saelens/topk", "dictionary_learning/topk"):
        shutil.copytree(FIXTURES / name, tmp_path / "both", dirs_exist_ok=True)
    with pytest.raises(SaelabError, match="files of SAELens and of dictionary_learning"):
        SAE.load(tmp_path / "both")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_name", "gpt2\x1b[2J"),
        ("hook_name", "blocks.3\nhook"),
        ("dataset_path", "x" * 2000),
        ("context_size", "128"),
        ("prepend_bos", 1),
        ("hook_name", ["blocks.3.hook_resid_post"]),
    ],
)
def test_names_that_a_terminal_would_obey_and_wrong_types_in_metadata_are_refused(tmp_path, key, value):
    shutil.copytree(FIXTURES / "saelens" / "topk", tmp_path / "there")
    config = read_json(tmp_path / "there" / "cfg.json")
    config["metadata"][key] = value
    (tmp_path / "there" / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(SaelabError, match=key) as error:
        SAE.load(tmp_path / "there")
    assert str(error.value).isprintable()


def test_metadata_may_hold_anything_else(tmp_path):
    shutil.copytree(FIXTURES / "saelens" / "topk", tmp_path / "there")
    config = read_json(tmp_path / "there" / "cfg.json")
    config["metadata"] |= {"notes": {"by": ["hand", 3, None]}, "hook_head_index": 2}
    (tmp_path / "there" / "cfg.json").write_text(json.dumps(config))
    sae = SAE.load(tmp_path / "there")
    assert sae.identity.provenance["imported"]["metadata"]["metadata"]["notes"] == {"by": ["hand", 3, None]}
    assert Origin.of(sae.identity).hook is None  # one head of a hook: saelab has no name for that


def test_a_key_of_another_architecture_is_unknown(tmp_path):
    shutil.copytree(FIXTURES / "saelens" / "matching_pursuit", tmp_path / "there")
    config = read_json(tmp_path / "there" / "cfg.json")
    (tmp_path / "there" / "cfg.json").write_text(json.dumps(config | {"rescale_acts_by_decoder_norm": True}))
    with pytest.raises(SaelabError, match="unknown key 'rescale_acts_by_decoder_norm' = True"):
        SAE.load(tmp_path / "there")


def test_provenance_of_other_types_is_unknown(make, tmp_path):
    sae = make("topk")
    sae.identity.provenance = {
        "model": 3,
        "hook": 4,
        "windows": {"context_length": "x"},
        "imported": {"origin": {"a": 1}},
    }
    assert Origin.of(sae.identity) == Origin()
    export(sae, tmp_path / "there", "saelens")


def test_signed_sparsify_saes_keep_the_largest_magnitudes(tmp_path):
    shutil.copytree(FIXTURES / "sparsify" / "layers.3", tmp_path / "there")
    config = read_json(tmp_path / "there" / "cfg.json")
    (tmp_path / "there" / "cfg.json").write_text(json.dumps(config | {"signed": True}))
    sae, plain = SAE.load(tmp_path / "there"), SAE.load(FIXTURES / "sparsify" / "layers.3").state_dict()
    x = foreign(FIXTURES / "sparsify" / "layers.3").x
    pre = (x - plain["decoder.b_dec"]) @ plain["coder.W_enc"].T + plain["coder.b_enc"]
    expected = torch.zeros_like(pre).scatter(1, (best := pre.abs().topk(6).indices), pre.gather(1, best))
    torch.testing.assert_close(sae.encode(x).to_dense(), expected, atol=1e-5, rtol=0)
    assert (expected < 0).any()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"activation": "GELU"}, "'GELU' with OrderedDict"),
        ({"activation": torch.zeros(3)}, "none of the official code's releases"),
        ({"activation_state_dict": {3: 4}}, "none of the official code's releases"),
        ({"activation_state_dict": {"k": 4}}, "described twice"),
        ({"activation.k": 5}, "described twice"),
        ({"activation_state_dict": {"k": 4, "postact_fn": "ReLU", "gate": 1}}, "unknown key 'gate'"),
        ({"activation": "ReLU"}, "unknown key 'k'"),
    ],
    ids=str,
)
def test_an_activation_that_openais_releases_do_not_have_is_refused(tmp_path, change, error):
    state = torch.load(FIXTURES / "openai" / "topk" / "7.pt", weights_only=True)
    torch.save(state | change, tmp_path / "7.pt")
    with pytest.raises(SaelabError, match=error):
        SAE.load(tmp_path / "7.pt")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"centred": 1}, "centred should be bool or null, found 1"),
        ({"token_scale": "mine"}, "token_scale is standard, length or null, not 'mine'"),
        ({"token_scale": ["standard"]}, "token_scale is standard"),
        ({"token_scale": "standard", "form": "training"}, "only an inference form"),
        ({"token_scale": "standard", "transcoder": True}, "a transcoder's target"),
        ({"centred": True, "transcoder": True}, "a transcoder's target"),
    ],
    ids=str,
)
def test_saelabs_own_files_may_not_contradict_themselves(tmp_path, change, error):
    SAE.load(FIXTURES / "saelens" / "topk").save(tmp_path / "kept")
    config = read_json(tmp_path / "kept" / "config.json")
    (tmp_path / "kept" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(SaelabError, match=error):
        SAE.load(tmp_path / "kept")


# -- SAELens before version 6 -------------------------------------------------------------------------------

OLD = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.3.hook_resid_post",
    "hook_point_layer": 3,
    "hook_point_head_index": None,
    "dataset_path": "some/text",
    "is_dataset_tokenized": False,
    "context_size": 128,
    "d_in": 16,
    "expansion_factor": 4,
    "l1_coefficient": 8e-05,
    "use_ghost_grads": False,
    "dtype": "torch.float32",
    "device": "mps",
}


def older(name: str, directory: Path, config: dict[str, object]) -> Path:
    shutil.copytree(FIXTURES / name, directory)
    (directory / "cfg.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("name", ["saelens/topk_layer_norm", "saelens/jumprelu_constant_norm", "openai/topk"])
def test_a_scale_of_each_tokens_own_is_kept_where_it_can_be_and_refused_elsewhere(tmp_path, name):
    there = foreign(FIXTURES / name)
    sae = SAE.load(there.source)
    assert sae.identity.token_scale is not None
    check_round_trip(sae, tmp_path / "there", "saelens")
    for format in ("sparsify", "dictionary_learning"):
        with pytest.raises(SaelabError, match="divides each token by its own scale"):
            export(sae, tmp_path / "more", format)
    with pytest.raises(SaelabError, match="units of each token's own scale"):
        start_from(build("topk", 8, {"n_latents": 24, "k": 4}).sae, sae)


def test_a_run_configuration_from_before_version_6_is_read(tmp_path):
    there = foreign(FIXTURES / "saelens" / "standard")
    sae = SAE.load(older("saelens/standard", tmp_path / "old", OLD))
    torch.testing.assert_close(sae(there.x), there.recon, atol=1e-5, rtol=0)
    assert Origin.of(sae.identity) == Origin("gpt2-small", OLD["hook_point"], dataset="some/text", context_length=128)


def test_topk_was_an_activation_function_then(tmp_path):
    there = foreign(FIXTURES / "saelens" / "topk")
    config = {**OLD, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6}, "d_sae": 64}
    sae = SAE.load(older("saelens/topk", tmp_path / "old", config))
    assert torch.equal(sae.encode(there.x).to_dense() != 0, there.code != 0)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"activation_fn_str": "tanh-relu"}, "'tanh-relu' has no counterpart"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor is on"),
        ({"normalize_activations": True}, "normalize_activations is 'expected_average_only_in': the factor"),
        ({"normalize_activations": "covariance_whitening"}, "the matrix that its inputs are whitened with is not"),
        ({"sae_lens_version": "5.1.0", "gate": 3}, "unknown key 'gate' = 3"),
        ({"sae_lens_version": "six"}, "sae_lens_version is 'six'"),
        ({"activation_fn_kwargs": {"k": 3}}, "unknown key 'k' = 3"),
    ],
    ids=str,
)
def test_what_an_older_version_could_not_mean_is_refused(tmp_path, change, error):
    with pytest.raises(SaelabError, match=error):
        SAE.load(older("saelens/standard", tmp_path / "old", {**OLD, **change}))


def test_a_scaling_factor_of_ones_is_passed_over_and_no_other(tmp_path):
    from saelab.files import read_tensors, write_tensors

    directory = older("saelens/standard", tmp_path / "old", OLD)
    weights = directory / "sae_weights.safetensors"
    tensors = read_tensors(weights)
    write_tensors(weights, tensors | {"scaling_factor": torch.ones(64)})
    SAE.load(directory)
    write_tensors(weights, tensors | {"scaling_factor": torch.full((64,), 1.5)})
    with pytest.raises(SaelabError, match="scaling_factor is not 1 throughout"):
        SAE.load(directory)
