"""Questions that mean the same: what must be equal, what may be compared, and what is never shared.

Compared is the text of the last message alone, and only where it is the user's. Everything around it (system prompt, history,
tools, parameters) must be equal, and so must what a meaning turns on and an embedding hardly sees: numbers, names, negations,
opposites, whatever is quoted. These are part of the group within which texts are compared, so they cannot be outvoted by a high
likeness. A text that names a person's own things is in no group at all, and neither is one in another script than the model's.
"""

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from trunkline.model.items import Message, TextPart
from trunkline.model.request import Request

MAX_CHARACTERS = 2000
"""Beyond what the embedding model reads in one piece, two texts that differ would look alike."""


class Embedder(Protocol):
    """Gives texts their place in a space of meanings, off the loop. A vector is its own bytes to everybody else."""

    async def embed(self, text: str) -> bytes | None:
        """None for a text that it cannot read to its end."""
        ...

    async def nearest(self, vector: bytes, others: Sequence[bytes]) -> tuple[int, float]:
        """Which of the others is the most alike, and how much: 1 is the same."""
        ...

    def close(self) -> None: ...


class Question(msgspec.Struct, frozen=True):
    """What is asked, the request without it, and what in its text must be equal."""

    text: str
    around: Request
    features: tuple[str, ...]


_PERSONAL = re.compile(
    r"[\w.+-]{1,64}@[\w-]{1,255}\.[\w.-]"  # an e-mail address
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # a UUID
    r"|(?:\d[ .\-/]?){7,}\d",  # an account, a telephone number, an order
    re.IGNORECASE,
)
_OWN = re.compile(r"\b(?:my|mine|myself|our|ours|ourselves)\b", re.IGNORECASE)
_QUOTED = re.compile(r"```.*?```|`[^`]*`|\"[^\"]*\"|“[^”]*”|(?<!\w)'[^']*'(?!\w)", re.DOTALL)
_TOLD = re.compile(r"\d+(?:[.,:/]\d+)*|[A-Za-z][A-Za-z0-9'+#-]*")
_SENTENCE_END = re.compile(r"[.!?:]\s*$|^\s*$|\n\s*$")

_TURNS_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve twenty thirty hundred thousand million billion
    half double triple first second third fourth fifth last next previous once twice monday tuesday wednesday thursday
    friday saturday sunday today tomorrow yesterday january february march april may june july august september
    october november december spring summer autumn winter no not never none nothing nobody without neither nor cannot
    can't don't doesn't didn't isn't aren't wasn't weren't won't wouldn't shouldn't couldn't hasn't haven't hadn't
    unable except unless before after until since above below over under more less most least fewer greater larger
    smaller bigger higher lower increase decrease increasing decreasing raise reduce maximum minimum max min best
    worst enable disable enabled disabled start stop begin end open close opened closed allow deny forbid prevent
    permit add remove create delete insert install uninstall off up down out left right import export input output
    upload download encode decode encrypt decrypt lock unlock buy sell borrow lend push pull read write send receive
    accept reject win lose false good bad advantage advantages disadvantage disadvantages pros cons safe unsafe
    dangerous legal illegal hot cold fast slow old new north south east west men women man woman male female child
    adult only every both celsius fahrenheit kelvin km miles kilometers kilometres meters metres feet inches kg pounds
    grams euros dollars gdpr http https
"""
_TURNS = frozenset(_TURNS_WORDS.split())
"""Words on which a meaning turns, and which hardly move an embedding. Of two opposites one is enough where the other is common."""
_TOWARDS = re.compile(r"\b(from|to|into|than|vs|versus|by|over)\s+(?:the\s+|an?\s+)?([A-Za-z0-9]+)", re.IGNORECASE)
"""What is which side of something: an embedding hardly sees it when two words change places."""
_OPENERS_WORDS = """
    a about all also an and are as at be but by can could describe did do does explain find for from get give has have
    hello help hey hi how if in is it let's list may name of on or please say should show so some tell thanks that the
    their then there these this to was were what what's when where where's which who who's whom whose why will with
    would write you your
"""
_OPENERS = frozenset(_OPENERS_WORDS.split())
"""Words that begin a sentence and are no names for their capital letter."""


def question_of(request: Request) -> Question | None:
    """What may be compared; None where nothing may."""
    last = request.items[-1] if request.items else None
    if not isinstance(last, Message) or last.role != "user":
        return None
    texts = [part.text for part in last.content if isinstance(part, TextPart)]
    if not texts or len(texts) != len(last.content):
        return None
    text = "\n".join(texts).strip()
    if not text.isascii() or len(text) > MAX_CHARACTERS or is_personal(text) or _OWN.search(text):
        return None
    around = msgspec.structs.replace(
        request, items=(*request.items[:-1], msgspec.structs.replace(last, content=(), as_string=False))
    )
    return Question(text, around, features_of(text))


def is_personal(text: str) -> bool:
    """Whether it names what belongs to one person: an address, an identifier, a long number."""
    return _PERSONAL.search(text) is not None


def features_of(text: str) -> tuple[str, ...]:
    """What must be equal in two texts, in their order: quotations, sides, numbers, names, and the words that meanings turn on."""
    rest = _QUOTED.sub(" ", text)
    found = [f"quoted {one}" for one in _QUOTED.findall(text)]
    found += [f"side {word.lower()} {side.lower()}" for word, side in _TOWARDS.findall(rest)]
    for match in _TOLD.finditer(rest):
        word, plain = match.group(), match.group().lower()
        begins = _SENTENCE_END.search(rest[: match.start()]) is not None
        if plain[0].isdigit():
            found.append(f"number {plain}")
        elif plain in _TURNS:
            found.append(f"word {plain}")
        elif word != plain and not (begins and plain in _OPENERS):
            found.append(f"name {plain}")
    return tuple(found)
