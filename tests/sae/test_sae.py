"""The SAE class: identities between variants, the folding convention, screening, save and load."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saelab
from saelab.errors import SaelabError
from saelab.kernels import Support
from saelab.sae import SAE, VARIANTS, Scaling, SparseCode, build, variant
from saelab.sae.code import Seen
from saelab.sae.coders import OneStep
from saelab.sae.model import concatenate
from saelab.sae.rules import AbsTopK, ReLU, SelectionRule, TopK
from saelab.sae.variants import Blueprint, LossTerm, one_step

KINDS = {"topk": {"k": 5}, "abs_topk": {"k": 5}, "relu": {}}


def make(kind: str, d: int = 16, n_latents: int = 64, **settings) -> SAE:
    torch.manual_seed(0)
    sae = build(kind, d, {"n_latents": n_latents, **KINDS[kind], **settings}).sae
    with torch.no_grad():
        encoder(sae).b_enc.normal_(0, 0.2)
        sae.decoder.b_dec.normal_()
    return sae


def encoder(sae: SAE) -> OneStep:
    assert isinstance(sae.coder, OneStep)
    return sae.coder


def applied(rule: SelectionRule, pre: torch.Tensor) -> torch.Tensor:
    """What a rule makes of `[tok, lat]` pre-activations, dense."""
    support = rule.candidates(pre, Seen(pre, torch.eye(pre.shape[1])))
    values = pre[support.rows, support.latents.long()]
    return SparseCode(rule.activate(values, support), support).to_dense()


def share_weights(source: SAE, other: SAE) -> SAE:
    other.load_state_dict(source.state_dict())
    other.coder.centred = source.coder.centred
    return other


def test_topk_of_all_latents_is_relu_exactly():
    relu = make("relu")
    topk = share_weights(relu, make("topk", k=64))
    x = torch.randn(300, 16)
    assert torch.equal(topk.encode(x).to_dense(), relu.encode(x).to_dense())
    assert torch.equal(topk(x), relu(x))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_abs_topk_is_odd_in_the_pre_activations(seed):
    u = torch.randn(9, 50, generator=torch.Generator().manual_seed(seed))
    rule = AbsTopK(7)

    def code(pre: torch.Tensor) -> torch.Tensor:
        return applied(rule, pre)

    assert torch.equal(code(-u), -code(u))


def test_abs_topk_of_non_negative_pre_activations_is_topk():
    u = torch.rand(40, 100)
    assert torch.equal(applied(TopK(9), u), applied(AbsTopK(9), u))


def test_abs_topk_reconstructs_no_worse_than_topk_for_an_orthonormal_dictionary():
    basis = torch.linalg.qr(torch.randn(16, 16))[0]
    signed, plain = make("abs_topk", n_latents=16), make("topk", n_latents=16)
    x = torch.randn(200, 16)
    errors = []
    for sae in (signed, plain):
        with torch.no_grad():
            encoder(sae).W_enc.copy_(basis)
            sae.decoder.W_dec.copy_(basis)
            encoder(sae).b_enc.zero_()
        errors.append((sae(x) - x).square().sum(1))
    assert bool((errors[0] <= errors[1] + 1e-5).all())


@pytest.mark.parametrize("kind", KINDS)
def test_folding_gives_the_same_reconstruction_in_raw_units(kind):
    sae = make(kind)
    scaling = Scaling(torch.randn(16) * 30, 0.037)
    raw = torch.randn(500, 16) * 20 + scaling.mean
    folded = sae.inference(scaling)

    trained = sae(scaling.apply(raw)) / scaling.factor + scaling.mean
    torch.testing.assert_close(folded(raw), trained, rtol=1e-5, atol=1e-5 * raw.abs().max().item())
    in_scaled_units = sae.encode(scaling.apply(raw)).to_dense()
    torch.testing.assert_close(folded.encode(raw).to_dense(), in_scaled_units / scaling.factor, rtol=2e-4, atol=2e-3)
    assert torch.equal(encoder(folded).W_enc, encoder(sae).W_enc)
    assert torch.equal(folded.W_dec, sae.W_dec)
    assert folded.identity.form == "inference"
    assert not any(p.requires_grad for p in folded.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_folding_is_exact_in_float64(kind):
    sae = make(kind).double()
    scaling = Scaling(torch.randn(16, dtype=torch.float64) * 30, 0.037)
    raw = torch.randn(500, 16, dtype=torch.float64) * 20 + scaling.mean
    trained = sae((raw - scaling.mean) * scaling.factor) / scaling.factor + scaling.mean
    torch.testing.assert_close(sae.inference(scaling)(raw), trained, rtol=1e-10, atol=1e-10)


def test_folding_two_scalings_for_a_transcoder():
    sae = make("relu").double()
    source = Scaling(torch.randn(16).double(), 0.5)
    target = Scaling(torch.randn(16).double(), 4.0)
    raw = torch.randn(50, 16).double()
    expected = sae((raw - source.mean) * source.factor) / target.factor + target.mean
    torch.testing.assert_close(sae.inference(source, target)(raw), expected, rtol=1e-10, atol=1e-10)


def test_another_target_needs_an_encoder_that_does_not_subtract_the_output_bias():
    with pytest.raises(SaelabError, match="cannot have another target"):
        make("topk").inference(Scaling(torch.zeros(16), 1.0), Scaling(torch.zeros(16), 2.0))


def test_a_target_alone_is_folded_in_too():
    sae = make("relu").double()
    target = Scaling(torch.randn(16).double(), 4.0)
    raw = torch.randn(50, 16).double()
    torch.testing.assert_close(sae.inference(None, target)(raw), sae(raw) / 4.0 + target.mean)


def test_an_sae_measured_in_inference_mode_can_be_trained_afterwards():
    sae = make("topk", n_latents=80)  # a block of a shape that no other test asks for
    x = torch.randn(37, 16)
    with torch.inference_mode():
        sae.encode(x)
    sae(x).square().sum().backward()
    assert sae.W_dec.grad is not None


def test_settings_that_are_not_keyword_only_are_kept(tmp_path):
    @variant("positional")
    def positional(d_model: int, n_latents: int = 64, k: int = 4) -> Blueprint:
        return Blueprint(one_step(d_model, n_latents, TopK(k), centred=True), (LossTerm("normalised_mse"),), True)

    try:
        sae = build("positional", 16, {"n_latents": 128, "k": 8}).sae
        sae.save(tmp_path / "sae")
        assert SAE.load(tmp_path / "sae").identity.settings == {"n_latents": 128, "k": 8}
    finally:
        VARIANTS.remove("positional")


def test_the_fingerprint_covers_settings_and_form():
    four, eight = make("topk", k=4), make("topk", k=8)
    assert torch.equal(four.W_dec, eight.W_dec)
    assert len({four.sha256(), eight.sha256(), four.inference().sha256()}) == 3


def test_a_rule_that_looks_at_the_whole_batch_gets_the_whole_batch(monkeypatch):
    sae = make("topk").inference()
    seen = []
    real = sae.coder.encode
    monkeypatch.setattr(sae.coder, "encode", lambda batch: seen.append(len(batch.x)) or real(batch))
    sae.encode(torch.randn(5000, 16))
    assert seen == [2048, 2048, 904]
    monkeypatch.setattr(TopK, "per_token", False)
    sae.encode(torch.randn(5000, 16))
    assert seen[3:] == [5000]


def test_two_threads_may_share_an_sae():
    from concurrent.futures import ThreadPoolExecutor

    sae = make("topk", n_latents=2048).inference()
    batches = [torch.randn(300, 16) for _ in range(24)]
    expected = [sae(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(sae, batches), expected, strict=True):
            assert torch.equal(found, wanted)


def test_folding_twice_is_refused():
    sae = make("topk").inference()
    assert sae.inference() is sae
    with pytest.raises(SaelabError, match="already is in inference form"):
        sae.inference(Scaling(torch.zeros(16), 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_screened_selection_finds_the_exact_support(kind):
    torch.manual_seed(5)
    sae = build(kind, 128, {"n_latents": 2048} | ({"k": 32} if "k" in KINDS[kind] else {})).sae
    x = torch.randn(400, 128) * torch.linspace(0.5, 2, 128)
    exact = sae.encode(x).to_dense() != 0
    sae.coder.set_precision("screened")
    screened = sae.encode(x)
    found = screened.to_dense() != 0
    assert (found & exact).sum() / exact.sum() >= 0.9999
    torch.testing.assert_close(screened.to_dense()[found & exact], (x @ encoder(sae).W_enc.T)[found & exact] + 0.0)


def test_rows_with_few_positives_are_padded_and_padding_is_not_active():
    sae = make("topk")
    with torch.no_grad():
        encoder(sae).b_enc.fill_(-100.0)
        encoder(sae).b_enc[:2] = 100.0
    code = sae.encode(torch.randn(7, 16))
    assert code.values.numel() == 7 * 5
    assert code.l0().tolist() == [2] * 7
    assert code.firing_counts().tolist() == [7, 7] + [0] * 62


def test_shapes_dtypes_and_empty_input():
    sae = make("topk")
    assert sae(torch.randn(2, 3, 16)).shape == (2, 3, 16)
    assert sae(torch.randn(4, 16, dtype=torch.bfloat16)).dtype == torch.float32
    assert sae(torch.randn(0, 16)).shape == (0, 16)
    with pytest.raises(SaelabError, match="reads activations of width 16, not 17"):
        sae(torch.randn(2, 17))


def test_long_inputs_are_encoded_in_parts_without_a_trace():
    x = torch.randn(5000, 16)
    for kind in KINDS:
        sae = make(kind)
        with torch.no_grad():
            parts = sae.encode(x)
        whole = sae.encode(x)  # with a gradient, in one piece
        assert parts.support.width == whole.support.width
        torch.testing.assert_close(parts.to_dense(), whole.to_dense().detach())


def test_sparse_code_round_trips_through_dense():
    dense = torch.randn(6, 9).relu()
    code = SparseCode.from_dense(dense)
    assert torch.equal(code.to_dense(), dense)
    assert torch.equal(concatenate([code, code]).to_dense(), torch.cat([dense, dense]))
    assert code.l0().tolist() == (dense != 0).sum(1).tolist()


def test_spare_capacity_belongs_to_no_row():
    support = Support(torch.tensor([1, 0, 0, 0], dtype=torch.int32), torch.tensor([0, 1, 1], dtype=torch.int32), 3)
    code = SparseCode(torch.tensor([2.0, 9.0, 9.0, 9.0]), support)
    assert code.to_dense().tolist() == [[0, 2, 0], [0, 0, 0]]
    assert code.firing_counts().tolist() == [0, 1, 0]


@pytest.mark.parametrize("form", ["training", "inference"])
@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(tmp_path, kind, form):
    sae = make(kind)
    sae = sae.inference(Scaling(torch.randn(16), 2.0)) if form == "inference" else sae
    sae.identity.provenance = {"hook": "blocks.1.hook_resid_post"}
    sae.save(tmp_path / "sae")
    loaded = saelab.SAE.load(tmp_path / "sae")
    x = torch.randn(10, 16)
    assert torch.equal(loaded(x), sae(x))
    assert loaded.identity == sae.identity
    assert loaded.sha256() == sae.sha256()
    assert all(p.requires_grad == (form == "training") for p in loaded.parameters())
    with pytest.raises(SaelabError, match="exists already"):
        sae.save(tmp_path / "sae")


def test_an_old_file_keeps_its_settings_when_defaults_change(tmp_path):
    build("topk", 16, {"n_latents": 64}).sae.save(tmp_path / "sae")
    written = json.loads((tmp_path / "sae" / "config.json").read_text())
    assert written["settings"] == {
        "n_latents": 64,
        "k": 32,
        "aux_k": None,
        "aux_coefficient": 1 / 32,
        "multi_k": None,
        "multi_coefficient": 1 / 8,
    }


def test_settings_are_kept_as_a_file_gives_them_back(tmp_path):
    sae = build("matryoshka", 16, {"n_latents": 64, "k": 4, "prefixes": (8, 64)}).sae
    sae.save(tmp_path / "sae")
    assert saelab.SAE.load(tmp_path / "sae").identity == sae.identity
    assert sae.identity.settings["prefixes"] == [8, 64]


def _edit(key, value):
    def change(directory):
        path = directory / "config.json"
        document = json.loads(path.read_text())
        document[key] = value
        path.write_text(json.dumps(document))

    return change


def _tensor(name, value):
    def change(directory):
        from safetensors.torch import load_file, save_file

        tensors = load_file(directory / "weights.safetensors")
        tensors = {k: v.clone() for k, v in tensors.items() if k != name}
        if value is not None:
            tensors[name] = value
        save_file(tensors, directory / "weights.safetensors")

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_edit("schema", 99), "expected schema 1, found 99"),
        (_edit("kind", "topkk"), "unknown SAE variant 'topkk'(.|\n)*did you mean 'topk'"),
        (_edit("settings", {"k": 999, "n_latents": 64}), "k = 999 is more than n_latents = 64"),
        (_edit("settings", {"surprise": 1}), "not an SAE this saelab can build"),
        (_edit("d_in", "16"), "d_in should be int, found '16'"),
        (_edit("d_in", -3), "d_in -3 and d_out 16 are no widths"),
        (_edit("d_out", 5), "d_out is 5, this variant's is 16"),
        (_edit("provenance", 3), "provenance should be dict, found 3"),
        (_edit("settings", {"n_latents": 2**62}), "not an SAE this saelab can build"),
        (_edit("form", "frozen"), "form is 'training' or 'inference', not 'frozen'"),
        (_tensor("coder.b_enc", None), "the tensor coder.b_enc is missing"),
        (_tensor("extra", torch.zeros(1)), "there is a tensor extra"),
        (_tensor("coder.b_enc", torch.zeros(3)), r"coder.b_enc has shape \[3\], expected \[64\]"),
        (_tensor("coder.b_enc", torch.zeros(64, dtype=torch.int64)), "coder.b_enc holds torch.int64"),
        (_tensor("coder.b_enc", torch.full((64,), float("nan"))), "coder.b_enc holds values that are not finite"),
        (lambda d: (d / "weights.safetensors").write_bytes(b"\x00" * 40), "not a readable safetensors file"),
        (lambda d: (d / "config.json").write_text("{"), "not a readable JSON file"),
        (lambda d: (d / "config.json").unlink(), "this file does not exist"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(tmp_path, damage, message):
    directory = tmp_path / "sae"
    make("topk").save(directory)
    damage(directory)
    with pytest.raises(SaelabError, match=message):
        SAE.load(directory)


def test_no_directory_at_all(tmp_path):
    with pytest.raises(SaelabError, match="this directory does not exist"):
        SAE.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("topk", {"k": 65, "n_latents": 64}, "k = 65 is more than n_latents = 64"),
        ("abs_topk", {"k": 0}, "k must be at least 1, not 0"),
        ("topk", {"n_latents": 0}, r"n_latents must be at least 1 and below 2\^31, not 0"),
        ("topk", {"aux_k": 0}, "aux_k must be at least 1"),
        ("relu", {"l1": -1.0}, "l1: must not be negative"),
        ("relu", {"l1_warmup_frac": 2.0}, "a fraction lies between 0 and 1"),
        *((kind, {"n_latents": -1}, "n_latents must be at least 1") for kind in VARIANTS),
        ("variational", {"noise": 0.0}, "a KL needs a variance, and noise: 0 has none"),
        ("matryoshka", {"k": 64, "prefixes": [32, 8192]}, "k = 64 is larger than the prefix of 32 latents"),
        ("matryoshka", {"prefixes": [64, 64]}, "rise strictly and end at n_latents = 8192"),
        ("feature_choice", {"mutual_frac": 0.0}, "Zipf quotas are measured while training selects"),
        ("jumprelu", {"target_l0": None}, "penalty: l0_target needs one"),
        ("topk", {"multi_k": 16}, "lies above k = 32"),
        ("group_bias", {"l0": -5.0}, "l0: must be positive, found -5.0"),
        ("group_bias", {"highest": 2.0}, "highest: a frequency above 0 and at most 1"),
        ("group_bias", {"l0": 5000.0}, "would need a frequency above 1 in the first group"),
    ],
)
def test_settings_that_cannot_work(kind, settings, message):
    with pytest.raises(SaelabError, match=message):
        build(kind, 16, settings)


@pytest.mark.parametrize("kind", KINDS)
def test_initialisation_ties_encoder_and_decoder(kind):
    sae = build(kind, 16, {"n_latents": 64}).sae if kind == "relu" else build(kind, 16, {"n_latents": 64, "k": 4}).sae
    assert torch.equal(encoder(sae).W_enc, sae.W_dec)
    norms = sae.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, 0.1 if kind == "relu" else 1.0))
    assert not encoder(sae).b_enc.any()
    assert not sae.b_dec.any()


def test_rules_say_what_inference_uses():
    for rule in (TopK(3), AbsTopK(3), ReLU()):
        assert rule.inference() is rule
