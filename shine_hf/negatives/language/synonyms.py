"""A short hand-made list of words that captions use for one and the same thing.

A hard negative that swaps such words still describes the moment: it would be a false negative. The list errs on the
side of calling two words alike; it knows nothing of the words that it does not hold.
"""

from __future__ import annotations

from functools import cache, lru_cache

from .inflection import stems

_GROUPS = """
take grab pick get fetch retrieve collect snatch
hold grip grasp clutch carry
put place set lay position
start begin commence
stop finish end quit cease
continue keep proceed
look watch view stare gaze glance see observe peer examine inspect
open unlock
close shut
run jog sprint dash rush
walk stroll wander stride pace
throw toss fling hurl chuck
laugh giggle chuckle
smile grin
eat consume devour munch chew
drink sip gulp
speak talk chat converse
say tell
yell shout scream
lie lay recline
clean tidy wipe organize
wash rinse
fix repair mend adjust
awaken wake awake
dress clothe
undress strip
leave exit depart
enter come arrive
go move travel head
jump leap hop
show display demonstrate
see show picture view feature
use utilize
make prepare create
cook prepare
fall tumble
hit strike
cut slice chop
mix stir blend
shake wiggle
spin rotate twirl turn
lift raise
fill load
appear seem
work labor
sit seat
snuggle cuddle hug
sneeze cough
straighten tidy arrange
sofa couch settee loveseat
television tv
refrigerator fridge frig icebox
cup mug glass
phone cellphone telephone smartphone mobile cell
laptop computer pc
doorway entryway entrance door
closet wardrobe
cabinet cupboard
shelf rack
picture photo photograph image selfie
bag sack backpack
box carton package container
clothes clothing garment apparel outfit laundry
shoe sneaker boot
food meal snack
blanket quilt comforter
pillow cushion
medicine pill medication drug
stove cooker oven
floor ground
rug carpet
mirror glass
book novel
paper document
dish plate
room area
house home
hallway corridor
bathroom restroom washroom
light lamp
window pane
broom brush
vacuum hoover
sandwich burger
person someone somebody human individual
people individuals persons
man guy gentleman male fellow dude
woman lady female
boy lad
girl lass
child kid toddler
baby infant
he him
car automobile vehicle
bicycle bike
boat ship vessel
shirt tshirt tee
pants trousers jeans
street road
video clip footage film
screen monitor
audience crowd spectators
picture painting
stage platform
team group
ball sphere
in into inside within
on onto upon
to toward towards
near by beside next alongside
over above
under below beneath underneath
around round about
along through
off from
out outside
after following
before prior
with using
quickly fast rapidly swiftly hurriedly
slowly gradually
then next afterwards after later
again repeatedly
also too
together jointly
big large huge
small little tiny
quick fast rapid
different various several other multiple many
young youthful
old elderly
close near nearby
nice good great
pretty beautiful
"""


@lru_cache(maxsize=1)
def _groups_of() -> dict[str, frozenset[int]]:
    groups: dict[str, set[int]] = {}
    for number, line in enumerate(_GROUPS.strip().splitlines()):
        for word in line.split():
            groups.setdefault(word, set()).add(number)
    return {word: frozenset(numbers) for word, numbers in groups.items()}


@cache
def _groups_of_form(word: str) -> frozenset[int]:
    table = _groups_of()
    return frozenset().union(*(table[stem] for stem in stems(word) if stem in table))


def are_near_synonyms(word: str, other: str) -> bool:
    """Whether captions use the two words, in any form, for one thing (`takes`, `grabbed`)."""
    return not _groups_of_form(word).isdisjoint(_groups_of_form(other))
