"""Places, objects and sentences of the indirect-object task."""

from __future__ import annotations

PLACES = (
    "store", "garden", "office", "station", "school", "museum", "library", "restaurant", "park", "hospital",
    "market", "church", "house", "theater", "beach", "hotel", "farm", "airport", "river", "bank",
    "bridge", "castle", "lake", "village", "university", "factory", "kitchen", "forest", "court", "harbor",
)  # fmt: skip

OBJECTS = (
    "book", "ring", "letter", "ball", "key", "flower", "picture", "bottle", "box", "apple",
    "card", "drink", "coat", "bag", "lamp", "camera", "watch", "cup", "map", "phone",
    "basket", "computer", "knife", "bell", "ticket", "guitar", "hat", "paper", "chair", "radio",
)  # fmt: skip

TRAIN = (
    "When {first} and {second} went to the {place}, {giver} gave the {object} to",
    "Yesterday {first} and {second} were at the {place}, and {giver} gave the {object} to",
    "While {first} and {second} were waiting at the {place}, {giver} handed the {object} to",
    "Then, {first} and {second} had lunch at the {place}, and {giver} gave the {object} to",
    "The friends {first} and {second} talked at the {place}, and then {giver} gave the {object} to",
    "After {first} and {second} left the {place}, {giver} gave the {object} to",
    "Once {first} and {second} had come to the {place}, {giver} passed the {object} to",
    "In the morning {first} and {second} drove to the {place}, where {giver} gave the {object} to",
    "On Monday {first} and {second} visited the {place}, and later {giver} sold the {object} to",
    "It was late when {first} and {second} came to the {place} and {giver} brought the {object} to",
    "Because {first} and {second} had to wait in the {place}, {giver} showed the {object} to",
)

TEST = (
    "Last week {first} and {second} walked to the {place} together, and {giver} gave the {object} to",
    "As soon as {first} and {second} got to the {place}, {giver} gave the {object} to",
    "At the {place}, {first} and {second} sat down, and {giver} handed the {object} to",
)
