"""Titles and descriptions of simulated films, from genre and mood vocabularies, so that texts reflect tastes."""

from __future__ import annotations

from collections import Counter

import numpy as np

# Genre: (who, does what, where, title nouns), each a list of phrases.
_GENRES = {
    "drama": (
        "a widowed schoolteacher|an estranged son|a ferry pilot near retirement|a young mother of three",
        "holds a family together|learns what was never said|sells the house where it began|forgives too late",
        "in a fading mill town|through one long winter|on the night of a funeral",
        "Inheritance|Kitchen|Promise|Silence|Harbour",
    ),
    "comedy": (
        "a hopeless best man|a landlord with nine cats|an out-of-work clown|a rival pair of bakers",
        "pretends to be a count|loses the wedding rings|enters the wrong talent show|wins a prize by mistake",
        "at a seaside hotel|during the village fair|on a very wrong bus",
        "Mix-Up|Cake|Neighbours|Alibi|Honeymoon",
    ),
    "romance": (
        "a shy florist|a train conductor in love|a pen friend from long ago|a divorced pianist",
        "writes letters never sent|meets a first love again|falls for the wrong sister|misses the last train",
        "in Paris in the rain|over one summer by the lake|between two farewells",
        "Letter|Kiss|Summer|Waltz|Heart",
    ),
    "thriller": (
        "a wiretap expert|a courier with the wrong bag|a bodyguard who cannot sleep|a translator under watch",
        "has hours to clear a name|is hunted by a caller|uncovers a plot in the ministry|trusts nobody",
        "on a night express|in a locked embassy|before the markets open",
        "Deadline|Signal|Pursuit|Witness|Cipher",
    ),
    "crime": (
        "an ageing safecracker|a crooked lawyer|a detective on leave|a getaway driver with a twin",
        "plans one last robbery|turns against the syndicate|owes money to the mob|launders more than money",
        "in the back rooms of the docks|under the eyes of the police|during a heat wave",
        "Heist|Syndicate|Score|Racket|Vault",
    ),
    "mystery": (
        "a retired inspector|a village librarian|the heir nobody expected|an amateur sleuth",
        "finds a body|follows clues of the dead|questions six suspects|solves a forty-year-old case",
        "at a snowed-in manor|on an island without a boat|among old diaries",
        "Riddle|Manor|Clue|Portrait|Vanishing",
    ),
    "horror": (
        "a night nurse|a family in a new house|the last caretaker|a group of campers",
        "wakes something below|hears the walls breathe|breaks the seal of a cursed tomb|casts no shadow",
        "in an abandoned hospital|where no bird sings|on the thirteenth night",
        "Haunting|Cellar|Curse|Scream|Crypt",
    ),
    "science fiction": (
        "a stranded astronaut|a robot with a memory|a terraforming crew|the first colonist",
        "answers a signal from deep space|repairs a starship|outlives its makers|loops through time",
        "on a moon of Saturn|aboard an orbital station|after the last upload",
        "Orbit|Android|Colony|Nebula|Singularity",
    ),
    "fantasy": (
        "an orphan with a dragon's egg|an exiled sorceress|a talking fox|the youngest of seven knights",
        "breaks an ancient spell|seeks a sword of glass|bargains with the elven king|opens a magic door",
        "beyond the enchanted forest|in a kingdom without stars|at the foot of the wizard's tower",
        "Dragon|Spell|Crown|Sorceress|Realm",
    ),
    "adventure": (
        "a disgraced map-maker|a salvage diver|a pair of mountaineers|an heiress with a compass",
        "seeks a sunken treasure|crosses the desert on foot|outruns rival explorers|finds a city on no map",
        "up an uncharted river|across the ice|in the jungles of the south",
        "Expedition|Compass|Treasure|Summit|Voyage",
    ),
    "action": (
        "a former commando|a stunt driver|a bomb-squad rookie|an agent without a badge",
        "fights through forty floors|steals a tank|races a convoy to the border|settles it with bare fists",
        "across the rooftops|in a burning tower|at two hundred miles an hour",
        "Strike|Blast|Bullet|Showdown|Velocity",
    ),
    "war": (
        "a field medic|a deserter in his captor's coat|a tank crew far from home|a code clerk at the front",
        "holds a bridge for days|carries a last message|waits in the trenches for dawn|comes home to no one",
        "behind enemy lines|in the winter of the siege|before the armistice",
        "Battalion|Trench|Siege|Front|Armistice",
    ),
    "western": (
        "a tired gunslinger|a homesteader's daughter|the sheriff of a silver town|a horse thief",
        "rides against the cattle baron|waits for the noon train|guards a stagecoach of gold|draws second",
        "under the big prairie sky|along the frontier|in the canyon country",
        "Saddle|Canyon|Frontier|Outlaw|Sundown",
    ),
    "history": (
        "a court painter|a queen at seventeen|a printer of forbidden books|the emperor's physician",
        "serves two thrones|stands trial for a pamphlet|builds a cathedral|witnesses the fall of a dynasty",
        "in the year of the plague|at the court of Vienna|on the eve of the revolution",
        "Throne|Empire|Dynasty|Cathedral|Chronicle",
    ),
    "animation": (
        "a runaway teapot|a small bear in a big coat|a paper boat|a young inventor and her owl",
        "befriends the moon|learns to fly backwards|saves the toy factory|sets out to find the colour blue",
        "in a hand-drawn city|over the rooftops at bedtime|inside a snow globe",
        "Puppet|Balloon|Owl|Moonbeam|Toymaker",
    ),
    "documentary": (
        "a beekeeper of eighty|the crew of a lighthouse|a forgotten architect|a marathon runner of sixty",
        "tells the whole story|opens a private archive|is followed for ten years|explains how it was built",
        "with unseen footage|from the glaciers to the sea|in the voices of the time",
        "Archive|Portraits|Makers|Glacier|Testimony",
    ),
}  # fmt: skip
GENRES = tuple(_GENRES)

# Latent factor: words at its low end, words at its high end.
_MOODS = (
    ("slow-burning|patient|unhurried", "breakneck|restless|relentless"),
    ("bleak|brooding|sombre", "warm|sunny|tender"),
    ("deadpan|ironic|sly", "earnest|heartfelt|sincere"),
    ("intimate|quiet|small-scale", "sweeping|lavish|grand"),
    ("dreamlike|stylised|surreal", "gritty|plain-spoken|raw"),
    ("cerebral|puzzling|intricate", "rowdy|playful|crowd-pleasing"),
)
N_FACTORS = len(_MOODS)
_NAMES = [
    "Marlow",
    "Vesna",
    "Odile",
    "Anatole",
    "Lindqvist",
    "Saint Agnes",
    "Okafor",
    "Rosalind",
    "the North",
]
_TITLES = [
    "The {mood} {noun}",
    "The {noun} of {name}",
    "The Last {noun}",
    "{name}'s {noun}",
    "{noun} and {other}",
]
_ROMAN = [(100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]
_PHRASES = [[part.split("|") for part in parts] for parts in _GENRES.values()]
_WORDS = [[pole.split("|") for pole in poles] for poles in _MOODS]


def write_texts(genres: np.ndarray, factors: np.ndarray, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Titles (no two alike) and descriptions of n films.

    Parameters
    ----------
    genres: int[n, 2], first and second genre of each film, codes into GENRES; equal where it has one.
    factors: float[n, N_FACTORS]; the three of largest absolute value choose the mood words.
    """
    loudest = np.argsort(-np.abs(factors), axis=1, kind="stable")[:, :3]
    draws = rng.random((len(genres), 10))
    titles, texts = [], []
    seen: Counter[str] = Counter()
    rows = zip(genres.tolist(), loudest.tolist(), factors, draws.tolist())
    for (first, second), strong, values, draw in rows:
        poles = [_WORDS[factor][int(values[factor] > 0)] for factor in strong]
        moods = [_pick(words, draw[rank]) for rank, words in enumerate(poles)]
        who, does, where, nouns = _PHRASES[first]
        also_who, also_does, also_where, also_nouns = _PHRASES[second]
        noun, other = _pick(nouns, draw[3]), _pick(also_nouns, draw[4])
        pattern = _pick(_TITLES[:-1] if noun == other else _TITLES, draw[5])
        title = pattern.format(mood=moods[0].title(), noun=noun, other=other, name=_pick(_NAMES, draw[6]))
        title = title[0].upper() + title[1:]
        seen[title] += 1
        titles.append(title if seen[title] == 1 else f"{title} {_roman(seen[title])}")
        kind = GENRES[first] if first == second else f"{GENRES[first]} and {GENRES[second]}"
        article = "An" if moods[0][0] in "aeiou" else "A"
        lead, plot, place = _pick(who, draw[7]), _pick(does, draw[8]), _pick(also_where, draw[9])
        # Offset by half the list, so that a film of one genre does not repeat a phrase.
        turns = zip((also_who, also_does, where), draw[7:10])
        turn = " ".join(_pick(phrases, (at + 0.5) % 1) for phrases, at in turns)
        texts.append(
            f"{article} {moods[0]} and {moods[1]} {kind} film: {lead} {plot} {place}. "
            f"{turn[0].upper()}{turn[1:]}. For an evening that calls for something {moods[2]}."
        )
    return titles, texts


def _pick(words: list[str], draw: float) -> str:
    return words[int(draw * len(words))]


def _roman(number: int) -> str:
    """The number of a sequel: 4 is "IV"."""
    text = ""
    for value, sign in _ROMAN:
        text += sign * (number // value)
        number %= value
    return text
