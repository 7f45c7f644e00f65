"""What an index holds of each latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from saelab.errors import SettingError, check_least, check_seed
from saelab.lm.windows import Split

Map = Literal["auto", "umap", "pca", "none"]


@dataclass(frozen=True)
class IndexSpec:
    """How much of what a latent does is kept. What is kept of tokens comes from `split` of the store."""

    tokens: Annotated[int | None, "tokens looked at, whole shards (null: all that are stored)"] = None
    split: Annotated[Split, "which documents: train, or those held out"] = "train"
    top: Annotated[int, "contexts in which a latent is strongest, each shown at its peak"] = 20
    intervals: Annotated[int, "equal intervals of activation, 0 to the maximum, that examples are drawn from"] = 5
    per_interval: Annotated[int, "examples drawn from each interval"] = 4
    tokens_listed: Annotated[int, "tokens listed as promoted, suppressed, and fired on"] = 10
    latents_listed: Annotated[int, "latents listed as nearest (decoder cosine), and as active together"] = 10
    coactive_tokens: Annotated[int, "tokens on which common activity is counted"] = 500_000
    map: Annotated[Map, "of the decoder in 2-D; auto: UMAP where it is installed and fits, else PCA"] = "auto"
    seed: Annotated[int, "of the draw of examples, and of the map"] = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "top", "intervals", "per_interval", "tokens_listed", "latents_listed", "coactive_tokens")
        if self.intervals > 100:
            raise SettingError("intervals", f"must be at most 100, found {self.intervals}")
        if self.tokens is not None and self.tokens < 1:
            raise SettingError("tokens", f"must be at least 1, found {self.tokens}", fix="null takes all")
        check_seed(self.seed)
