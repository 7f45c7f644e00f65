"""`target_hook`, `skip` and `init_from` in a run's config."""

from __future__ import annotations

import pytest

from saelab.cli.schema import RunConfig
from saelab.config import as_dict, parse_config
from saelab.errors import SaelabError

HOOKS = "activations.hooks=[blocks.1.hook_resid_post, blocks.0.attn.hook_z]"


@pytest.fixture
def read(config_text):
    def run(*overrides: str) -> RunConfig:
        return parse_config(RunConfig, config_text(), "run.yaml", [HOOKS, *overrides])

    return run


def test_a_config_that_does_not_mention_them_is_an_autoencoders(read):
    config = read()
    assert (config.target_hook, config.skip, config.init_from) == (None, False, None)
    assert "d_out" not in as_dict(config)["sae"]


def test_a_skip_transcoder(read):
    config = read("target_hook=blocks.0.attn.hook_z", "skip=true", "init_from=runs/earlier")
    assert (config.sae_hook, config.target_hook) == ("blocks.1.hook_resid_post", "blocks.0.attn.hook_z")
    assert config.skip
    assert config.init_from == "runs/earlier"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["target_hook=blocks.0.attn.hook_y"],
            r"run.yaml(.|\n)*target_hook: 'blocks.0.attn.hook_y' is not among activations.hooks"
            r"(.|\n)*did you mean 'blocks.0.attn.hook_z'",
        ),
        (
            ["target_hook=blocks.1.hook_resid_post"],
            r"target_hook: 'blocks.1.hook_resid_post' is the input itself(.|\n)*leave target_hook out",
        ),
        (["skip=true"], r"skip: a skip connection past the code would copy the input(.|\n)*name a target_hook"),
        (
            ["target_hook=blocks.0.attn.hook_z", "sae={kind: matching_pursuit, n_latents: 64}"],
            r"target_hook: 'matching_pursuit' cannot have another target than its input: it encodes with the "
            r"decoder's own rows(.|\n)*choose another variant",
        ),
        (["sae.d_out=5"], "sae.d_out"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_run(read, overrides, message):
    with pytest.raises(SaelabError, match=message):
        read(*overrides)
