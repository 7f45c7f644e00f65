"""Nouns, singular and plural."""

from __future__ import annotations

NOUNS = (
    ("dog", "dogs"), ("tree", "trees"), ("key", "keys"), ("book", "books"), ("house", "houses"),
    ("student", "students"), ("car", "cars"), ("river", "rivers"), ("song", "songs"), ("letter", "letters"),
    ("bird", "birds"), ("teacher", "teachers"), ("table", "tables"), ("road", "roads"), ("flower", "flowers"),
    ("king", "kings"), ("picture", "pictures"), ("bridge", "bridges"), ("doctor", "doctors"), ("stone", "stones"),
    ("island", "islands"), ("horse", "horses"), ("window", "windows"), ("plant", "plants"), ("village", "villages"),
    ("friend", "friends"), ("machine", "machines"), ("ship", "ships"), ("mountain", "mountains"), ("door", "doors"),
    ("cell", "cells"), ("box", "boxes"), ("farmer", "farmers"), ("chair", "chairs"), ("star", "stars"),
    ("boat", "boats"), ("child", "children"), ("woman", "women"), ("man", "men"), ("city", "cities"),
    ("story", "stories"), ("family", "families"), ("church", "churches"), ("bottle", "bottles"), ("wall", "walls"),
    ("writer", "writers"), ("cat", "cats"), ("hill", "hills"), ("animal", "animals"), ("building", "buildings"),
    ("artist", "artists"), ("garden", "gardens"), ("school", "schools"), ("country", "countries"),
    ("engine", "engines"), ("player", "players"), ("shop", "shops"), ("camera", "cameras"), ("forest", "forests"),
    ("lake", "lakes"),
)  # fmt: skip

EITHER = ("fish", "sheep", "deer", "aircraft", "species", "series", "offspring")
"""The same in both numbers."""

VERBS = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))

EVENTS = (
    "war", "siege", "reign", "conflict", "trial", "drought", "project", "famine", "journey", "strike",
    "campaign", "revolution", "expedition", "rebellion", "alliance", "occupation", "crisis", "treaty", "construction",
    "epidemic", "contract", "dispute", "marriage", "friendship", "partnership", "negotiation", "voyage", "plague",
    "fashion", "blockade",
)  # fmt: skip
"""What lasts for years."""
