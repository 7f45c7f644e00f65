"""What is read off the decoder alone."""

from __future__ import annotations

import pytest
import torch

from saelab.errors import SaelabError
from saelab.features.decoder import flat_map, kind_of_map, nearest
from saelab.features.spec import IndexSpec


def quiet(done, total):
    pass


def clusters(per_cluster=60, centres=3, d=24):
    generator = torch.Generator().manual_seed(0)
    centre = torch.nn.functional.normalize(torch.randn(centres, d, generator=generator), dim=1)
    noise = torch.randn(centres * per_cluster, d, generator=generator) * 0.05
    return centre.repeat_interleave(per_cluster, 0) + noise, torch.arange(centres).repeat_interleave(per_cluster)


def test_few_latents_have_few_neighbours():
    numbers, cosines = nearest(torch.eye(3), 5, quiet)
    assert numbers[:, 2:].eq(-1).all()
    assert cosines[:, :2].eq(0).all()
    assert set(numbers[0, :2].tolist()) == {1, 2}


def test_nearest_in_blocks_is_nearest_at_once(monkeypatch):
    rows, _ = clusters()
    whole = nearest(rows, 4, quiet)
    monkeypatch.setattr("saelab.features.decoder._BLOCK_BYTES", 4 * len(rows) * 7)
    parts = nearest(rows, 4, quiet)
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1])


@pytest.mark.parametrize(("n", "kind"), [(499, "pca"), (500, "umap"), (40_000, "umap"), (40_001, "pca")])
def test_auto_takes_umap_where_it_fits(n, kind):
    assert kind_of_map(IndexSpec(), n) == kind


def test_without_umap_auto_takes_pca(monkeypatch):
    monkeypatch.setattr("saelab.features.decoder.find_spec", lambda name: None)
    assert kind_of_map(IndexSpec(), 1000) == "pca"


def test_a_umap_that_cannot_be_is_refused_before_work_begins(monkeypatch):
    with pytest.raises(SaelabError, match="15 latents are too few for UMAP"):
        kind_of_map(IndexSpec(map="umap"), 15)
    monkeypatch.setattr("saelab.features.decoder.find_spec", lambda name: None)
    with pytest.raises(SaelabError, match="UMAP is not installed") as caught:
        kind_of_map(IndexSpec(map="umap"), 1000)
    assert "saelab[browser]" in str(caught.value)


@pytest.mark.parametrize("kind", ["pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_a_map_keeps_clusters_together_and_is_the_same_again(kind):
    rows, cluster = clusters()
    near = nearest(rows, 14, quiet)
    flat = flat_map(rows, kind, near, seed=0)
    centres = torch.stack([flat[cluster == c].mean(0) for c in range(3)])
    assert torch.equal(torch.cdist(flat, centres).argmin(1), cluster)
    assert torch.equal(flat, flat_map(rows, kind, near, seed=0))


def test_no_map_where_none_is_wanted():
    assert flat_map(torch.eye(8), "none", (torch.zeros(8, 2), torch.zeros(8, 2)), 0).isnan().all()
