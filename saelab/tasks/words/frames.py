"""Beginnings of sentences that a word ends, and which say nothing about it: of training, then of test."""

from __future__ import annotations

PEOPLE = (
    (
        "Yesterday I talked to {word}", "We all remember {word}", "This story is about {word}",
        "Nobody had told {word}", "In the morning we met {word}", "It was a gift for {word}",
    ),
    ("The letter was sent to {word}", "I have a picture of {word}", "They were waiting for {word}"),
)  # fmt: skip

THINGS = (
    (
        "She often thought about the {word}", "In the end we found the {word}", "I wanted to see the {word}",
        "He told us something about the {word}", "Nobody paid attention to the {word}",
        "They were looking for the {word}",
    ),
    ("You can read more about the {word}", "We had forgotten the {word}", "From here I could see the {word}"),
)  # fmt: skip

JUDGEMENTS = (
    (
        "To me, all of this seems {word}", "Everybody said that it was {word}", "I think the result is {word}",
        "In my opinion, the idea was {word}", "Her answer sounded {word}", "What he did was {word}",
    ),
    ("The whole day had been {word}", "We found the place rather {word}", "They call it {word}"),
)  # fmt: skip

TRAVELS = (
    (
        "Many people travel to {word}", "He wrote a book about {word}", "Last year we went to {word}",
        "The news came from {word}", "I know little about {word}", "She has relatives in {word}",
    ),
    ("The plane flew over {word}", "They have never been to {word}", "This wine was sent to {word}"),
)  # fmt: skip

MUSIC = (
    (
        "After the concert, the band spoke to {word}", "The song was written for {word}",
        "On the piano and the violin, nobody was as good as {word}", "The orchestra played a melody for {word}",
        "The choir sang louder than {word}", "The new album and its guitar solos were recorded by {word}",
    ),
    (
        "The drummer tuned the instruments for {word}", "The opera was performed for {word}",
        "The jazz musicians listened to {word}",
    ),
)  # fmt: skip

SPORT = (
    (
        "After the match, the team spoke to {word}", "The goal was scored by {word}",
        "On the football and tennis field, nobody was as good as {word}", "The coach threw the ball to {word}",
        "The runner was faster than {word}", "The new record and the gold medal were won by {word}",
    ),
    (
        "The referee showed a red card to {word}", "The race was won by {word}",
        "The hockey players passed the puck to {word}",
    ),
)  # fmt: skip
