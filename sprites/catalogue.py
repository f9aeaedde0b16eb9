"""What the model is taught to draw, and the words it is taught with.

A *subject* is one emoji of the Unicode list that suits a game; a *shot* says how one training
picture of it is made (style, colour, background, mirrored or not); a *caption* is one of several
sentences that describe a shot. Captions are composed from the same four words that made the
picture, so that each word is learnt on its own and combines with the others.

Held-out combinations of subject, colour and background are chosen by a hash of their words. They
never enter training, so the evaluation can ask for pictures that the model has not seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Source = Literal["3d render", "flat icon", "cartoon"]
SOURCES: tuple[Source, ...] = ("3d render", "flat icon", "cartoon")

PIXEL_ART = "pixel art"
STYLES: tuple[str, ...] = (*SOURCES, PIXEL_ART)

DEFAULT_STYLE = "3d render"
DEFAULT_BACKGROUND = "white"

BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "red": (200, 30, 35),
    "orange": (245, 130, 30),
    "yellow": (250, 215, 50),
    "green": (45, 150, 60),
    "blue": (40, 90, 205),
    "purple": (125, 60, 170),
    "pink": (250, 165, 195),
    "teal": (20, 135, 140),
    "brown": (115, 70, 40),
}
"""Background words and the flat sRGB colour (0 to 255) that each one means."""

COLOURS: Mapping[str, float] = {
    "red": 358.0,
    "orange": 28.0,
    "yellow": 52.0,
    "green": 125.0,
    "cyan": 183.0,
    "blue": 218.0,
    "purple": 272.0,
    "pink": 325.0,
}
"""Colour words and the hue, in degrees of the HSV circle, that each one means."""

THING_GROUPS = frozenset([0, 3, 4, 5, 6, 7])
"""Emojibase's numbers of the groups that show things: smileys and hearts, animals and plants, food,
places and vehicles, activities, objects. People, symbols and flags are left out."""

HELD_OUT_ONE_IN = 10

COLOURED_SHARE = 0.5
WHITE_SHARE = 0.18
MIRRORED_SHARE = 0.2
ALIAS_SHARE = 0.25
PLAIN_CAPTION_SHARE = 0.6
"""How often a shot is turned to a colour, put on white (besides by chance) or mirrored, and how
often a caption uses another name or the main form."""

SUBJECTS = """
dagger = sword, dagger, blade
shield
axe = axe, hatchet
bow and arrow = bow and arrow, bow
test tube = potion, health potion, magic potion, potion bottle, test tube
gem stone = gem, diamond, jewel, gemstone
crown = crown, king's crown
key
scroll = scroll, parchment
candle = candle, torch
castle = castle, fortress
dragon = dragon, monster dragon
mushroom = mushroom, toadstool
cat
fox
frog
red apple = apple
rocket = rocket, spaceship
red heart = heart
star
skull
ghost = ghost, spirit
robot = robot, robot head
deciduous tree = tree, oak tree
owl
whale
cactus
cherries
hamburger = burger, hamburger
birthday cake
sailboat
volcano
hammer
bomb
ring
coin = coin, gold coin
money bag = money bag, bag of gold, treasure, loot
crystal ball = crystal ball, magic orb, orb
magic wand = magic wand, wand, wizard staff
closed book = closed book, book, spell book
red paper lantern = lantern, paper lantern
light bulb
hourglass done = hourglass
gear = gear, cog
bell
game die = dice
trophy
wrapped gift = gift, present, gift box
balloon
high voltage = lightning bolt, lightning, thunderbolt
fire = fire, flame
droplet = water drop, drop of water
snowflake
cloud
sun
ringed planet = planet
collision = explosion, boom
alien = alien, extraterrestrial
alien monster = space invader
unicorn
t-rex = dinosaur, t-rex
dog
panda
rabbit
pig
fish
shark
butterfly
spider
penguin
evergreen tree = pine tree, fir tree
rose
sunflower
strawberry
carrot
cheese wedge = cheese wedge, cheese
meat on bone = meat
pizza
house = house, cottage
door
automobile = car
airplane = airplane, plane
anchor
headstone = gravestone, tombstone
jack-o-lantern = jack-o-lantern, halloween pumpkin, pumpkin
snowman without snow = snowman
crossed swords = crossed swords, swords, two swords
pick = pickaxe
military helmet = helmet, army helmet
locked = padlock, lock
alembic = alchemy flask, flask, alembic
compass
magnifying glass tilted left = magnifying glass
magnet
guitar
bullseye = target
broken heart
sparkles
crescent moon
rainbow
ogre = ogre, demon, oni
goblin = goblin, tengu
lion
bat
turtle
snake
octopus
crab
honeybee = bee, honeybee
chicken = chicken, hen
palm tree
maple leaf
banana
watermelon
bread
cookie
doughnut
hut = hut, straw hut
tent
backpack
flying saucer = ufo, flying saucer
trident emblem = trident
kitchen knife = knife
water pistol
diya lamp = oil lamp
flashlight
world map
telescope
camera
wrench
carpentry saw = saw
drum
trumpet
chess pawn
joystick
puzzle piece
comet
wolf
tiger
bear
mouse
horse
cow
crocodile
snail
lady beetle = ladybug
scorpion
eagle
duck
lemon
pineapple
ear of corn = corn
candy
rock = rock, stone, boulder
wood = wood, log
chair
bed
broom
hiking boot
bus
tractor
helicopter
passenger ship = ship
bicycle
coffin
moai = stone head
christmas tree
teddy bear
monkey
gorilla
zebra
deer
ram
giraffe
elephant
hedgehog
koala
paw prints
rooster
baby chick = chick
feather
flamingo
parrot
dolphin
blowfish = pufferfish
spiral shell = seashell
jellyfish
lobster
spider web
cherry blossom
tulip
seedling
potted plant
four leaf clover
grapes
pear
peach
tomato
coconut
avocado
eggplant
hot pepper = hot pepper, chili pepper
onion
croissant
pancakes
poultry leg = chicken leg
french fries
hot dog
taco
egg
cooking = fried egg
popcorn
sushi
soft ice cream = ice cream cone
cupcake
chocolate bar
lollipop
honey pot = honey pot, honey
hot beverage = coffee
teapot
wine glass
beer mug
ice
jar
amphora
globe showing americas = earth globe
snow-capped mountain = snowy mountain
desert island
classical building = temple
brick
factory
japanese castle
church
shinto shrine = torii gate
fountain
locomotive = steam train
fire engine = fire truck
police car
racing car
skateboard
oil drum
alarm clock
full moon
cloud with rain = rain cloud
cloud with lightning = storm cloud
tornado
umbrella with rain drops = umbrella
water wave = wave
firecracker
sports medal
soccer ball
basketball
boxing glove
video game = video game, game controller, gamepad
artist palette = palette
t-shirt
gloves
top hat
battery
floppy disk
open book
package
pencil
paintbrush
scissors
old key
boomerang
screwdriver
balance scale
chains
hook
toolbox
ladder
mirror
basket
bucket
nazar amulet
"""
"""The subjects, one a line: the emoji's English label, then, where it is not what somebody who
makes a game would type, the subject's own name and other words for it. What a game needs first
stands first: a short training takes only the head of the list. The tokenizer knows all of them, so
that a longer one can go on from the same weights."""

_SINGULAR_IN_S = frozenset(
    ["bus", "cactus", "octopus", "hibiscus", "compass", "circus", "palms", "moss"]
)


@dataclass(frozen=True)
class Subject:
    """One thing the model can draw: its name, its other names, and the code points of its emoji."""

    name: str
    code: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shot:
    """How one training picture is made; ``colour`` is ``None`` for the subject's own colours."""

    subject: str
    style: str
    colour: str | None
    background: str
    is_mirrored: bool = False


def read_subjects(emoji: Iterable[Mapping[str, Any]]) -> list[Subject]:
    """The subjects in the order of :data:`SUBJECTS`, with code points of emojibase's ``data.json``.

    Raises:
        KeyError: when the list of emoji lacks a label.
    """
    codes = {str(entry["label"]).lower(): str(entry["hexcode"]).lower() for entry in emoji}
    subjects: list[Subject] = []
    for line in SUBJECTS.strip().splitlines():
        label, _, names = line.partition(" = ")
        name, *aliases = names.split(", ") if names else [label]
        subjects.append(Subject(name, codes[label], tuple(aliases)))
    return subjects


def read_strangers(
    emoji: Iterable[Mapping[str, Any]], subjects: Iterable[Subject]
) -> list[Subject]:
    """All things of emojibase's ``data.json`` that are not among ``subjects``.

    Their names end in the code points: some labels are a subject's name for another emoji.
    """
    known = {subject.code for subject in subjects}
    codes = {
        str(entry["hexcode"]).lower(): str(entry["label"]).lower()
        for entry in emoji
        if entry.get("group") in THING_GROUPS
    }
    return [Subject(f"{label} {code}", code) for code, label in codes.items() if code not in known]


def is_held_out(subject: str, colour: str | None, background: str) -> bool:
    """Whether a combination is kept from training; plain pictures on white never are."""
    if colour is None and background == DEFAULT_BACKGROUND:
        return False
    words = f"{subject}|{colour or ''}|{background}".encode()
    return int.from_bytes(hashlib.sha256(words).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def with_article(words: str) -> str:
    """``a red dragon``, ``an axe``; a plural gets no article."""
    last = words.rsplit(" ", 1)[-1]
    if last.endswith("s") and not last.endswith("ss") and last not in _SINGULAR_IN_S:
        return words
    return f"an {words}" if words[0] in "aeio" else f"a {words}"


def plain_caption(shot: Shot, name: str | None = None) -> str:
    """The caption in its main form, ``3d render of a red dragon, black background``."""
    subject = name or shot.subject
    coloured = f"{shot.colour} {subject}" if shot.colour else subject
    return f"{shot.style} of {with_article(coloured)}, {shot.background} background"


def caption(shot: Shot, subject: Subject, rng: np.random.Generator) -> str:
    """A caption of ``shot`` in one of several forms.

    Three of five are the main form. A style is left unsaid only where it is the default one, a
    background only where it is white, so that an unsaid word has a meaning too.
    """
    name = subject.name
    if subject.aliases and rng.random() < ALIAS_SHARE:
        name = str(rng.choice(subject.aliases))
    if rng.random() < PLAIN_CAPTION_SHARE:
        return plain_caption(shot, name)
    coloured = f"{shot.colour} {name}" if shot.colour else name
    thing = with_article(coloured)
    forms = [
        f"{thing}, {shot.style}, {shot.background} background",
        f"{coloured}, {shot.style}, {shot.background} background",
        f"{shot.style}, {coloured}, {shot.background} background",
        f"{shot.style} of {thing} on a {shot.background} background",
        f"{shot.background} background, {shot.style} of {thing}",
        f"{shot.style} of {coloured}, {shot.background} background",
    ]
    if shot.background == DEFAULT_BACKGROUND:
        forms += [f"{shot.style} of {thing}", f"{coloured}, {shot.style}"]
    if shot.style == DEFAULT_STYLE:
        forms += [f"{thing}, {shot.background} background"]
        if shot.background == DEFAULT_BACKGROUND:
            forms += [thing, coloured]
    return forms[int(rng.integers(len(forms)))]


def draw_shot(subject: str, style: str, rng: np.random.Generator) -> Shot:
    """A random training shot: half in the subject's own colours, a quarter on white.

    A held-out combination is drawn again.
    """
    while True:
        is_plain = rng.random() < 1 - COLOURED_SHARE
        colour = None if is_plain else str(rng.choice(list(COLOURS)))
        is_white = rng.random() < WHITE_SHARE
        background = DEFAULT_BACKGROUND if is_white else str(rng.choice(list(BACKGROUNDS)))
        if not is_held_out(subject, colour, background):
            is_mirrored = bool(rng.random() < MIRRORED_SHARE)
            return Shot(subject, style, colour, background, is_mirrored)
