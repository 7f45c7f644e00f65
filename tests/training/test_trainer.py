"""The trainer: it learns, N SAEs on one stream equal N alone, it resumes to the bit, it stops when it must."""

import errno
import json

import pytest
import torch

from saelab.activations.loader import Batch
from saelab.errors import RunFailedError, SaelabError
from saelab.sae import build
from saelab.sae.coders import Precision
from saelab.training import Member, Trainer, TrainSpec, checkpoint, optimiser
from saelab.training.member import DeadTracker
from saelab.training.sinks import open_sinks

HOOK, HEADS = "blocks.1.hook_resid_post", "blocks.0.attn.hook_z"
CPU = torch.device("cpu")


def spec(**changes) -> TrainSpec:
    values = {
        "tokens": 6400,
        "batch_tokens": 64,
        "lr": 3e-3,
        "warmup_steps": 10,
        "dead_after_tokens": 1500,
        "log_every_steps": 10,
        "heldout_every_steps": 50,
        "heldout_tokens": 200,
        "checkpoint_every_steps": 30,
        "mix_shards": 2,
    }
    return TrainSpec(**(values | changes))


def member(s, kind="topk", precision: Precision = "exact", **settings) -> Member:
    torch.manual_seed(s.seed)
    own = {"n_latents": 128} | ({} if kind == "relu" else {"k": 6}) | settings
    return Member(kind, build(kind, 32, own), s, precision=precision, device=CPU)


def state(m: Member) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in m.tensors().items()}


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("precision", ["exact", "screened"])
@pytest.mark.parametrize("kind", ["topk", "abs_topk", "relu"])
def test_loss_falls_and_heldout_error_is_below_the_untrained(store, tmp_path, kind, precision):
    s = spec(tokens=19200)
    m = member(s, kind, precision, **({"l1": 0.5} if kind == "relu" else {}))
    trainer = Trainer([m], store, HOOK, directory=tmp_path)
    before = trainer.heldout(m)["fvu"]
    trainer.run()
    after = trainer.heldout(m)
    assert after["fvu"] < 0.6 * before
    assert after["l0"] <= 6 or kind == "relu"


def test_decoder_rows_keep_norm_one_where_the_variant_says_so(store, tmp_path):
    constrained, free = member(spec()), member(spec(), "relu")
    Trainer([constrained, free], store, HOOK, directory=tmp_path).run()
    norms = constrained.sae.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert free.sae.W_dec.norm(dim=1).std() > 1e-3


def test_a_parameter_that_no_loss_reaches_does_not_end_a_run_after_a_checkpoint():
    m = member(spec())
    m.sae.coder.idle = torch.nn.Parameter(torch.zeros(3))
    m.optimiser.add_param_group({"params": [m.sae.coder.idle]})
    assert not any("idle" in name for name in m.tensors() if name.startswith("adam."))
    x = torch.randn(64, 32)
    for number in (0, 100):  # steps at which moments are swept
        m.step(Batch(x, x), number)


def test_several_on_one_stream_equal_each_alone(store, tmp_path):
    kinds = ("topk", "variational", "abs_topk", "relu")
    together = [member(spec(), kind) for kind in kinds]
    Trainer(together, store, HOOK, directory=tmp_path / "all").run()
    for kind, m in zip(kinds, together, strict=True):
        alone = member(spec(), kind)
        Trainer([alone], store, HOOK, directory=tmp_path / kind).run()
        assert_same_bits(state(alone), state(m))


@pytest.mark.parametrize("stop_at", [1, 29, 30, 31, 60, 95])
def test_resumed_training_ends_with_the_same_bits(store, tmp_path, stop_at):
    straight = [member(spec()), member(spec(), "variational")]
    Trainer(straight, store, HOOK, directory=tmp_path / "straight").run()

    class Killed(BaseException):
        pass

    def killer(m):
        real = m.step

        def step(batch, number):
            if number == stop_at:
                raise Killed
            return real(batch, number)

        m.step = step
        return m

    with pytest.raises(Killed):
        Trainer([killer(member(spec())), member(spec(), "variational")], store, HOOK, directory=tmp_path / "cut").run()
    torch.manual_seed(999)
    again = [member(spec()), member(spec(), "variational")]
    trainer = Trainer(again, store, HOOK, directory=tmp_path / "cut")
    assert trainer.resume() == (stop_at >= 30)
    assert trainer.step == stop_at // 30 * 30
    trainer.run()
    for one, other in zip(straight, again, strict=True):
        assert_same_bits(state(one), state(other))


def test_a_resumed_run_says_what_may_change_its_last_bits(store, tmp_path, monkeypatch):
    Trainer([member(spec())], store, HOOK, directory=tmp_path).run()
    again = Trainer([member(spec())], store, HOOK, directory=tmp_path)
    again.resume()
    assert again.changed is None
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    again.resume()
    assert again.changed == f"threads {threads} -> {threads + 1}"


def test_only_the_newest_checkpoints_stay(store, tmp_path):
    Trainer([member(spec(keep_checkpoints=2))], store, HOOK, directory=tmp_path).run()
    names = [path.name for path in checkpoint.existing(tmp_path / "checkpoints")]
    assert names == ["step-00000090", "step-00000100"]


def test_what_a_member_draws_leaves_the_random_numbers_of_others_alone():
    x = torch.randn(64, 32)
    found = []
    for _ in range(2):
        m = member(spec(), "variational")
        torch.manual_seed(7)
        m.step(Batch(x, x), 3)
        found.append(torch.rand(3))
    torch.manual_seed(7)
    assert torch.equal(found[0], torch.rand(3))
    assert torch.equal(found[0], found[1])


def test_a_place_that_takes_no_checkpoints_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaelabError, match=r"file/checkpoints: could not write"):
        checkpoint.save(tmp_path / "file" / "checkpoints", checkpoint.Checkpoint(1, {}, {}), keep=1)

    def refuse(path: object, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("shutil.rmtree", refuse)
    (tmp_path / "step-00000001").mkdir()
    with pytest.raises(SaelabError, match=r"step-00000001: could not write this file: Read-only file system"):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(2, {}, {}), keep=1)


def test_damaged_checkpoints_are_refused(store, tmp_path):
    Trainer([member(spec())], store, HOOK, directory=tmp_path).run()
    newest = checkpoint.existing(tmp_path / "checkpoints")[-1]
    tensors = newest / "state.safetensors"
    whole = tensors.read_bytes()
    for broken in (whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1])):
        tensors.write_bytes(broken)
        with pytest.raises(SaelabError, match=r"this checkpoint is damaged(.|\n)*--fresh"):
            Trainer([member(spec())], store, HOOK, directory=tmp_path).resume()
    tensors.write_bytes(whole)
    with pytest.raises(
        SaelabError, match=r"this checkpoint does not fit: coder\.W_enc has shape \[128, 32\], expected \[64, 32\]"
    ):
        Trainer([member(spec(), n_latents=64)], store, HOOK, directory=tmp_path).resume()
    state = json.loads((newest / "state.json").read_text())
    del state["state"]["batches"]
    (newest / "state.json").write_text(json.dumps(state))
    with pytest.raises(SaelabError, match=r"state\.json is not complete"):
        Trainer([member(spec())], store, HOOK, directory=tmp_path).resume()
    (newest / "state.json").write_text("{")
    with pytest.raises(SaelabError, match="this checkpoint is damaged"):
        Trainer([member(spec())], store, HOOK, directory=tmp_path).resume()


def test_a_run_keeps_the_precision_it_was_begun_with(store, tmp_path):
    Trainer([member(spec(), precision="screened")], store, HOOK, directory=tmp_path).run()
    m = member(spec())
    Trainer([m], store, HOOK, directory=tmp_path).resume()
    assert m.sae.coder.precision == "screened"


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(store, tmp_path):
    m = member(spec())
    real = m.step

    def step(batch: Batch, number: int):
        if number == 42:
            with torch.no_grad():
                m.sae.W_dec[0, 0] = float("inf")
        return real(batch, number)

    m.step = step
    with pytest.raises(RunFailedError, match=r"no longer finite at step 50.*step-00000030") as found:
        Trainer([m], store, HOOK, directory=tmp_path).run()
    assert found.value.exit_code == 1
    kept = checkpoint.load_newest(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.step == 30
    assert all(torch.isfinite(value).all() for value in kept.tensors.values())


def diverging(at: int) -> Member:
    m = member(spec(), "abs_topk")
    real = m.step

    def step(batch: Batch, number: int):
        if number == at:
            with torch.no_grad():
                m.sae.W_dec[0, 0] = float("nan")
        return real(batch, number)

    m.step = step
    return m


def test_a_member_that_diverges_stops_alone(store, tmp_path):
    alone = member(spec())
    Trainer([alone], store, HOOK, directory=tmp_path / "alone").run()
    sinks = [open_sinks(spec(), tmp_path / name, name=name, config={}) for name in ("good", "bad")]
    good = member(spec())
    trainer = Trainer([good, diverging(42)], store, HOOK, directory=tmp_path / "both", sinks=sinks)
    trainer.run()
    for (sink,) in sinks:
        sink.close()
    assert trainer.failed == {"abs_topk": "its loss or weights are no longer finite at step 50"}
    assert_same_bits(state(alone), state(good))
    steps = [json.loads(line)["step"] for line in (tmp_path / "bad" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30, 40]
    again = Trainer([member(spec()), member(spec(), "abs_topk")], store, HOOK, directory=tmp_path / "both")
    assert again.resume()
    assert again.failed == trainer.failed
    assert [m.name for m in again.active] == ["topk"]


class StopAt:
    """Requests a stop once the trainer has done some steps."""

    def __init__(self, step: int):
        self.left = step

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("step", [1, 29, 30, 47])
def test_a_stop_writes_a_checkpoint_from_which_the_same_bits_follow(store, tmp_path, step):
    straight = member(spec())
    Trainer([straight], store, HOOK, directory=tmp_path / "straight").run()
    first = Trainer([member(spec())], store, HOOK, directory=tmp_path / "cut", stop=StopAt(step))
    first.run()
    assert first.step == step
    m = member(spec())
    second = Trainer([m], store, HOOK, directory=tmp_path / "cut")
    assert second.resume()
    assert second.step == step
    second.run()
    assert_same_bits(state(straight), state(m))


def test_each_members_time_is_its_own(store, tmp_path):
    trainer = Trainer([member(spec()), member(spec(), "relu")], store, HOOK, directory=tmp_path)
    trainer.run()
    clock = trainer.clock
    assert clock.steps.keys() == {"topk", "relu"}
    assert clock.seconds == pytest.approx(clock.batches + clock.steps["topk"] + clock.steps["relu"])
    assert clock.alone("topk") == pytest.approx(clock.tokens / (clock.batches + clock.steps["topk"]))
    again = Trainer([member(spec()), member(spec(), "relu")], store, HOOK, directory=tmp_path)
    again.resume()
    assert again.clock == clock


def test_a_transcoder_learns_its_target(store, tmp_path):
    s = spec(tokens=19200)
    m = member(s, "relu", l1=0.1)
    trainer = Trainer([m], store, HEADS, target_hook=HOOK, directory=tmp_path)
    before = trainer.heldout(m)["fvu"]
    trainer.run()
    after = trainer.heldout(m)["fvu"]
    assert after < before
    assert trainer.heldout_deployed(trainer.deploy(m))["fvu"] == pytest.approx(after, rel=1e-3)


def test_a_transcoder_cannot_subtract_the_bias_of_its_output(store, tmp_path):
    with pytest.raises(SaelabError, match="cannot have another target"):
        Trainer([member(spec(), "topk")], store, HEADS, target_hook=HOOK, directory=tmp_path)


def test_schedule_rises_stays_and_falls():
    s = spec(tokens=6400, warmup_steps=10, decay_frac=0.2, lr=1.0)
    rates = [optimiser.learning_rate(s, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == pytest.approx([1.0] * 71)
    assert rates[99] == pytest.approx(0.05)
    assert rates == sorted(rates[:10]) + rates[10:80] + sorted(rates[80:], reverse=True)
    flat = spec(warmup_steps=0, decay_frac=0.0, lr=1.0)
    assert {optimiser.learning_rate(flat, step) for step in range(100)} == {1.0}


def test_projection_removes_what_renormalisation_would_undo():
    m = member(spec())
    m.sae.W_dec.grad = torch.randn_like(m.sae.W_dec)
    optimiser.project_decoder_gradient(m.sae)
    assert m.sae.W_dec.grad is not None
    assert (m.sae.W_dec.grad * m.sae.W_dec).sum(1).abs().max() < 1e-5


def test_moments_of_dead_latents_do_not_become_denormal():
    s = spec(tokens=10**6)
    m = member(s)
    for number in range(1200):
        for p in m.sae.parameters():
            p.grad = torch.ones_like(p) if number == 0 else torch.zeros_like(p)
        optimiser.step(m.sae, m.optimiser, s, number, unit_norm=False)
        if number % 50 == 0:
            for state in m.optimiser.state.values():
                moments = torch.cat([state["exp_avg"].flatten(), state["exp_avg_sq"].flatten()]).abs()
                assert not bool(((moments > 0) & (moments < torch.finfo(torch.float32).tiny)).any())
    assert not any(state["exp_avg"].any() for state in m.optimiser.state.values())


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(store, tmp_path):
    m = member(spec(keep_checkpoints=1))
    number_now = {"n": 0}
    m.sae.W_dec.register_hook(lambda grad: grad * float("inf") if number_now["n"] == 59 else grad)
    real = m.step

    def step(batch: Batch, number: int):
        number_now["n"] = number
        return real(batch, number)

    m.step = step
    with pytest.raises(RunFailedError, match=r"at step 60.*step-00000030"):
        Trainer([m], store, HOOK, directory=tmp_path).run()
    kept = checkpoint.load_newest(tmp_path / "checkpoints")
    assert kept is not None
    assert all(torch.isfinite(value).all() for value in kept.tensors.values())


def test_a_run_does_not_go_on_with_other_activations(store, tmp_path):
    Trainer([member(spec())], store, HOOK, directory=tmp_path).run()
    store.manifest["content_sha256"] = "made of something else"
    with pytest.raises(SaelabError, match=r"begun on other activations(.|\n)*--fresh"):
        Trainer([member(spec())], store, HOOK, directory=tmp_path).resume()


def test_heldout_measurements_keep_their_own_rhythm(store, tmp_path):
    (sink,) = open_sinks(spec(), tmp_path, name="x", config={})
    s = spec(log_every_steps=10, heldout_every_steps=15)
    Trainer([member(s)], store, HOOK, directory=tmp_path, sinks=[[sink]]).run()
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "heldout/fvu" in line] == [15, 30, 45, 60, 75, 90, 100]


def test_the_decoder_bias_starts_at_the_mean_of_what_training_sees(store, tmp_path):
    raw = member(spec(centre=False, scale=False))
    Trainer([raw], store, HOOK, directory=tmp_path)
    torch.testing.assert_close(raw.sae.b_dec.detach(), store.mean(HOOK))
    centred = member(spec())
    Trainer([centred], store, HOOK, directory=tmp_path)
    assert centred.sae.b_dec.abs().max() < 1e-5


def test_a_latent_is_dead_after_tokens_without_firing():
    tracker = DeadTracker(3, 100, CPU)
    tracker.update(torch.tensor([1, 0, 5]), 60)
    tracker.update(torch.tensor([0, 0, 5]), 60)
    assert tracker.dead.tolist() == [False, True, False]
    tracker.update(torch.tensor([0, 2, 0]), 60)
    assert tracker.dead.tolist() == [True, False, False]


def test_members_must_agree_on_the_stream(store, tmp_path):
    for change in ({"batch_tokens": 32}, {"seed": 3}, {"centre": False}):
        with pytest.raises(SaelabError, match=rf"share train\.{next(iter(change))}"):
            Trainer([member(spec()), member(spec(**change))], store, HOOK, directory=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 3}, "tokens: 3 tokens are less than one batch of 64"),
        ({"lr": 0.0}, "lr: must be positive"),
        ({"betas": (0.9, 1.0)}, "betas: each must be at least 0 and below 1"),
        ({"decay_frac": 1.5}, "decay_frac: must lie between 0 and 1"),
        ({"grad_clip": 0.0}, "grad_clip: must be positive or null"),
        ({"log_every_steps": 0}, "log_every_steps: must be at least 1, found 0"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(SaelabError, match=message):
        spec(**settings)
