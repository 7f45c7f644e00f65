"""Countries and their capitals."""

from __future__ import annotations

CAPITALS = (
    ("Greece", "Athens"), ("Iraq", "Baghdad"), ("Thailand", "Bangkok"), ("China", "Beijing"), ("Germany", "Berlin"),
    ("Switzerland", "Bern"), ("Egypt", "Cairo"), ("Australia", "Canberra"), ("Vietnam", "Hanoi"), ("Cuba", "Havana"),
    ("Finland", "Helsinki"), ("Pakistan", "Islamabad"), ("Afghanistan", "Kabul"), ("England", "London"),
    ("Spain", "Madrid"), ("Russia", "Moscow"), ("Norway", "Oslo"), ("Canada", "Ottawa"), ("France", "Paris"),
    ("Italy", "Rome"), ("Sweden", "Stockholm"), ("Iran", "Tehran"), ("Japan", "Tokyo"),
)  # fmt: skip
"""Section `capital-common-countries` of questions-words.txt (Mikolov et al., 1301.3781)."""
