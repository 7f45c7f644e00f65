"""The index says what brute force says, ends the same however often it is interrupted, and says what is wrong."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

import numpy as np
import pytest
import torch

from saelab.errors import SaelabError
from saelab.features import Bundle, IndexSpec
from saelab.features.build import Origin, build_index
from saelab.features.bundle import HISTOGRAM_BINS, POSITION_BINS, state
from saelab.features.codes import StoredCodes
from saelab.features.decoder import no_lens
from saelab.features.examples import _hash, arrays, choose
from saelab.features.spill import Entries
from saelab.lm.vocabulary import vocabulary
from saelab.sae import build

HOOK = "blocks.1.hook_resid_post"
SPEC = IndexSpec(top=4, intervals=3, per_interval=2, tokens_listed=4, latents_listed=3, coactive_tokens=10**9)


@pytest.fixture(params=["topk", "abs_topk", "relu"])
def sae(request, store):
    torch.manual_seed(0)
    settings = {"n_latents": 48} | ({} if request.param == "relu" else {"k": 5})
    found = build(request.param, store.width(HOOK), settings).sae
    with torch.no_grad():
        dict(found.named_parameters())["coder.W_enc"][40:] = 0  # latents that are never active
    return found.inference(store.scaling(HOOK))


def origin(store, sae, lm, spec=SPEC):
    return Origin(
        StoredCodes(store, sae, HOOK, spec),
        sae.W_dec,
        HOOK,
        lambda: lm,
        lambda: vocabulary(lm.tokenizer),
        {"sha256": sae.sha256(), **asdict(sae.identity)},
        {"sae": sae.sha256(), "store": store.content_sha256},
    )


def quiet(stage, done, total):
    pass


@pytest.fixture
def bundle(store, sae, lm, tmp_path):
    build_index(origin(store, sae, lm), SPEC, tmp_path / "index", quiet)
    return Bundle(tmp_path / "index")


def brute(store, sae):
    """latent -> context -> position -> value, and the ids of all contexts, by loops."""
    found = defaultdict(lambda: defaultdict(dict))
    for shard in store.of("train"):
        tensors = store.read(shard)
        dense = sae.encode(tensors[HOOK].float()).to_dense()
        for row, latent in dense.nonzero().tolist():
            context, position = int(tensors["context"][row]), int(tensors["position"][row])
            found[latent][context][position] = float(dense[row, latent])
    tokens = torch.cat([part.tokens for part in store.contexts("train")])
    return found, tokens


def test_counts_and_statistics_are_brute_forces(bundle, store, sae):
    found, tokens = brute(store, sae)
    length = tokens.shape[1]
    for latent in range(sae.n_latents):
        feature = bundle.feature(latent)
        at = [(c, p, v) for c, row in found[latent].items() for p, v in row.items()]
        values = [v for _, _, v in at]
        assert (feature.count, feature.negative) == (len(at), sum(v < 0 for v in values))
        assert feature.dead == (not at)
        if not at:
            assert (feature.mean, feature.min, feature.max, sum(feature.histogram)) == (0, 0, 0, 0)
            assert feature.fires_on == []
            continue
        assert feature.density == len(at) / store.n_tokens("train")
        assert (feature.min, feature.max) == (min(0, *values), max(0, *values))
        assert feature.mean == pytest.approx(sum(values) / len(values), rel=1e-5)
        bins = np.clip(((np.array(values) - feature.min) / (feature.max - feature.min) * HISTOGRAM_BINS), 0, 31.5)
        assert feature.histogram == np.bincount(bins.astype(int), minlength=HISTOGRAM_BINS).tolist()
        stretches = np.bincount([p * POSITION_BINS // length for _, p, _ in at], minlength=POSITION_BINS)
        assert bundle.columns["positions"][latent].tolist() == stretches.tolist()
        weight = defaultdict(float)
        for c, p, v in at:
            weight[int(tokens[c, p])] += abs(v)
        total = sum(weight.values())
        shares = sorted(weight.values(), reverse=True)[: SPEC.tokens_listed]
        assert [share for _, share in feature.fires_on] == pytest.approx([s / total for s in shares], rel=1e-5)
        assert all(weight[token] / total == pytest.approx(share, rel=1e-5) for token, share in feature.fires_on)


def expected_examples(row, latent, sign):
    """(bin, context, position) of one tail, in order."""
    tail = {c: {p: sign * v for p, v in at.items() if sign * v > 0} for c, at in row.items()}
    tail = {c: at for c, at in tail.items() if at}
    if not tail:
        return []
    peaks = sorted(
        (-max(at.values()), c, min(p for p, v in at.items() if v == max(at.values()))) for c, at in tail.items()
    )
    chosen = [(0, c, p) for _, c, p in peaks[: SPEC.top]]
    highest = max(v for at in tail.values() for v in at.values())
    for interval in range(SPEC.intervals):
        members = {}
        for c, at in tail.items():
            inside = [
                p
                for p, v in at.items()
                if min(int((highest - v) / highest * SPEC.intervals), SPEC.intervals - 1) == interval
            ]
            if inside:
                members[c] = min(inside)
        drawn = sorted(members, key=lambda c: int(_hash(np.array([latent]), np.array([c]), SPEC.seed)[0]) >> 24)
        chosen += [(1 + interval, c, members[c]) for c in drawn[: SPEC.per_interval]]
    return [(b if sign > 0 else -1 - b, c, p) for b, c, p in chosen]


def test_examples_are_brute_forces(bundle, store, sae):
    found, _ = brute(store, sae)
    for latent in range(sae.n_latents):
        row = found[latent]
        examples = bundle.examples(latent)
        expected = expected_examples(row, latent, 1) + expected_examples(row, latent, -1)
        assert [(e.bin, e.context, e.position) for e in examples] == expected
        for example in examples:
            at = row[example.context]
            assert example.values.keys() == at.keys()
            scale = max(abs(v) for context in row.values() for v in context.values())
            assert all(abs(example.values[p] - v) <= 1e-3 * scale for p, v in at.items())
    assert bundle.signed == any(v < 0 for row in found.values() for at in row.values() for v in at.values())


def test_neighbours_and_common_activity_are_brute_forces(bundle, store, sae):
    unit = torch.nn.functional.normalize(sae.W_dec, dim=1).double()
    cosines = unit @ unit.T - 3 * torch.eye(len(unit))
    found, _ = brute(store, sae)
    active = np.zeros((sae.n_latents, store.n_tokens("train")))
    places = sorted({(c, p) for row in found.values() for c, at in row.items() for p in at})
    number = {place: i for i, place in enumerate(places)}
    for latent, row in found.items():
        for c, at in row.items():
            for p in at:
                active[latent, number[c, p]] = 1
    common = active @ active.T
    norm = np.sqrt(np.outer(common.diagonal(), common.diagonal()))
    overlap = np.divide(common, norm, out=np.zeros_like(common), where=norm > 0)
    np.fill_diagonal(overlap, 0)
    for latent in range(sae.n_latents):
        feature = bundle.feature(latent)
        assert [c for _, c in feature.neighbours] == pytest.approx(cosines[latent].topk(3).values.tolist(), abs=1e-5)
        best = [x for x in sorted(overlap[latent].tolist(), reverse=True)[:3] if x > 0]
        assert [x for _, x in feature.coactive] == pytest.approx(best, abs=1e-6)
        assert all(overlap[latent, other] == pytest.approx(x, abs=1e-6) for other, x in feature.coactive)


def test_the_lens_is_the_final_norm_and_the_unembedding(bundle, sae, lm):
    model = lm.bridge.original_model
    d = sae.W_dec.shape[1]
    rows = torch.nn.functional.normalize(sae.W_dec, dim=1) * d**0.5
    logits = lm.bridge.ln_final(rows[None])[0] @ model.get_output_embeddings().weight.T
    for latent in range(0, sae.n_latents, 7):
        top = logits[latent].topk(4)
        feature = bundle.feature(latent)
        assert [i for i, _ in feature.promoted] == top.indices.tolist()
        assert [x for _, x in feature.promoted] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert [x for _, x in feature.suppressed] == pytest.approx(sorted(logits[latent].tolist())[:4], abs=1e-4)
        assert sum(feature.logit_histogram) == logits.shape[1]


@pytest.mark.parametrize(
    ("hook", "readable"),
    [
        ("blocks.3.hook_resid_post", True),
        ("blocks.3.mlp.hook_out", True),
        ("blocks.3.hook_attn_out", True),
        ("blocks.3.attn.hook_z", False),
        ("blocks.3.attn.hook_q", False),
        ("blocks.3.mlp.hook_post", False),
    ],
)
def test_only_what_is_written_to_the_residual_stream_is_read_as_logits(hook, readable):
    reason = no_lens(hook)
    assert (reason is None) == readable
    assert readable or reason == f"{hook} does not write to the residual stream"


def files(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file() and p.name != ".lock"}


def test_an_index_interrupted_anywhere_ends_with_the_same_bytes(store, sae, lm, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    calls = []
    build_index(origin(store, sae, lm), SPEC, whole, lambda stage, done, total: calls.append(stage))

    def fail_after(n):
        left = iter(range(n))

        def report(*_):
            if next(left, None) is None:
                raise KeyboardInterrupt

        return report

    for n in range(len(calls)):
        try:
            build_index(origin(store, sae, lm), SPEC, broken, fail_after(n))
        except KeyboardInterrupt:
            assert state(broken) in ("building", "complete")
    build_index(origin(store, sae, lm), SPEC, broken, quiet)
    assert files(broken) == files(whole)
    assert not (broken / "work").exists()


def test_a_complete_index_is_found_another_replaces_it(bundle, store, sae, lm):
    before = files(bundle.directory)
    build_index(origin(store, sae, lm), SPEC, bundle.directory, lambda *_: pytest.fail("built again"))
    assert files(bundle.directory) == before
    fewer = IndexSpec(top=1)
    build_index(origin(store, sae, lm, fewer), fewer, bundle.directory, quiet)
    assert Bundle(bundle.directory).manifest["content"]["spec"]["top"] == 1


def test_what_is_wrong_is_said(bundle, tmp_path):
    with pytest.raises(SaelabError, match="there is no latent 48; they go from 0 to 47"):
        bundle.feature(48)
    with pytest.raises(SaelabError, match="there is no context 100000"):
        bundle.context(100_000)
    with pytest.raises(SaelabError, match="there is no feature index here"):
        Bundle(tmp_path / "nowhere")
    (bundle.directory / "examples-00000.safetensors").write_bytes(b"")
    with pytest.raises(SaelabError, match="missing or damaged") as caught:
        Bundle(bundle.directory)
    assert "examples-00000" in str(caught.value)


def test_a_manifest_cannot_lead_elsewhere(bundle, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    manifest = bundle.directory / "manifest.json"
    name = bundle.manifest["examples"][0]["file"]
    manifest.write_text(manifest.read_text().replace(name, "../secret"))
    with pytest.raises(SaelabError, match="missing or damaged"):
        Bundle(bundle.directory)


@pytest.mark.parametrize(("key", "value"), [("top", 0), ("intervals", 101), ("tokens", 0), ("seed", -1)])
def test_settings_that_make_no_sense_are_refused(key, value):
    with pytest.raises(SaelabError):
        IndexSpec(**{key: value})


def test_fewer_tokens_take_whole_windows(store, sae, lm):
    spec = IndexSpec(tokens=1)
    codes = StoredCodes(store, sae, HOOK, spec)
    assert 0 < codes.n_tokens <= store.n_tokens("train")
    highest = max(int(codes.part(i).context.max()) for i in range(len(codes.parts())))
    assert highest < sum(len(part.length) for part in codes.contexts())


def test_files_that_are_not_an_indexs_are_left_alone(store, sae, lm, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(SaelabError, match="this directory holds files that are not an index's"):
        build_index(origin(store, sae, lm), SPEC, tmp_path / "mine", quiet)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_positions_in_long_contexts_are_held_whole():
    entries = Entries(0, np.array([0, 2]), np.zeros(2, int), np.array([5, 99_999]), np.ones(2, np.float32))
    found = arrays(entries, choose(entries, 100_000, SPEC), 100_000)
    assert found["entry_position"][:2].tolist() == [5, 99_999]
