"""Transcoders: another target than the input, with and without a skip connection, for every variant that can."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saelab.errors import SaelabError, SettingError
from saelab.objectives import TERMS, Objective, Pass
from saelab.sae import SAE, VARIANTS, Blueprint, Scaling, SparseCode, build
from saelab.sae.coders import Gated, OneStep
from saelab.sae.rules import TopK
from saelab.testing.conformance import CHECKS, Case

D_IN, D_OUT, F, TOKENS = 12, 7, 40, 60
DOUBLE = torch.float64

KINDS: dict[str, dict[str, Any]] = {
    "topk": {"k": 5, "aux_k": 8, "multi_k": 12},
    "abs_topk": {"k": 5, "aux_k": 8},
    "batch_topk": {"k": 5, "aux_k": 8},
    "matryoshka": {"k": 5, "aux_k": 8, "prefixes": (8, 24, F)},
    "mutual_choice": {"k": 5, "aux_k": 8},
    "feature_choice": {"k": 5, "aux_k": 8, "mutual_frac": 0.4},
    "gradient_topk": {"k": 5, "aux_k": 8},
    "relu": {"p_end": 0.5, "p_start_frac": 0.0},
    "jumprelu": {"threshold": 0.5, "target_l0": 4.0},
    "gated": {},
    "variational": {"k": 5, "aux_k": 8, "noise": 0.3},
}
BOUND = {"top_afa", "matching_pursuit", "group_bias", "codebook"}


def tokens(width: int, seed: int = 0, n: int = TOKENS) -> Tensor:
    return torch.randn(n, width, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def made(kind: str, d_out: int | None = D_OUT, *, skip: bool = False, **changes: Any) -> Blueprint:
    """In float64, with every parameter off where it starts."""
    torch.manual_seed(0)
    blueprint = build(kind, D_IN, {"n_latents": F} | KINDS[kind] | changes, d_out, skip=skip)
    for _, parameter in sorted(blueprint.sae.double().named_parameters()):
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return blueprint


def passed(sae: SAE, x: Tensor, target: Tensor, **channels: Any) -> Pass:
    seen = sae.see(x, {"loss_grad": torch.randn_like(target)})
    encoding = sae.coder.encode(seen)
    dead = torch.arange(sae.n_latents) % 3 == 0
    return Pass(sae, seen, target, encoding, sae.reconstruct(x, encoding.code), dead, 1.0)


def test_every_variant_either_can_or_says_why_not():
    assert KINDS.keys() | BOUND == set(VARIANTS)
    for kind in BOUND:
        with pytest.raises(SettingError, match=f"'{kind}' cannot have another target than its input: it ") as caught:
            build(kind, D_IN, {"n_latents": 1024}, D_IN)
        assert caught.value.key == "target_hook"


@pytest.mark.parametrize("promise", CHECKS, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["topk", "jumprelu", "gated", "feature_choice"])
def test_conformance(kind, skip, promise):
    promise(Case(kind, KINDS[kind] | {"n_latents": 64}, d_out=10, skip=skip))


# -- what it computes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_output_is_the_code_decoded_plus_the_skip_connection(kind, skip):
    sae = made(kind, skip=skip).sae.eval()
    x, beside = tokens(D_IN), {"loss_grad": tokens(D_OUT, 3)}
    code = sae.encode(x, beside)
    through = code.to_dense() @ sae.W_dec + sae.b_dec
    past = x @ sae.decoder.W_skip.T if sae.decoder.W_skip is not None else torch.zeros(TOKENS, D_OUT, dtype=DOUBLE)
    assert (sae.decoder.W_skip is not None) == skip
    torch.testing.assert_close(sae.decode(code), through)
    torch.testing.assert_close(sae.reconstruct(x, code), through + past)
    if not sae.coder.requires and sae.coder.per_token:
        torch.testing.assert_close(sae(x.view(3, -1, D_IN)), (through + past).view(3, -1, D_OUT))


def test_the_input_is_not_reduced_by_the_targets_bias():
    sae = made("topk", D_IN).sae
    assert isinstance(sae.coder, OneStep)
    pre = tokens(D_IN) @ sae.coder.W_enc.T + sae.coder.b_enc
    kept = torch.zeros_like(pre).scatter(1, pre.topk(5).indices, 1.0)
    torch.testing.assert_close(sae.encode(tokens(D_IN)).to_dense(), (pre * kept).relu())


def test_a_target_of_the_same_width_still_makes_a_transcoder():
    plain, other = (
        build("topk", D_IN, {"n_latents": F, "k": 5}).sae,
        build("topk", D_IN, {"n_latents": F, "k": 5}, D_IN),
    )
    assert (plain.identity.transcoder, other.sae.identity.transcoder) == (False, True)
    other.sae.load_state_dict(plain.state_dict())
    assert other.sae.sha256() != plain.sha256()


def test_losses_go_by_the_width_of_the_target():
    narrow, wide = (build("topk", 64, {"n_latents": 256}, d_out) for d_out in (16, None))
    widths = [next(loss.settings["rule"] for loss in b.losses if loss.kind == "auxk") for b in (narrow, wide)]
    assert [rule.k for rule in widths if isinstance(rule, TopK)] == [8, 32]
    assert build("jumprelu", 64, {"n_latents": 256}, 16).losses[1].coefficient == 160.0


def test_a_skip_connection_needs_another_target():
    with pytest.raises(SettingError, match="would copy the input"):
        build("topk", D_IN, {"n_latents": F}, skip=True)


# -- initialisation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_with_a_decoder_of_its_own_and_no_skip(kind):
    torch.manual_seed(0)
    blueprint = build(kind, D_IN, {"n_latents": F} | KINDS[kind], D_IN, skip=True)
    sae = blueprint.sae
    norms = sae.W_dec.norm(dim=1)
    if blueprint.unit_norm_decoder:
        torch.testing.assert_close(norms, torch.ones(F))
        assert isinstance(sae.coder, OneStep | Gated)
        similarity = torch.cosine_similarity(sae.W_dec.detach(), sae.coder.W_enc.detach())
        assert float(similarity.abs().mean()) < 0.5
        torch.testing.assert_close(sae.coder.W_enc.norm(dim=1), torch.full((F,), 0.3))
    else:
        assert not norms.any()
    assert sae.decoder.W_skip is not None
    assert sae.decoder.W_skip.shape == (D_IN, D_IN)
    assert not sae.decoder.W_skip.any()


# -- every loss term --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_autograd_is_the_derivative_of_the_loss(kind, skip):
    """In every parameter, the skip connection among them; selection is held fixed."""
    blueprint = made(kind, skip=skip)
    sae, x, target = blueprint.sae, tokens(D_IN), tokens(D_OUT, 1)
    objective = Objective([blueprint.losses[0]], sae.coder).double()

    def loss() -> Tensor:
        torch.manual_seed(5)
        return objective(passed(sae, x, target))[0]

    loss().backward()
    names = [name for name, p in sae.named_parameters() if p.grad is not None and "rule" not in name]
    assert "decoder.W_dec" in names
    assert ("decoder.W_skip" in names) == skip
    parameters, small, slope = dict(sae.named_parameters()), 1e-7, 0.0
    values = []
    for sign in (1, -2):
        torch.manual_seed(6)
        for name in names:
            direction = torch.randn_like(parameters[name])
            slope += float((parameters[name].grad * direction).sum()) if sign == 1 else 0.0  # type: ignore[operator]
            parameters[name].data.add_(direction, alpha=sign * small)
        values.append(float(loss().detach()))
    assert (values[0] - values[1]) / (2 * small) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def dense_pass(kind: str, **changes: Any) -> tuple[SAE, Pass, Tensor, Tensor]:
    """A skip transcoder, its pass, and in dense form its code and what its skip connection gives."""
    sae, x, target = made(kind, skip=True, **changes).sae, tokens(D_IN), tokens(D_OUT, 1)
    p = passed(sae, x, target)
    assert sae.decoder.W_skip is not None
    return sae, p, p.code.to_dense(), x @ sae.decoder.W_skip.T + sae.b_dec


def test_reconstruction_terms_measure_against_the_target():
    _, p, code, affine = dense_pass("topk")
    error = (p.target - code @ p.sae.W_dec - affine).square().sum()
    spread = (p.target - p.target.mean(0)).square().sum()
    torch.testing.assert_close(TERMS["normalised_mse"]()(p), error / spread)
    torch.testing.assert_close(TERMS["sum_squared_error"]()(p), error / TOKENS)
    more = p.sae.coder.encode_by(TopK(12), p.seen).code.to_dense()
    error = (p.target - more @ p.sae.W_dec - affine).square().sum()
    torch.testing.assert_close(TERMS["other_rule_mse"](rule=TopK(12))(p), error / spread)


def test_every_prefix_has_the_skip_connection():
    _, p, code, affine = dense_pass("matryoshka")
    spread = (p.target - p.target.mean(0)).square().sum()
    errors = [(p.target - code[:, :m] @ p.sae.W_dec[:m] - affine).square().sum() / spread for m in (8, 24, F)]
    torch.testing.assert_close(TERMS["prefix_mse"](prefixes=(8, 24, F))(p), torch.stack(errors).mean())


def test_the_gates_reconstruction_holds_the_decoder_and_the_skip_connection_fixed():
    sae, p, _, affine = dense_pass("gated")
    assert isinstance(sae.coder, Gated)
    gate = (p.seen.x @ sae.coder.W_enc.T + sae.coder.b_gate).relu()
    value = TERMS["gate_reconstruction"]()(p)
    torch.testing.assert_close(value, (p.target - gate @ sae.W_dec - affine).square().sum(1).mean())
    value.backward()
    assert all(p.grad is None or not p.grad.any() for p in sae.decoder.parameters())


def test_auxiliary_terms_explain_what_is_left_of_the_target():
    sae, p, code, affine = dense_pass("topk")
    assert isinstance(sae.coder, OneStep)
    left = (p.target - code @ sae.W_dec - affine).detach()
    pre = (p.seen.x @ sae.coder.W_enc.T + sae.coder.b_enc)[:, p.dead]
    kept = torch.zeros_like(pre).scatter(1, pre.topk(3).indices, 1.0)
    explained = (pre * kept).relu() @ sae.W_dec[p.dead]
    wanted = (left - explained).square().sum() / (left - left.mean(0)).square().sum()
    torch.testing.assert_close(TERMS["auxk"](rule=TopK(3))(p), wanted)
    zipf = TERMS["aux_zipf"](rule=TopK(3), n_latents=F, k=5, gamma=1e-9).double()
    with torch.no_grad():
        torch.testing.assert_close(zipf(p), wanted)
    torch.testing.assert_close(TERMS["revive"]()(p), -(left @ sae.W_dec[p.dead].T).mean())


@pytest.mark.parametrize(
    ("kind", "term", "settings"),
    [
        ("relu", "l1", {}),
        ("relu", "annealed_lp", {"p_end": 0.5, "start_frac": 0.0, "updates": 3}),
        ("gated", "gate_l1", {}),
        ("jumprelu", "l0", {}),
        ("jumprelu", "l0_target", {"l0": 3.0}),
        ("jumprelu", "tanh", {}),
        ("jumprelu", "pre_act", {}),
        ("variational", "kl", {}),
        ("topk", "afa", {}),
    ],
)
def test_terms_on_the_code_do_not_look_at_the_target(kind, term, settings):
    _, p, _, _ = dense_pass(kind)
    other = Pass(p.sae, p.seen, p.target + 1, p.encoding, p.recon - 1, p.dead, p.progress)
    first, second = (TERMS[term](**settings).double()(each).detach() for each in (p, other))
    assert first.ndim == 0
    assert float(first) > 0
    assert torch.equal(first, second)


def test_every_term_is_here():
    here = {"normalised_mse", "sum_squared_error", "other_rule_mse", "prefix_mse", "gate_reconstruction"}
    here |= {"auxk", "aux_zipf", "revive", "l1", "annealed_lp", "gate_l1", "l0", "l0_target", "tanh", "pre_act"}
    assert here | {"kl", "afa"} == set(TERMS)


# -- folding ----------------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(KINDS)), st.booleans(), st.integers(1, 20), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_folding_two_scalings_is_exact(kind, skip, d_out, seed):
    draw = torch.Generator().manual_seed(seed)

    def scaling(width: int) -> Scaling:
        mean = 30 * torch.randn(width, generator=draw, dtype=DOUBLE)
        return Scaling(mean, 10 ** float(4 * torch.rand((), generator=draw) - 2))

    sae, source, target = made(kind, d_out, skip=skip).sae.eval(), scaling(D_IN), scaling(d_out)
    x = tokens(D_IN, seed)
    sae.calibrate(x)
    plain, folded = sae.inference(), sae.inference(source, target)
    raw = x / source.factor + source.mean
    expected = plain(x) / target.factor + target.mean
    error = (folded(raw) - expected).abs().max() / expected.abs().max().clamp_min(1.0)
    assert float(error) < 1e-10
    codes = folded.encode(raw).to_dense() * source.factor
    assert float((codes - plain.encode(x).to_dense()).abs().max()) < 1e-9


def test_a_transcoder_is_folded_with_two_scalings_or_none():
    sae = made("topk", D_IN, skip=True).sae
    with pytest.raises(SaelabError, match="has a scaling of its own, and none was given"):
        sae.inference(Scaling(torch.zeros(D_IN), 2.0))
    x = tokens(D_IN)
    assert torch.equal(sae.inference()(x), sae(x))


# -- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["training", "inference"])
@pytest.mark.parametrize("d_out", [D_IN, D_OUT])
@pytest.mark.parametrize("skip", [False, True])
def test_save_and_load(tmp_path, skip, d_out, form):
    sae = made("topk", d_out, skip=skip).sae.float()
    if form == "inference":
        sae = sae.inference(Scaling(torch.randn(D_IN), 0.5), Scaling(torch.randn(d_out), 2.0))
    sae.save(tmp_path / "sae")
    loaded, x = SAE.load(tmp_path / "sae"), tokens(D_IN).float()
    assert loaded.identity == sae.identity
    assert loaded.sha256() == sae.sha256()
    assert torch.equal(loaded(x), sae(x))
    assert (loaded.identity.d_out, loaded.identity.skip, loaded.coder.centred) == (d_out, skip, False)


def test_the_fingerprint_counts_the_skip_connection():
    sae = made("topk", skip=True).sae
    other = copy.deepcopy(sae)
    with torch.no_grad():
        other.decoder.W_skip[0, 0] += 1  # type: ignore[index]
    assert other.sha256() != sae.sha256()


def test_a_file_from_before_transcoders_loads_with_the_same_fingerprint(tmp_path):
    sae = build("topk", D_IN, {"n_latents": F, "k": 5}).sae
    sae.save(tmp_path / "sae")
    path = tmp_path / "sae" / "config.json"
    document = json.loads(path.read_text())
    for key in ("transcoder", "skip"):
        assert document.pop(key) is False
    path.write_text(json.dumps(document))
    assert SAE.load(tmp_path / "sae").sha256() == sae.sha256()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("d_out", 5, r"decoder.W_dec has shape \[40, 7\], expected \[40, 5\]"),
        ("skip", False, "there is a tensor decoder.W_skip that this SAE does not have"),
        ("skip", 1, "skip should be bool, found 1"),
        ("transcoder", False, "not an SAE this saelab can build: (.|\n)*would copy the input"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, key, value, message):
    made("topk", skip=True).sae.save(tmp_path / "sae")
    path = tmp_path / "sae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(SaelabError, match=message):
        SAE.load(tmp_path / "sae")


def test_a_code_that_was_changed_is_decoded_on_the_same_skip_connection():
    sae, x = made("topk", skip=True).sae, tokens(D_IN)
    code = sae.encode(x)
    off = SparseCode(torch.zeros_like(code.values), code.support)
    torch.testing.assert_close(sae.reconstruct(x, off), sae.decoder.affine(x))
