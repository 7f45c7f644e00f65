# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Features in a circuit
#
# Heads say *where* a model works on a task, not with *what*. An SAE takes the residual stream between two layers apart
# into latents, and latents can be read. Which of them carry the answer of "When Mary and John went to the store, John
# gave the book to"? What do they fire on elsewhere? And which heads write them?
#
# This needs an SAE in the middle of the model, behind the heads that notice the repeated name and before those that
# act on it. `saelab run ioi` makes a good one, in a quarter of an hour on two cores, and it is used if it is there.
# Otherwise a small one is trained right here.

# %%
MODEL = "asset:smollm2-135m-instruct"  # or "gpt2"

# %%
from pathlib import Path

from saelab import notebook as nb
from saelab.testing import short

TASK, PAIRS, SHOWN = "ioi", 32, 12  # pairs of prompts, and latents that we look at
RUNS, TEXT, NAME = Path("../runs"), "asset:wikipedia-sample", "middle-of-" + Path(MODEL.removeprefix("asset:")).name
WINDOW, TOKENS, STEPS, LATENTS = 128, 150_000, 600, 4096

if short.asked():  # tests run these cells on a tiny model whose circuit is known
    world = short.planted()
    MODEL, TASK, TEXT, RUNS, PAIRS, SHOWN = world.model, world.task, world.text, world.runs, 8, 4
    NAME, WINDOW, TOKENS, STEPS, LATENTS = "tiny", 10, 1500, 60, 128

# %% [markdown]
# ## The SAE

# %%
from saelab.lm.model import ModelSpec, load

lm = load(ModelSpec(MODEL))

config = f"""
name: {NAME}
runs_dir: {RUNS}
model:
  name: {MODEL}
data:
  dataset: {TEXT}
windows:
  context_length: {WINDOW}
  max_document_tokens: 8000
  heldout_frac: 0.12
activations:
  hooks: [blocks.{3 * lm.n_layers // 5}.hook_resid_post]   # three fifths of the way up
  tokens: {TOKENS}
  heldout_tokens: {TOKENS // 10}
sae:
  kind: topk
  n_latents: {LATENTS}
  k: 32
train:
  tokens: {1024 * STEPS}
  batch_tokens: 1024
  lr: 1.5e-3
  warmup_steps: 50
  decay_frac: 0.5
eval:
  reconstruction:
"""
place = nb.finished(RUNS / "ioi", lm) or nb.make(config, lm)

# %%
from saelab import SAE
from saelab.evals.report import read
from saelab.features.live import Live

run = read(place)
live = Live.of(SAE.load(place / "sae"), lm)
print(f"{live.sae.n_latents:,} latents on {live.hook.name}, run {run.name}")
nb.numbers(run, ["fvu", "l0"])

# %% [markdown]
# ## The task, and what there is to explain

# %%
from saelab.circuits import competence, draw

pairs = draw(TASK, PAIRS, "train", seed=0, lm=lm)
known = competence(lm, pairs)
print(f"right on {known.accuracy:.0%} of the prompts; score {known.clean:.2f}, corrupted {known.corrupted:.2f}")
nb.prompts(lm, pairs, 2)

# %% [markdown]
# ## Latents that matter
#
# The same idea as attribution patching of heads: how much does a latent's value differ between the clean and the
# corrupted prompt, times its direction, times how the score moves along it. What no latent explains is a node as well,
# the SAE's *error*. It is what this SAE cannot tell us, and should never be left out of the sum.

# %%
from saelab.circuits import attribute_features, patch_features

at = (lm, live.sae, live.hook, live.mask, pairs)
scores = attribute_features(*at, report=nb.progress("latents"))
nb.parts(scores)

# %%
half, most = scores.carrying(0.5), scores.carrying(0.9)
print(f"of {live.sae.n_latents:,} latents, {half} carry half of all that latents do, and {most} nine tenths")

# %% [markdown]
# These are estimates, from one gradient. So we take the strongest and patch each of them for real: in the clean prompt
# this one latent gets its corrupted value, everything else stays, the SAE's error too.

# %%
best = scores.strongest(SHOWN)
exact = patch_features(*at, best)
nb.losses(scores, best, exact)

# %%
from saelab.circuits.ranking import spearman

agreement = spearman(scores.latents[best].double().numpy(), exact.double().numpy())
print(f"latent {best[0]} alone costs {exact[0]:.2f} of the {known.effect:.2f} that corrupting the whole prompt costs")
print(f"rank correlation of estimates and exact losses: {agreement:.2f}")

# %% [markdown]
# ## What they say in the prompts
#
# Where are the strongest active? Each clean prompt is above its corrupted partner; the deeper the colour, the stronger.

# %%
texts = [nb.prompt_text(lm, side, row) for row in range(2) for side in (pairs.clean, pairs.corrupted)]
nb.reading(live, texts, best[:3])

# %% [markdown]
# ## What they say elsewhere
#
# The same latents in the text that the SAE was trained on. Is a latent's meaning the task's own, or a more general one
# that the task makes use of?

# %%
nb.latents(run.bundle, best[:4])

# %% [markdown]
# ## Which heads feed them
#
# Back down to the heads. Patch a head below the SAE, let everything follow up to the SAE's layer, and see what becomes
# of each latent's part in the score.

# %%
from saelab.circuits import METHODS
from saelab.circuits.feeding import feed

attribution = METHODS["attribution"]()(lm, pairs)
below = [head for head in attribution.strongest() if head[0] <= live.hook.layer][:SHOWN]
fed = feed(*at, below, best, report=nb.progress("what feeds latents"))
nb.feeding(best[:6], below, fed[:, :6])

# %%
givers = sorted(zip(fed.sum(1).tolist(), below), reverse=True)[:3]
named = ", ".join(f"{layer}.{head} ({given:.2f})" for given, (layer, head) in givers)
print(f"of {len(below)} heads below the SAE, these give most to the {len(best)} latents together: {named}")

# %% [markdown]
# ## Without the strongest
#
# One prompt, one latent: everything as it is, but its value is 0. What does the model think of now?

# %%
from saelab.features.steer import Intervention, Sampling, steered

print(texts[0])
without = steered(live, texts[0], [Intervention(best[0], "clamp", 0.0)], Sampling(new_tokens=1))
nb.steering(without, 4)

# %% [markdown]
# ## From here
#
# `saelab circuit circuits/ioi -o sae=runs/ioi` writes this onto the page of the circuit, and the *Circuits* page of
# `saelab browse runs` links each head to the latents that it feeds. Other tasks, such as agreement, may have their
# latents in other layers: train an SAE there.
