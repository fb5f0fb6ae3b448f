"""The story grammar's word lists and its template engine: a seeded random source in, correct English out.

A template is a plain sentence with three kinds of marks:

* ``[a|b|c]`` picks one alternative (an empty one is allowed, and marks nest),
* ``{h.name}`` is filled from the story's context (heroes, things, places),
* the engine itself turns "a apple" into "an apple" and capitalises the first letter of every sentence.

Nothing here knows about plots; those are in ``plots.py``.
"""

import random
import re
from dataclasses import dataclass

GIRLS = ["Lily", "Mia", "Anna", "Sue", "Emma", "Zoe", "Rose", "Lucy", "Amy", "Nora", "Kate", "Ella"]
BOYS = ["Tom", "Ben", "Max", "Sam", "Tim", "Jack", "Leo", "Finn", "Dan", "Noah", "Billy", "Peter"]
PETS_HE = ["Spot", "Pip", "Toby", "Rex", "Buddy", "Oscar"]
PETS_SHE = ["Coco", "Daisy", "Ruby", "Honey", "Molly", "Bella"]

ANIMALS = ["dog", "cat", "rabbit", "bear", "fox", "duck", "mouse", "bird", "frog", "pig", "turtle", "squirrel",
           "kitten", "puppy", "lamb", "pony"]
SMALL_ANIMALS = ["bird", "kitten", "puppy", "rabbit", "mouse", "duck", "squirrel", "frog"]
WISE_ANIMALS = ["owl", "turtle", "bear", "horse", "goat", "cow"]

TRAITS = ["kind", "happy", "brave", "curious", "clever", "funny", "quiet", "friendly", "good", "shy"]
COLORS = ["red", "blue", "green", "yellow", "pink", "white", "brown", "orange", "purple"]
TOYS = ["ball", "kite", "toy car", "toy boat", "teddy bear", "doll", "hat", "drum", "book", "balloon", "toy train", "scarf"]
FOODS = ["apple", "sandwich", "cookie", "carrot", "banana", "pear", "pie", "bun", "orange", "muffin"]
PLACES = ["the park", "the garden", "the forest", "the beach", "the farm", "the river", "the lake", "the hill",
          "the meadow", "the playground"]
PREPOSITIONS = {"the beach": "at", "the farm": "on", "the river": "by", "the lake": "by", "the hill": "on",
                "the playground": "at"}  # "in" for all others
OUTDOOR_SPOTS = ["behind the big tree", "in the tall grass", "under a bush", "behind a rock", "next to the fence",
                 "under the bench", "near the water", "under the leaves"]
INDOOR_SPOTS = ["under the bed", "under the table", "behind the sofa", "in the basket", "under the blanket",
                "behind the door", "in the box", "on the shelf"]
HIDING_PLACES = ["under the bed", "under the table", "behind the sofa", "behind the door", "under the blanket"]
PLANTS = ["rose", "sunflower", "tulip", "bean", "pumpkin", "tomato", "carrot", "apple tree"]
SPEECH_VERBS = {"said", "asked", "cried", "shouted", "whispered", "called", "answered", "laughed",
                "thought"}


@dataclass(frozen=True)
class Who:
    """A character: how it is introduced, named and referred to. ``intro`` starts with an article or is a name."""

    intro: str  # "a little girl named Lily"
    name: str  # "Lily" or "the little dog"
    noun: str  # "girl", "dog", "mom"
    s: str  # subject pronoun
    o: str  # object pronoun
    p: str  # possessive pronoun


class Teller:
    """One story in the making: the random source, the context of the templates and the sentences so far."""

    def __init__(self, rng: random.Random, favour: float = 0.0):
        self.rng = rng
        self.favour = favour  # probability of taking the first alternative (or the likelier answer) outright
        self.context: dict[str, object] = {}
        self.sentences: list[str] = []

    def pick(self, choices):
        return choices[0] if self.decided() else self.rng.choice(choices)

    def pair(self, choices) -> tuple:
        """Two different choices."""
        return (choices[0], choices[-1]) if self.decided() else tuple(self.rng.sample(choices, 2))

    def chance(self, probability: float) -> bool:
        return probability >= 0.5 if self.decided() else self.rng.random() < probability

    def decided(self) -> bool:
        return self.favour > 0 and self.rng.random() < self.favour

    def let(self, **names):
        """Defines context names; a string value is a template of its own."""
        for name, value in names.items():
            self.context[name] = self.fill(value) if isinstance(value, str) else value

    def go_to(self, place: str):
        """Sets ``place`` ("the beach") and ``at`` ("at the beach")."""
        self.let(place=place, at=f"{PREPOSITIONS.get(place, 'in')} {place}")

    def fill(self, template: str) -> str:
        while "[" in template:  # innermost alternatives first
            template = re.sub(r"\[([^\[\]]*)\]", lambda m: self.pick(m.group(1).split("|")), template)
        return template.format(**self.context)

    def say(self, *alternatives: str):
        """Adds one of the alternatives; each may hold several sentences."""
        self.sentences.append(finish(self.fill(self.pick(alternatives))))

    def maybe(self, probability: float, *alternatives: str):
        if self.chance(probability):
            self.say(*alternatives)

    def text(self) -> str:
        return " ".join(self.sentences)


def finish(text: str) -> str:
    """Collapses blanks, mends articles and capitalises sentence starts, also those inside quotation marks."""
    text = re.sub(r" +", " ", text).strip()
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    text = re.sub(r'^("?)([a-z])', lambda m: m.group(1) + m.group(2).upper(), text)
    text = re.sub(r'([.!?]"? "?)([a-z]+)', capital_unless_speech_tag, text)
    return re.sub(r', "[a-z]', lambda m: m.group(0).upper() if opens_speech(text, m) else m.group(0), text)


def opens_speech(text: str, match: re.Match) -> bool:
    """Whether the quotation mark in ``, "x`` opens a speech: an even number of marks stands before it."""
    return text.count('"', 0, match.start()) % 2 == 0


def capital_unless_speech_tag(match: re.Match) -> str:
    """``"Hello!" said Tom`` goes on in lower case: that end mark belongs to the speech, not to the sentence."""
    opening, word = match.groups()
    following = re.match(r"[a-z]*", match.string[match.end() + 1:]).group(0)
    is_tag = word in SPEECH_VERBS or (word in ("he", "she", "it") and following in SPEECH_VERBS)
    if opening.endswith('" ') and opening[0] != "." and is_tag:
        return opening + word
    return opening + word[0].upper() + word[1:]


def child(t: Teller, other_than: str = "") -> Who:
    girl = t.chance(0.5)
    name = t.pick([n for n in (GIRLS if girl else BOYS) if n != other_than])
    if t.chance(0.06):
        name = invented_name(t)
    noun = "girl" if girl else "boy"
    s, o, p = ("she", "her", "her") if girl else ("he", "him", "his")
    size = t.fill("[little|little|young|small]")
    return Who(f"a {size} {noun} named {name}", name, noun, s, o, p)


def invented_name(t: Teller) -> str:
    """A rare made-up name, so that the model learns to copy names and has seen every letter."""
    syllables = [t.pick("BCDFGHJKLMNPQRSTVWXYZ") + t.pick("aeiou")]
    syllables += [t.pick("bcdfghjklmnpqrstvwxyz") + t.pick("aeiou") for _ in range(t.pick([1, 1, 2]))]
    return "".join(syllables) + t.pick(["", "n", "l", "r"])


def animal(t: Teller, kinds=None, named: bool | None = None, unlike: Who | None = None) -> Who:
    """An animal; ``unlike`` is a character it must differ from in kind and, when it has no name, in pronoun."""
    kind = t.pick([k for k in kinds or ANIMALS if unlike is None or k != unlike.noun])
    size = t.fill("[little|little|little|small|young|brown|white|gray]")
    if t.chance(0.5) if named is None else named:
        she = t.chance(0.5)
        name = t.pick(PETS_SHE if she else PETS_HE)
        s, o, p = ("she", "her", "her") if she else ("he", "him", "his")
        return Who(f"a {size} {kind} named {name}", name, kind, s, o, p)
    return Who(f"a {size} {kind}", f"the {size} {kind}", kind, *unnamed_pronouns(t, unlike))


def unnamed_pronouns(t: Teller, unlike: Who | None) -> tuple[str, str, str]:
    she = t.chance(0.5) if unlike is None else unlike.s == "he"
    return ("she", "her", "her") if she else ("he", "him", "his")


def family(t: Teller, hero: Who) -> Who:
    """A grown-up of the hero's family, always named through the hero: "her mom"."""
    noun, s, o, p = t.pick([("mom", "she", "her", "her"), ("dad", "he", "him", "his"),
                            ("grandma", "she", "her", "her"), ("grandpa", "he", "him", "his")])
    return Who(f"{hero.p} {noun}", f"{hero.p} {noun}", noun, s, o, p)


def friend(t: Teller, hero: Who) -> Who:
    """A friend who is clearly someone else: another name, and another pronoun where that is possible."""
    for _ in range(8):
        other = child(t, hero.name) if hero.noun in ("girl", "boy") else animal(t, named=True)
        if other.name != hero.name and other.s != hero.s and other.noun != hero.noun:
            break
    return Who(f"{hero.p} friend {other.name}", other.name, other.noun, other.s, other.o, other.p)
