"""Names of people and words for them, men's first."""

from __future__ import annotations

NAMES = (
    ("John", "Mary"), ("Peter", "Anna"), ("David", "Sarah"), ("Mark", "Laura"), ("Paul", "Emma"),
    ("Tom", "Alice"), ("James", "Lucy"), ("Robert", "Kate"), ("Michael", "Julia"), ("Daniel", "Susan"),
    ("Simon", "Jane"), ("Adam", "Helen"), ("George", "Maria"), ("Henry", "Linda"), ("Kevin", "Rachel"),
    ("Brian", "Lisa"), ("Scott", "Karen"), ("Eric", "Diana"), ("Steven", "Amy"), ("Martin", "Nancy"),
    ("Jack", "Clara"), ("Andrew", "Ruth"), ("Ryan", "Emily"), ("Jason", "Sophie"), ("Patrick", "Rebecca"),
    ("Charles", "Martha"), ("William", "Jessica"), ("Thomas", "Carol"), ("Richard", "Elizabeth"),
    ("Joseph", "Barbara"), ("Edward", "Margaret"), ("Frank", "Michelle"), ("Gary", "Jennifer"),
    ("Matthew", "Amanda"), ("Anthony", "Nicole"), ("Jonathan", "Stephanie"), ("Justin", "Christine"),
    ("Samuel", "Victoria"), ("Benjamin", "Olivia"), ("Philip", "Charlotte"),
)  # fmt: skip

FAMILY = (
    ("boy", "girl"), ("brother", "sister"), ("dad", "mom"), ("father", "mother"), ("grandfather", "grandmother"),
    ("grandpa", "grandma"), ("grandson", "granddaughter"), ("groom", "bride"), ("husband", "wife"),
    ("king", "queen"), ("man", "woman"), ("nephew", "niece"), ("policeman", "policewoman"), ("prince", "princess"),
    ("son", "daughter"), ("stepbrother", "stepsister"), ("stepfather", "stepmother"), ("stepson", "stepdaughter"),
    ("uncle", "aunt"),
)  # fmt: skip
"""Section `family` of questions-words.txt (Mikolov et al., 1301.3781) without plurals and pronouns."""

PERSONS = (
    "person", "child", "friend", "teacher", "student", "doctor", "lawyer", "writer", "singer", "driver",
    "baby", "neighbor", "artist", "player", "worker", "guest",
)  # fmt: skip
"""Of either sex."""

PRONOUNS = ("he", "she")
