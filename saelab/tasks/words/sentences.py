"""Sentences of the tasks, of training and of test."""

from __future__ import annotations

SPANS = (
    (
        "The {event} lasted from the year 17{start} to the year 17",
        "They say that the {event} went on from the year 17{start} to the year 17",
    ),
    ("In all, the {event} continued from the year 17{start} to the year 17",),
)  # fmt: skip

SUBJECTS = (
    (
        "She told us that the {subject} near the {other}", "I think that the {subject} behind the {other}",
        "You know, the {subject} with the {other}",
    ),
    ("Of course the {subject} next to the {other}", "We believe that the {subject} from the {other}"),
)  # fmt: skip

REASONS = (
    (
        "At the {place}, the {person} smiled because", "Near the {place}, the {person} stopped because",
        "Outside the {place}, the {person} was happy because",
    ),
    ("Inside the {place}, the {person} was crying because", "Behind the {place}, the {person} laughed because"),
)  # fmt: skip

GEOGRAPHY = (
    (
        "As every {person} knows, the capital of {country} is the city of",
        "The {person} said that the capital of {country} is the city of",
        "I told the {person} that the capital of {country} is called",
    ),
    (
        "The {person} lives in the capital of {country}, the city of",
        "According to the {person}, the capital of {country} is the city of",
    ),
)  # fmt: skip
