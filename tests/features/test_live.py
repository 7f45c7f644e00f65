"""A prompt's code and what interventions do, on a model small enough to check every number."""

from __future__ import annotations

import copy
import itertools
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from saelab.errors import SaelabError
from saelab.features.live import Live
from saelab.features.prompt import Peak, trace
from saelab.features.steer import Intervention, Sampling, Steering, clamped, intervened, steered, steps
from saelab.lm.mask import Mask, MaskSpec
from saelab.lm.splice import add, reconstruct, splice
from saelab.lm.windows import WindowSpec
from saelab.sae import SAE, build
from saelab.sae.code import SparseCode

EARLY, LATE = "blocks.0.mlp.hook_post", "blocks.1.hook_resid_post"
PROMPT = "the river in the north"
GREEDY = Sampling(new_tokens=8, temperature=0.0)


def make_sae(d_in: int, d_out: int | None = None) -> SAE:
    torch.manual_seed(0)
    sae = build("topk", d_in, {"n_latents": 64, "k": 6}, d_out).sae
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_()
    return sae.inference()


@pytest.fixture
def live(lm) -> Live:
    return Live.of(placed(lm, make_sae(32), LATE), lm)


@pytest.fixture
def transcoding(lm) -> Live:
    return Live.of(placed(lm, make_sae(64, 32), EARLY, LATE), lm)


def placed(lm: Any, sae: SAE, hook: str, target: str | None = None, **changes: Any) -> SAE:
    sae.identity.provenance = {
        "model": lm.identity,
        "hook": hook,
        "target_hook": target,
        "mask": Mask.of(MaskSpec(), lm.tokenizer).as_json(),
        "windows": asdict(WindowSpec(context_length=32)),
    } | changes
    return sae


# -- where an SAE belongs -----------------------------------------------------------------------------


def test_a_prompt_begins_with_bos_where_training_had_it(live):
    assert live.tokens("ab") == [0, *live.lm.tokenizer("ab", add_special_tokens=False)["input_ids"]]
    bare = replace(live, windows=replace(live.windows, prepend_bos=False))
    assert bare.tokens("ab") == live.tokens("ab")[1:]
    assert live.texts(live.tokens("ab")) == ("<bos>", "a", "b")


def test_prompts_that_do_not_fit_are_refused(live):
    assert live.limit == 64
    assert len(live.tokens("a" * 63)) == 64
    with pytest.raises(SaelabError, match=r"prompt: the prompt has 65 tokens; at most 64 fit here\n.*shorten it"):
        live.tokens("a" * 64)
    with pytest.raises(SaelabError, match="has 61 tokens; at most 54 fit here beside 10 new ones"):
        live.tokens("a" * 60, new_tokens=10)
    with pytest.raises(SaelabError, match="more than 20,001 tokens"):
        live.tokens("a" * 1_000_000)
    with pytest.raises(SaelabError, match="the prompt is empty"):
        live.tokens("")


def test_an_sae_of_another_model_is_refused(lm):
    other = {**lm.identity, "name": "gpt2", "content": "model.safetensors=0"}
    with pytest.raises(SaelabError, match="trained on another model: weights differ from those of 'gpt2'"):
        Live.of(placed(lm, make_sae(32), LATE, model=other), lm)
    with pytest.raises(SaelabError, match=r"'blocks\.1\.hook_resid_post' is 32 wide, the SAE 64"):
        Live.of(placed(lm, make_sae(64), LATE), lm)
    with pytest.raises(SaelabError, match=r"unknown hook 'blocks\.9\.hook_resid_post'"):
        Live.of(placed(lm, make_sae(32), "blocks.9.hook_resid_post"), lm)
    with pytest.raises(SaelabError, match="does not say where in a model it belongs: 'hook'"):
        Live.of(make_sae(32), lm)


# -- prompts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["live", "transcoding"])
def test_a_trace_is_the_code_of_the_unmasked_positions(which, request):
    live: Live = request.getfixturevalue(which)
    text = PROMPT[:5] + "<eos>" + PROMPT[5:]  # a special token in the middle
    found = trace(live, text)
    tokens = torch.tensor([found.tokens])
    x = live.lm.capture(tokens, [live.hook])[live.hook.name][0]
    expected = live.sae.encode(x).to_dense()
    masked = torch.tensor(found.masked)
    assert masked.nonzero()[:, 0].tolist() == [0, 6]
    expected[masked] = 0
    dense = torch.stack([torch.from_numpy(found.along(latent)) for latent in range(64)], 1)
    torch.testing.assert_close(dense, expected)
    assert found.l0 == (expected != 0).sum() / (~masked).sum()
    values, latents = expected[3].topk(2)
    assert found.top(3, 2) == [
        (latent, pytest.approx(value)) for latent, value in zip(latents.tolist(), values.tolist(), strict=True)
    ]
    assert found.top(0, 5) == []


def test_peaks_are_maxima_over_the_prompt(live):
    found = trace(live, PROMPT)
    dense = np.stack([found.along(latent) for latent in range(64)], 1)
    peaks = found.peaks()
    assert {peak.latent for peak in peaks} == set(np.flatnonzero(dense.any(0)).tolist())
    assert [peak.value for peak in peaks] == sorted((peak.value for peak in peaks), reverse=True)
    for peak in peaks:
        assert peak.value == dense[:, peak.latent].max() == dense[peak.position, peak.latent]
    scale = np.zeros(64)
    scale[peaks[3].latent], scale[peaks[5].latent] = peaks[3].value * 2, peaks[5].value
    assert found.peaks(2, scale=scale) == [peaks[5], peaks[3]]


def test_dense_latents_can_be_left_out(live):
    found = trace(live, PROMPT)
    first = found.peaks(1)[0].latent
    without = found.only(np.arange(64) != first)
    assert without.peaks() == [peak for peak in found.peaks() if peak.latent != first]
    assert not without.along(first).any()


def test_of_signed_values_the_magnitude_counts():
    from saelab.features.prompt import Trace

    entries = (np.array([0, 0, 1]), np.array([4, 2, 4]), np.array([1.0, -3.0, -2.0], dtype=np.float32))
    found = Trace((7, 8), ("a", "b"), (False, False), *entries, 5)
    assert found.peaks() == [Peak(2, 0, -3.0), Peak(4, 1, -2.0)]
    assert found.top(0, 2) == [(2, -3.0), (4, 1.0)]


# -- interventions ------------------------------------------------------------------------------------


def test_clamping_sets_a_latent_on_every_token_and_nothing_else():
    dense = torch.tensor([[0.0, 2.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = clamped(SparseCode.from_dense(dense), {2: 5.0, 0: -1.0}).to_dense()
    expected = dense.clone()
    expected[:, 2], expected[:, 0] = 5.0, -1.0
    assert torch.equal(found, expected)


@pytest.mark.parametrize("which", ["live", "transcoding"])
def test_the_edit_is_the_change_along_decoder_rows(which, request):
    live: Live = request.getfixturevalue(which)
    x = torch.randn(7, live.hook.width)
    value = torch.randn(7, 32)
    code, rows = live.sae.encode(x).to_dense(), live.sae.W_dec
    both = [Intervention(3, "clamp", 2.5), Intervention(9, "add", -1.5), Intervention(11, "clamp", 0.0)]
    expected = value + (2.5 - code[:, 3:4]) * rows[3] - code[:, 11:12] * rows[11] - 1.5 * rows[9]
    torch.testing.assert_close(intervened(live.sae, both)(x, value), expected, atol=1e-5, rtol=1e-5)


def test_clamping_to_the_present_value_changes_nothing(live):
    x = torch.randn(1, 32)
    code = live.sae.encode(x).to_dense()[0]
    held = [Intervention(latent, "clamp", float(code[latent])) for latent in range(64)]
    torch.testing.assert_close(intervened(live.sae, held)(x, x), x, atol=1e-5, rtol=1e-5)


def test_adding_is_splice_add(live):
    tokens = torch.tensor([live.tokens(PROMPT)])
    edit = intervened(live.sae, [Intervention(5, "add", 3.0)])
    with splice(live.lm, live.hook, lambda x: edit(x, x), mask=live.mask, tokens=tokens):
        ours = live.lm.capture(tokens, [live.hook])[LATE]
        logits = live.lm.logits(tokens)
    with splice(live.lm, live.hook, add(live.sae.W_dec[5], 3.0), mask=live.mask, tokens=tokens):
        assert torch.equal(live.lm.logits(tokens), logits)
    clean = live.lm.capture(tokens, [live.hook])[LATE]
    assert torch.equal(ours[0, 0], clean[0, 0])  # BOS is masked
    assert not torch.equal(ours[0, 1:], clean[0, 1:])


def test_interventions_that_cannot_be_are_refused(live):
    for wrong, said in [
        ([Intervention(64)], "there is no latent 64; they go from 0 to 63"),
        ([Intervention(-1)], "there is no latent -1"),
        ([Intervention(1), Intervention(1, "clamp", 2.0)], "latent 1 is clamped twice"),
        ([Intervention(1, "add", float("nan"))], "the strength of latent 1 is nan"),
    ]:
        with pytest.raises(SaelabError, match=said):
            intervened(live.sae, wrong)
    with pytest.raises(SaelabError, match=r"no longer finite\n.*smaller strengths"):
        steered(live, PROMPT, [Intervention(1, "add", 3e38), Intervention(2, "add", 3e38)], GREEDY)


# -- continuations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(8, 0.7, seed=3)])
@pytest.mark.parametrize("which", ["live", "transcoding"])
def test_a_strength_of_zero_is_the_baseline(which, sampling, request):
    found = steered(request.getfixturevalue(which), PROMPT, [Intervention(2, "add", 0.0)], sampling)
    assert found.steered == found.baseline
    assert (found.risers, found.fallers, found.kl_nats) == ((), (), 0.0)


def test_greedy_text_is_the_likeliest_of_the_whole_model(live):
    ids = live.tokens(PROMPT)
    for _ in range(GREEDY.new_tokens):
        ids.append(int(live.lm.logits(torch.tensor([ids]))[0, -1].argmax()))
    found = steered(live, PROMPT, [], GREEDY).baseline
    assert [*live.tokens(PROMPT), *found.tokens] == ids
    assert found.text == live.lm.tokenizer.decode(ids[-GREEDY.new_tokens :])


@pytest.mark.parametrize("which", ["live", "transcoding"])
def test_new_tokens_are_steered_too(which, request):
    live: Live = request.getfixturevalue(which)
    held = [Intervention(7, "clamp", 40.0)]
    found = steered(live, PROMPT, held, GREEDY)
    assert found.steered.tokens != found.baseline.tokens
    ids, edit = live.tokens(PROMPT), intervened(live.sae, held)
    for token in found.steered.tokens:
        values = live.lm.capture(torch.tensor([ids]), [live.hook, live.target])
        keep = live.mask.keep_tokens(torch.tensor([ids]))
        edited = values[LATE].clone()
        edited[keep] = edit(values[live.hook.name][keep], values[LATE][keep])
        with live.lm.edited(live.target, lambda _, edited=edited: edited):
            assert token == int(live.lm.logits(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)


def test_shifts_are_differences_of_probabilities(live):
    held = [Intervention(7, "add", 25.0)]
    found = steered(live, PROMPT, held, GREEDY, shown=200)
    tokens = torch.tensor([live.tokens(PROMPT)])
    with splice(live.lm, live.hook, add(live.sae.W_dec[7], 25.0), mask=live.mask, tokens=tokens):
        q = live.lm.logits(tokens)[0, -1].double().softmax(-1)
    p = live.lm.logits(tokens)[0, -1].double().softmax(-1)
    assert found.kl_nats == pytest.approx(float((p * (p / q).log()).sum()))
    assert len(found.risers) + len(found.fallers) == len(p)
    assert [s.change for s in found.risers] == sorted((s.change for s in found.risers), reverse=True)
    assert [s.change for s in found.fallers] == sorted(s.change for s in found.fallers)
    for shift in (*found.risers, *found.fallers):
        assert (shift.before, shift.after) == (
            pytest.approx(float(p[shift.token])),
            pytest.approx(float(q[shift.token])),
        )
        assert shift.text == live.texts([shift.token])[0]


def test_a_seed_gives_the_same_text_and_another_seed_another(live):
    texts = [steered(live, PROMPT, [], Sampling(12, 1.5, seed)).baseline.text for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_sampling_follows_the_softmax():
    from saelab.features.steer import _noise

    logits = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.double)
    noise = _noise(Sampling(1, 2.0, 0), logits)
    counts = torch.bincount(torch.stack([(logits + next(noise)).argmax() for _ in range(20_000)]), minlength=4)
    torch.testing.assert_close(counts / 20_000, (logits / 2).softmax(-1), atol=0.01, rtol=0, check_dtype=False)


def test_what_is_written_so_far_comes_token_by_token(live):
    found: list[Steering] = list(steps(live, PROMPT, [Intervention(7, "clamp", 40.0)], GREEDY))
    assert [len(one.steered.tokens) for one in found] == list(range(1, 9))
    assert all(
        later.baseline.tokens[: len(one.baseline.tokens)] == one.baseline.tokens
        for one, later in itertools.pairwise(found)
    )
    assert len({one.kl_nats for one in found}) == 1


def test_a_continuation_ends_with_the_text(live):
    likeliest = steered(live, PROMPT, [], GREEDY).baseline.tokens
    other = copy.copy(live.lm)
    other.tokenizer = copy.deepcopy(live.lm.tokenizer)
    other.tokenizer.eos_token = live.lm.tokenizer.convert_ids_to_tokens(likeliest[3])
    found = steered(replace(live, lm=other), PROMPT, [], GREEDY).baseline
    assert (found.tokens, found.ended) == (likeliest[: likeliest.index(likeliest[3])], True)


def test_sampling_outside_its_range_is_refused():
    for settings, said in [
        ({"new_tokens": 0}, "between 1 and 200"),
        ({"temperature": -1.0}, "between 0 and 100"),
        ({"seed": -1}, "seed lies"),
    ]:
        with pytest.raises(SaelabError, match=said):
            Sampling(**settings)


def test_reconstruct_and_intervened_agree(live):
    x = torch.randn(5, 32)
    expected = reconstruct(live.sae, lambda code: clamped(code, {4: 1.0}), keep_error=True)(x)
    assert torch.equal(intervened(live.sae, [Intervention(4, "clamp", 1.0)])(x, x), expected)
