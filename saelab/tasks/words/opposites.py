"""Words of praise and of blame, the blaming one first."""

from __future__ import annotations

FEELINGS = (
    ("bad", "good"), ("sad", "happy"), ("ugly", "beautiful"), ("boring", "interesting"), ("terrible", "wonderful"),
    ("awful", "excellent"), ("horrible", "great"), ("poor", "rich"), ("weak", "strong"), ("stupid", "clever"),
    ("cruel", "kind"), ("dirty", "clean"), ("dangerous", "safe"), ("useless", "useful"), ("wrong", "right"),
    ("worse", "better"), ("worst", "best"), ("painful", "pleasant"), ("sick", "healthy"), ("broken", "perfect"),
    ("hostile", "friendly"), ("negative", "positive"), ("difficult", "easy"), ("depressing", "exciting"),
    ("miserable", "lovely"), ("disappointing", "impressive"), ("harmful", "helpful"), ("unfair", "fair"),
    ("dull", "brilliant"), ("evil", "noble"), ("foolish", "wise"), ("annoying", "charming"),
)  # fmt: skip
