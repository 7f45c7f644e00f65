"""The command line as a user meets it: in processes, killed and continued, given bad input."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from saelab.files import sha256_file

SAELAB = [sys.executable, "-W", "error::UserWarning:saelab", "-m", "saelab.cli"]


@dataclass
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def saelab(tmp_path, own_cache, monkeypatch, capsys):
    """Run the command in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    from saelab.cli import app

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["saelab", *arguments])
        capsys.readouterr()
        code = 0
        try:
            app.main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def process(*arguments: str, **options) -> Done:
    """Run the command in a process of its own."""
    done = subprocess.run([*SAELAB, *arguments], capture_output=True, text=True, timeout=120, **options)
    return Done(done.returncode, done.stdout, done.stderr)


def refused(done: Done, *texts: str, code: int = 2) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr


def artefacts(run: Path, home: Path) -> dict[str, str]:
    """What must come out the same, undisturbed or not."""
    weights = {"weights": sha256_file(run / "sae" / "weights.safetensors")}
    stores = {p.name: sha256_file(p) for p in home.glob("activations/*/*.safetensors")}
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return weights | stores | {"steps": str(steps)}


@pytest.mark.slow
def test_one_command_from_text_to_a_measured_sae(saelab, config_text, tmp_path):
    Path("tiny.yaml").write_text(config_text())
    done = process("run", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    for text in ("share of the activations' variance not reconstructed", "runs/tiny/sae", "runs/tiny/eval.json"):
        assert text in done.stdout
    run = tmp_path / "runs" / "tiny"
    kept = {
        "config.yaml",
        "metrics.jsonl",
        "summary.json",
        "log.txt",
        "eval.json",
        "sae",
        "checkpoints",
        "index",
        "report.html",
        ".lock",
    }
    assert {p.name for p in run.iterdir()} == kept
    document = json.loads((run / "eval.json").read_text())
    assert document["evaluations"]["reconstruction"]["metrics"]["fvu"] < 0.9
    assert document["evaluations"]["density"]["n_tokens"] >= 600
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 100
    assert summary["tokens"] == 12800
    assert "going on" not in (run / "log.txt").read_text()

    before = artefacts(run, Path(os.environ["SAELAB_HOME"]))
    again = saelab("run", "tiny.yaml", "--json")
    assert json.loads(again.stdout) == document
    assert artefacts(run, Path(os.environ["SAELAB_HOME"])) == before

    measured = saelab("eval", "runs/tiny", "--json", "-o", "eval.density.max_tokens=100")
    assert json.loads(measured.stdout)["evaluations"]["density"]["n_tokens"] == 100

    from saelab import SAE

    sae = SAE.load(run / "sae")
    assert sae.identity.provenance["hook"] == "blocks.1.hook_resid_post"
    assert sae.identity.provenance["mask"]["first_position"] is True


@pytest.mark.slow
def test_killed_while_caching_and_while_training_it_ends_the_same(saelab, config_text, tmp_path, own_cache):
    # Three times the usual length, so that there is a middle to be killed in.
    longer = ("-o", "activations.tokens=9000", "-o", "train.tokens=256000", "-o", "eval={density: {}}")
    Path("tiny.yaml").write_text(config_text())
    undisturbed = own_cache / "undisturbed"
    done = process(
        "run", "tiny.yaml", *longer, "-o", "runs_dir=straight", env=os.environ | {"SAELAB_HOME": str(undisturbed)}
    )
    assert done.returncode == 0, done.stderr
    expected = artefacts(tmp_path / "straight" / "tiny", undisturbed)

    def kill_when(condition) -> None:
        with subprocess.Popen(
            [*SAELAB, "run", "tiny.yaml", *longer], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as p:
            deadline = time.monotonic() + 300  # a busy machine takes long to start
            while p.poll() is None and not condition() and time.monotonic() < deadline:
                time.sleep(0.002)
            assert p.poll() is None, "ended before it could be killed"
            p.send_signal(signal.SIGKILL)
            p.communicate()

    def index_lines() -> int:
        return sum(len(path.read_text().splitlines()) for path in own_cache.glob("activations/*/shards.jsonl"))

    def checkpoints() -> int:
        return len(list((tmp_path / "runs" / "tiny").glob("checkpoints/step-????????")))

    kill_when(lambda: index_lines() > 3)
    assert not list(own_cache.glob("activations/*/manifest.json"))
    kill_when(lambda: checkpoints() >= 1)
    assert not (tmp_path / "runs" / "tiny" / "sae").exists()
    done = process("run", "tiny.yaml", *longer)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stdout
    assert artefacts(tmp_path / "runs" / "tiny", own_cache) == expected


@pytest.mark.slow
def test_bad_runs_leave_nothing_half_written(saelab, config_text, tmp_path):
    config = Path("tiny.yaml")
    config.write_text(config_text())
    refused(
        saelab("run", "tiny.yaml", "-o", "activations.hooks=[blocks.1.hook_resid_pots]"),
        "unknown hook 'blocks.1.hook_resid_pots'",
        "blocks.1.hook_resid_post",
    )
    assert not (tmp_path / "runs").exists()

    Path("empty.txt").write_text("")
    refused(saelab("run", "tiny.yaml", "-o", "data.dataset=empty.txt"), "empty.txt", "empty")
    Path("noise.txt").write_bytes(bytes(range(256)) * 10)
    refused(saelab("run", "tiny.yaml", "-o", "data.dataset=noise.txt"), "noise.txt", "text")
    refused(saelab("run", "tiny.yaml", "-o", "model.name=asset:smollm2-135m-instruct"), "saelab assets fetch")
    assert not list(tmp_path.glob("**/*.tmp-*"))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    refused(process("run", "tiny.yaml", preexec_fn=small_files), "the disk is full", "free some room")
    assert not list(Path(os.environ["SAELAB_HOME"]).glob("**/*.tmp-*"))
    assert saelab("run", "tiny.yaml").returncode == 0

    refused(saelab("run", "tiny.yaml", "-o", "train.lr=1e-4"), "holds a run of another config", "train.lr", "--fresh")
    done = saelab("run", "tiny.yaml", "-o", "train.lr=1e-4", "--fresh")
    assert done.returncode == 0, done.stderr
    (tmp_path / "runs" / "tiny" / "config.yaml").write_text("nonsense")
    refused(saelab("eval", "runs/tiny"), "config.yaml")
    refused(saelab("eval", "runs"), "this is not a run")

    (shard, *_) = sorted(Path(os.environ["SAELAB_HOME"]).glob("activations/*/shard-*"))
    shard.write_bytes(shard.read_bytes()[:-7])
    refused(saelab("run", "tiny.yaml", "--fresh"), "this shard is damaged", shard.name)


@pytest.mark.slow
def test_caching_and_training_tell_scripts_what_came_of_them(saelab, config_text):
    Path("tiny.yaml").write_text(config_text())
    cached = json.loads(saelab("cache", "tiny.yaml", "--json").stdout)
    assert cached["complete"]
    assert cached["splits"]["train"]["tokens"] >= 2800
    trained = json.loads(saelab("train", "tiny.yaml", "--json").stdout)
    assert trained == json.loads(Path("runs/tiny/summary.json").read_text())
    both = json.loads(
        saelab("train", "tiny.yaml", "--json", "-o", "sweep={grid: {sae.k: [4, 8]}}", "-o", "name=s").stdout
    )
    assert {summary["steps"] for summary in both.values()} == {100}
    assert len(both) == 2


@pytest.mark.slow
def test_a_full_disk_while_training_keeps_the_last_checkpoint(saelab, config_text, tmp_path):
    Path("tiny.yaml").write_text(config_text())
    assert saelab("cache", "tiny.yaml").returncode == 0

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    refused(process("run", "tiny.yaml", preexec_fn=small_files), "the disk is full", "it continues")
    assert not list((tmp_path / "runs" / "tiny" / "checkpoints").iterdir())
    assert saelab("run", "tiny.yaml").returncode == 0


@pytest.mark.slow
def test_one_held_out_token_has_no_variance_to_explain(saelab, config_text):
    Path("tiny.yaml").write_text(config_text())
    done = saelab("train", "tiny.yaml", "-o", "train.heldout_tokens=1", "-o", "train.tokens=1280")
    assert done.returncode == 0, done.stderr
    assert "inference form: L0 8.0" in done.stdout


@pytest.mark.slow
def test_two_processes_do_not_share_a_run(saelab, config_text, tmp_path):
    import fcntl

    Path("tiny.yaml").write_text(config_text())
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    with (tmp_path / "runs" / "tiny" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(saelab("run", "tiny.yaml"), "another process is working on this run")


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (("k: 8", "k: 200"), ["tiny.yaml:11", "sae.k", "k = 200 is more than n_latents = 128"]),
        (("k: 8", "kk: 8"), ["tiny.yaml:11", "sae.kk: unknown key", "did you mean 'k'"]),
        (("k: 8", "k: eight"), ["tiny.yaml:11", "sae.k: expected an integer", "eight"]),
        (("k: 8", "k: 8, k: 9"), ["tiny.yaml:11", "k", "twice"]),
        (("kind: topk", "kind: topp"), ["tiny.yaml:11", "sae.kind", "did you mean 'topk'"]),
        (("lr: 3e-3", "lr: -1.0"), ["tiny.yaml:13", "train.lr", "must be positive"]),
        (("name: tiny\n", "name: ../evil\n"), ["tiny.yaml:1", "name", "letters, digits"]),
        (("density: {}", "densty: {}"), ["tiny.yaml:17", "densty", "did you mean 'density'"]),
        (("kind: topk", "kind: gradient_topk"), ["tiny.yaml:11", "sae.kind", "activations: {loss_grad: true}"]),
        (
            ("kind: topk, n_latents: 128, k: 8", "kind: feature_choice, n_latents: 2048, k: 8"),
            ["tiny.yaml:11", "sae.k", "impossible quotas", "raise train.batch_tokens to 256"],
        ),
        (
            ("kind: topk, n_latents: 128, k: 8", "kind: matryoshka, k: 64, prefixes: [32, 8192]"),
            ["sae.k", "prefix of 32"],
        ),
        (("kind: topk, n_latents: 128", "kind: variational, noise: 0"), ["sae.kl", "a KL needs a variance"]),
        (
            ("kind: topk, n_latents: 128, k: 8", "kind: jumprelu, penalty: tanh, warmup_frac: 1"),
            ["sae.target_l0", "cannot steer the penalty 'tanh': its warm-up lasts all of training"],
        ),
    ],
)
def test_bad_configs_are_one_readable_error(saelab, config_text, change, texts):
    Path("tiny.yaml").write_text(config_text().replace(*change))
    for command in (("config", "validate"), ("run",)):
        done = saelab(*command, "tiny.yaml")
        refused(done)
        for text in texts:
            assert text in done.stderr, done.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.yaml"]


def test_config_show_validate_schema(saelab, config_text):
    Path("tiny.yaml").write_text(config_text())
    shown = saelab("config", "show", "tiny.yaml", "-o", "sae.k=4")
    Path("shown.yaml").write_text(shown.stdout)
    as_json = json.loads(saelab("config", "show", "shown.yaml", "--json").stdout)
    assert as_json["sae"] == {
        "kind": "topk",
        "n_latents": 128,
        "k": 4,
        "aux_k": None,
        "aux_coefficient": 1 / 32,
        "multi_k": None,
        "multi_coefficient": 1 / 8,
    }
    assert as_json["train"]["betas"] == [0.9, 0.999]
    assert "good" in saelab("config", "validate", "shown.yaml").stdout
    schema = json.loads(saelab("config", "schema").stdout)
    assert schema["required"] == ["name", "model", "data", "activations", "sae"]
    assert "latents kept per token" in json.dumps(schema)


def test_version_help_and_doctor(saelab):
    assert saelab("--version").stdout.startswith("saelab 0.")
    assert "Cache, train, evaluate, index and report" in saelab("--help").stdout
    report = json.loads(saelab("doctor", "--json").stdout)
    assert report["versions"]["torch"]
    assert report["assets"] == {"smollm2-135m-instruct": False, "wikipedia-sample": False}
    assert "saelab assets fetch" in saelab("doctor").stdout


def test_debug_shows_the_traceback(saelab):
    assert "Traceback" in process("--debug", "eval", "nowhere").stderr
    refused(process("eval", "nowhere"), "this is not a run")


def test_shipped_configs_are_good_and_found_by_name(saelab):
    from saelab.cli.shipped import names

    assert {"demo", "gpt2-small", "pythia-70m", "gemma-2-2b"} <= set(names())
    for name in names():
        done = saelab("config", "validate", name)
        assert done.returncode == 0, done.stderr
    refused(saelab("config", "validate", "demmo"), "there is no config 'demmo'", "did you mean 'demo'")
    for no_file in (".", "/"):
        refused(saelab("train", no_file), f"there is no config '{no_file}'", "shipped: ")


@pytest.mark.slow
def test_a_model_from_the_hubs_cache_is_found_by_its_id(saelab, config_text, tmp_path, tiny_model_dir):
    """The hub's own layout on disk, as a download leaves it; offline, so nothing else can be read."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hf" / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_model_dir, repository / "snapshots" / commit)
    Path("tiny.yaml").write_text(config_text().replace(str(tiny_model_dir), "someone/tiny"))
    done = process("run", "tiny.yaml", env=os.environ | {"HF_HOME": str(tmp_path / "hf")})
    assert done.returncode == 0, done.stderr
    identity = json.loads((tmp_path / "runs" / "tiny" / "sae" / "config.json").read_text())["provenance"]["model"]
    assert identity.pop("tokenizer")
    assert identity == {"name": "someone/tiny", "content": f"commit {commit}", "dtype": "float32"}
    refused(
        process("run", "tiny.yaml", "-o", "model.name=someone/else", "-o", "name=other"),
        "model.name: someone/else: this model cannot be loaded",
        "saelab assets fetch",
    )


@pytest.mark.slow
def test_a_directory_that_is_not_a_runs_is_left_alone(saelab, config_text, tmp_path):
    Path("tiny.yaml").write_text(config_text())
    mine = tmp_path / "mine" / "checkpoints" / "my-model.pt"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    (tmp_path / "mine" / "config.yaml").write_text("my: own")
    for fresh in ([], ["--fresh"]):
        done = saelab("run", "tiny.yaml", "-o", "name=mine", "-o", "runs_dir=.", *fresh)
        refused(done, "files that are not a run's", "-o name=")
    assert mine.read_text() == "precious"
    assert (tmp_path / "mine" / "config.yaml").read_text() == "my: own"


@pytest.mark.slow
def test_a_trained_run_stays_what_it_is(saelab, config_text, tmp_path, monkeypatch):
    odd = tmp_path / "a #2: b"
    odd.mkdir()
    monkeypatch.chdir(odd)
    Path("tiny.yaml").write_text(config_text(extra="# a comment\n"))
    assert saelab("run", "tiny.yaml").returncode == 0
    refused(
        saelab("eval", "runs/tiny", "-o", "windows.heldout_frac=0.7"), "only eval.* and index.* can be overridden here"
    )
    first = json.loads(saelab("eval", "runs/tiny", "--json").stdout)
    again = json.loads(saelab("eval", "runs/tiny", "--json", "--again", "-o", "eval={density: {}}").stdout)
    assert set(again["evaluations"]) == {"reconstruction", "density", "downstream"}
    assert again["evaluations"]["reconstruction"] == first["evaluations"]["reconstruction"]
    assert again["config_sha256"] == json.loads(Path("runs/tiny/summary.json").read_text())["config_sha256"]
    assert sorted(path.name for path in odd.iterdir()) == ["runs", "tiny.yaml"]
    shown = saelab("eval", "runs/tiny", "--convention", "saebench").stdout
    assert "ce_loss_score" in shown
    assert "share of the next-token loss recovered against zero ablation of every position" in shown
    beside = json.loads(Path("runs/tiny/eval.json").read_text())["evaluations"]
    assert set(beside) == {"reconstruction", "density", "downstream", "saebench_core"}
    assert beside["downstream"] == first["evaluations"]["downstream"]

    # Where things go and what is logged does not make another run of it.
    assert saelab("run", "tiny.yaml", "-o", "train.log_every_steps=50", "-o", "train.wandb.project=x").returncode == 0
    (Path("runs") / "tiny" / "config.yaml").unlink()
    refused(saelab("run", "tiny.yaml"), "a run without its config.yaml")


@pytest.mark.slow
def test_some_evaluators_or_all_of_them(saelab, config_text, monkeypatch):
    Path("tiny.yaml").write_text(config_text())
    assert saelab("train", "tiny.yaml", "-o", "eval={density: {max_tokens: 50}}").returncode == 0

    def measured(*arguments: str) -> dict:
        done = saelab("eval", "runs/tiny", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["evaluations"]

    some = measured("--only", "geometry, density")
    assert list(some) == ["geometry", "density"]
    assert some["density"]["settings"] == {"max_tokens": 50}
    more = measured("--only", "norms", "-o", "eval.norms.points=7")
    assert list(more) == ["geometry", "density", "norms"]
    assert more["norms"]["settings"]["points"] == 7
    assert more["geometry"] == some["geometry"]
    said = saelab("eval", "runs/tiny", "--only", "norms,stability").stdout
    assert "Mean length of the code over that of the activation" in said
    assert "no other run is named (eval.stability.against: [runs/...])" in said

    from saelab.evals import EVALUATORS

    kept = ("density", "norms", "coefficients", "absorption")
    monkeypatch.setattr(EVALUATORS, "_entries", {name: EVALUATORS[name] for name in kept})
    every = measured("--all", "-o", "eval.coefficients={contexts: 2, bootstrap_rounds: 5}")
    assert set(every) == {"geometry", "stability", *kept}
    assert "below 16,384" in every["absorption"]["not_measurable"]["absorption"]
    refused(saelab("eval", "runs/tiny", "--only", "densty"), "unknown evaluator 'densty'", "did you mean 'density'?")
    refused(
        saelab("eval", "runs/tiny", "--only", "norms", "--all"), "--only names some evaluators, --all takes every one"
    )


def test_where_metrics_go_and_what_is_kept_on_the_way_make_no_other_run(config_text):
    from saelab.cli.schema import RunConfig
    from saelab.cli.what_trains import what_trains
    from saelab.config import parse_config

    before = config_text().replace("train:\n  {", "train:\n  {wandb: {mode: offline, project: mine}, ")
    logging = ["train.tensorboard={enabled: true}", "train.trackio={enabled: true, space: us/board}"]
    kept = ["train.milestones=5", "train.milestone_first_step=2", "train.wandb.mode=off", "activations.dir=elsewhere"]
    old, new = parse_config(RunConfig, before), parse_config(RunConfig, before, overrides=[*logging, *kept])
    assert (old.train.wandb.project, old.train.tensorboard.enabled, old.train.milestones) == ("mine", False, 0)
    assert (new.train.trackio.space, new.train.tensorboard.enabled, new.train.milestones) == ("us/board", True, 5)
    assert what_trains(old) == what_trains(new)


@pytest.mark.slow
def test_weights_that_diverge_in_the_last_step_are_not_published(saelab, config_text, tmp_path):
    Path("tiny.yaml").write_text(config_text())
    wild = ("-o", "train.tokens=128", "-o", "train.warmup_steps=0", "-o", "train.decay_frac=0.0", "-o", "train.lr=1e38")
    refused(saelab("run", "tiny.yaml", *wild), "are no longer finite", "lower train.lr", code=1)
    assert not (tmp_path / "runs" / "tiny" / "sae").exists()


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_from_which_the_same_command_goes_on(config_text, tmp_path, monkeypatch, by):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(config_text())
    command = [*SAELAB, "run", "tiny.yaml", "-o", "train.tokens=12800000"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        signal.signal(signal.SIGINT, before)
        deadline = time.monotonic() + 100
        while p.poll() is None and time.monotonic() < deadline and not list(tmp_path.glob("runs/*/checkpoints/step-*")):
            time.sleep(0.05)
        p.send_signal(by)
        stderr = p.communicate(timeout=100)[1]
    assert p.returncode == 128 + by
    newest = max(tmp_path.glob("runs/tiny/checkpoints/step-*")).name
    assert f"stopped at step {int(newest[5:])} by {by.name}; the same command goes on from there" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("override", "texts"),
    [
        ("train.seed=-1", ["a seed lies between 0 and", "-1"]),
        ("activations.seed=-1", ["a seed lies between 0 and"]),
        ("eval.downstream.seed=-1", ["a seed lies between 0 and"]),
        ("eval.reconstruction.max_tokens=-5", ["must be at least 1, found -5"]),
        ("train.batch_tokens=1", ["must be at least 2, found 1"]),
        ("sae.aux_coefficient=-1.0", ["aux_coefficient", "must not be negative"]),
        ("sae.n_latents=1000000000000000000", ["sae"]),
        ("name=" + "x" * 300, ["up to 100 letters"]),
    ],
)
def test_odd_settings_are_refused_before_anything_runs(saelab, config_text, override, texts):
    Path("tiny.yaml").write_text(config_text())
    done = saelab("config", "validate", "tiny.yaml", "-o", override)
    refused(done)
    for text in texts:
        assert text in done.stderr, done.stderr


@pytest.mark.slow
def test_a_damaged_store_is_described_refused_and_mended(saelab, config_text, tmp_path, own_cache):
    Path("tiny.yaml").write_text(config_text())

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))

    refused(process("cache", "tiny.yaml", preexec_fn=small_files), "the disk is full", "it continues")
    (store,) = (own_cache / "activations").iterdir()
    begun = json.loads(saelab("store", "info", str(store), "--json").stdout)
    assert begun["complete"] is False
    assert "not finished: the command that began it goes on" in saelab("store", "info", str(store)).stdout
    assert saelab("store", "verify", str(store)).returncode == 0
    assert saelab("run", "tiny.yaml", "-o", "runs_dir=straight", "-o", "eval={density: {}}").returncode == 0
    expected = artefacts(tmp_path / "straight" / "tiny", own_cache)

    shown = saelab("store", "info", str(store)).stdout
    for text in ("complete", "blocks.1.hook_resid_post [32]", "bfloat16", "context_length 32", "made by  saelab 0."):
        assert text in shown
    found = json.loads(saelab("store", "info", str(store), "--json").stdout)
    assert found["splits"]["train"]["tokens"] >= 3000
    assert found["bytes"] == sum(path.stat().st_size for path in store.glob("*.safetensors"))
    assert found["content_sha256"] == json.loads((store / "manifest.json").read_text())["content_sha256"]
    whole = saelab("store", "verify", str(store))
    assert whole.returncode == 0
    assert whole.stdout.startswith("whole: ")

    first, second = sorted(store.glob("shard-train-*"))[:2]
    first.write_bytes(first.read_bytes()[:-1] + b"\x7f")
    second.write_bytes(b"")
    done = saelab("store", "verify", str(store))
    assert done.returncode == 1
    assert f"changed     {first} has the right size and another sha256" in done.stdout
    assert f"truncated   {second} holds 0 bytes" in done.stdout
    assert f"2 of {len(list(store.glob('*.safetensors')))} files are damaged" in done.stdout
    damaged = json.loads(saelab("store", "verify", str(store), "--json").stdout)
    assert [(entry["file"], entry["kind"]) for entry in damaged["damaged"]] == [
        (first.name, "changed"), (second.name, "truncated")
    ]  # fmt: skip
    refused(saelab("run", "tiny.yaml", "-o", "eval={density: {}}"), second.name, "delete its manifest.json")
    (store / "manifest.json").unlink()
    assert saelab("run", "tiny.yaml", "-o", "eval={density: {}}").returncode == 0
    assert artefacts(tmp_path / "runs" / "tiny", own_cache) == expected
    refused(saelab("store", "verify", str(tmp_path)), "there is no activation store here")
    refused(saelab("store", "info", "nowhere"), "nowhere", "there is no activation store here")


@pytest.mark.slow
def test_a_transcoder_is_trained_measured_and_gone_on_from(saelab, config_text, tmp_path):
    text = config_text("t").replace(
        "hooks: [blocks.1.hook_resid_post]", "hooks: [blocks.1.mlp.hook_in, blocks.1.hook_mlp_out]"
    )
    Path("t.yaml").write_text(text + "target_hook: blocks.1.hook_mlp_out\nskip: true\n")
    done = saelab("run", "t.yaml", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["target_hook"] == "blocks.1.hook_mlp_out"
    first = document["evaluations"]["reconstruction"]["metrics"]["fvu"]
    assert first < 0.5
    assert {"ce_score", "delta_ce_nats"} <= document["evaluations"]["downstream"]["metrics"].keys()
    from saelab import SAE

    sae = SAE.load("runs/t/sae")
    assert sae.identity.provenance["target_hook"] == "blocks.1.hook_mlp_out"
    more = ("-o", "name=more", "-o", "init_from=runs/t", "-o", "train.lr=1e-12", "-o", "train.warmup_steps=0", "--json")
    done = saelab("run", "t.yaml", *more)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluations"]["reconstruction"]["metrics"]["fvu"] == pytest.approx(first, rel=1e-4)
    assert SAE.load("runs/more/sae").identity.provenance["init_from"] == sae.sha256()
