"""Four voices that sing at once, how they sound, and the figures of who sings what.

The notes are those of Bach's chorales if the reader has them, and simulated otherwise.
The sound is simulated in either case: a spectrum for each beat, with noise.
"""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

VOICES = ("bass", "tenor", "alto", "soprano")
OVERTONES = 5
NOISE = 0.5
JSON, NPZ = "jsb-chorales-quarter.json", "polyphonic_music.npz"
COLORS = ("#c8502d", "#2a6f97", "#7a9e48", "#8a5a9e")


class Music(NamedTuple):
    """What the model knows, what is heard, and what was sung.

    Shapes:
        pitches: by voice (notes,), semitones, ascending.
        first: by voice (notes,), probabilities of the first note.
        move: by voice (notes, notes), rows are probabilities of the next note.
        spectra: by voice (notes, bins), the sound of each note.
        heard: (phrases, beats, bins), sums of four spectra with noise.
        sung: (phrases, beats, voices), the notes as integers.
    """

    pitches: list[np.ndarray]
    first: list[np.ndarray]
    move: list[np.ndarray]
    spectra: list[np.ndarray]
    heard: np.ndarray
    sung: np.ndarray


def load(folder: Path | None, phrases: int, beats: int, seed: int = 0) -> Music:
    """Return phrases of chorales from a folder, or simulated ones, and their sound.

    How voices move is counted in all phrases that there are.
    """
    rng = np.random.default_rng(seed)
    tones = simulated(rng, beats) if folder is None else read(folder, beats)
    pitches = [np.unique(tones[..., v]) for v in range(len(VOICES))]
    notes = np.stack(
        [np.searchsorted(p, tones[..., v]) for v, p in enumerate(pitches)], -1
    )
    counted = [counts(notes[..., v], len(p)) for v, p in enumerate(pitches)]
    lowest, highest = tones.min(), tones.max()
    spectra = [spectrum(p - lowest, highest - lowest) for p in pitches]
    sung = notes[:phrases]
    means = sum(s[sung[..., v]] for v, s in enumerate(spectra))
    heard = rng.normal(means, NOISE).astype(np.float32)
    return Music(pitches, *map(list, zip(*counted, strict=True)), spectra, heard, sung)


def simulated(rng: np.random.Generator, beats: int, phrases: int = 200) -> np.ndarray:
    """Four voices that walk along a scale, each in its range of twelve notes.

    Returns:
        Pitches of shape (phrases, beats, voices), ascending within a beat.
    """
    major = np.array([0, 2, 4, 5, 7, 9, 11])
    scale = 48 + (major + 12 * np.arange(4)[:, None]).reshape(-1)
    at = rng.integers(0, 12, size=(phrases, len(VOICES)))
    tones = []
    for _ in range(beats):
        tones.append(scale[np.array([0, 4, 8, 12]) + at])
        step = rng.choice(
            [-2, -1, 0, 1, 2], p=[0.1, 0.25, 0.3, 0.25, 0.1], size=at.shape
        )
        at = 11 - np.abs(11 - np.abs(at + step))
    return np.sort(np.stack(tones, 1), -1)


def read(folder: Path, beats: int) -> np.ndarray:
    """The first beats of each chorale that has four notes at each of them.

    The notes of a beat, from below, are those of bass, tenor, alto and soprano.
    """
    songs = [song[:beats] for song in songs_of(folder)]
    full = [s for s in songs if len(s) == beats and all(len(x) == 4 for x in s)]
    return np.sort(np.array(full), -1)


def songs_of(folder: Path) -> list[list[Any]]:
    """Chorales as lists of beats, each a list of pitches, from either file."""
    if (folder / JSON).exists():
        return json.loads((folder / JSON).read_text())["train"]
    if not (folder / NPZ).exists():
        raise FileNotFoundError(f"there is neither {JSON} nor {NPZ} in {folder}")
    arrays = np.load(folder / NPZ)
    rolls = np.unpackbits(arrays["jsb_train_roll"], axis=-1)[:, :88]
    ends = np.cumsum(arrays["jsb_train_lengths"])
    lowest = 21
    return [
        [np.flatnonzero(beat) + lowest for beat in song]
        for song in np.split(rolls, ends[:-1])
    ]


def counts(notes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of first notes and of moves, from counts that start above zero."""
    first, move = np.ones(size), np.full((size, size), 0.1)
    np.add.at(first, notes[:, 0], 1)
    np.add.at(move, (notes[:, :-1], notes[:, 1:]), 1)
    first, move = first / first.sum(), move / move.sum(1, keepdims=True)
    return first.astype(np.float32), move.astype(np.float32)


def spectrum(pitches: np.ndarray, highest: int) -> np.ndarray:
    """Each pitch and its overtones, in bins of a semitone; the n-th has 1/n of it."""
    up = [round(12 * math.log2(n)) for n in range(1, OVERTONES + 1)]
    sound = np.zeros((len(pitches), highest + up[-1] + 1), np.float32)
    for n, semitones in enumerate(up, start=1):
        sound[np.arange(len(pitches)), pitches + semitones] += 1 / n
    return sound


def log_evidence(music: Music) -> float:
    """The exact log-evidence in nats a beat, by the forward recursion over all notes.

    It is written for this model, and has no gradients to keep.
    """
    shape = [len(p) for p in music.pitches]
    bins = music.heard.shape[-1]
    means = functools.reduce(
        lambda a, b: (a[:, None] + b).reshape(-1, bins), music.spectra
    )
    total = 0.0
    for phrase in music.heard:
        message = functools.reduce(np.multiply.outer, music.first).astype(float)
        for t, heard in enumerate(phrase):
            for move in music.move if t else ():
                # The first voice moves, and goes to the end of the axes.
                message = np.tensordot(message, move, ([0], [0]))
            distance = ((means - heard) ** 2).sum(1) / NOISE**2
            least = distance.min()
            message = message * np.exp(-0.5 * (distance - least)).reshape(shape)
            total += math.log(message.sum()) - 0.5 * least
            total -= bins * math.log(NOISE * math.sqrt(2 * math.pi))
            message /= message.sum()
    return total / music.sung[..., 0].size


class Result(NamedTuple):
    """What a guide was found to be worth: nats a beat, and shares of right notes."""

    name: str
    bounds: np.ndarray
    right: np.ndarray
    milliseconds: float | None


def right(shares: list[np.ndarray], sung: np.ndarray) -> np.ndarray:
    """By voice, the share of beats whose most probable note is the one sung."""
    guesses = np.stack([s.argmax(-1) for s in shares], -1)
    return (guesses == sung).mean((0, 1))


def shares(draws: np.ndarray, music: Music) -> list[np.ndarray]:
    """By voice, how often each note was drawn, of shape (phrases, beats, notes)."""
    return [np.eye(len(p))[draws[..., v]].mean(0) for v, p in enumerate(music.pitches)]


def table(results: list[Result], evidence: float) -> str:
    """The results, one a line."""
    head = ["voices", "discrete ELBO", "below evidence", *VOICES, "CPU ms a step"]
    rows = [head]
    for r in results:
        mean, error = r.bounds.mean(), r.bounds.std(ddof=1) / len(r.bounds) ** 0.5
        notes = [f"{x:.2f}" for x in r.right]
        time = "-" if r.milliseconds is None else f"{r.milliseconds:.0f}"
        gap = f"{evidence - mean:.2f}"
        rows.append([r.name, f"{mean:.2f} ± {error:.2f}", gap, *notes, time])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def budgets(plan: Callable[[float], Any], sizes: tuple[float, ...]) -> str:
    """What is enumerated under each budget, at a beat in the middle, one a line."""
    lines = ["   budget  enumerated at the second beat   largest tensor  dims"]
    for size in sizes:
        found = plan(size)
        kept = [VOICES[int(name[1])] for name in found.enumerated if name[3:] == "1"]
        words = ", ".join(kept) or "-"
        lines.append(
            f"{size:9,}  {words:<30} {found.cost_after:15,}  {found.dims_after:4}"
        )
    return "\n".join(lines)


def abridged(plan: Any) -> str:
    """The table of a plan without the beats after the second."""
    lines = str(plan).splitlines()
    kept = [x for x in lines if x[:1] != "z" or x.split()[0][3:] in ("0", "1")]
    kept.insert(kept.index(""), f"... and {len(lines) - len(kept)} sites alike")
    return "\n".join(x if len(x) <= 118 else x[:115] + "..." for x in kept)


def draw_music(music: Music, phrase: int = 0) -> Figure:
    """Draw what is heard of a phrase, and what was sung."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    axes[0].imshow(music.heard[phrase].T, origin="lower", aspect="auto", cmap="gray_r")
    axes[0].set(title="What is heard", xlabel="beat", ylabel="semitone")
    draw_notes(axes[1], music, phrase)
    axes[1].set(title="What was sung", xlabel="beat", ylabel="semitone")
    axes[1].legend(fontsize="small", ncols=4, loc="upper center")
    axes[1].set_ylim(top=axes[1].get_ylim()[1] + 8)
    return figure


def draw_notes(axes: Any, music: Music, phrase: int) -> None:
    beats = np.arange(music.sung.shape[1])
    lowest = min(p[0] for p in music.pitches)
    for v, (voice, p) in enumerate(zip(VOICES, music.pitches, strict=True)):
        tones = p[music.sung[phrase, :, v]] - lowest
        at = tones + 0.25 * (v - 1.5)  # voices in unison are seen side by side
        axes.hlines(at, beats - 0.4, beats + 0.4, COLORS[v], lw=3, label=voice)


def draw_decoded(
    music: Music, found: dict[str, list[np.ndarray]], phrase: int = 0
) -> Figure:
    """Draw the probabilities of notes by voice, one row of panels for each method."""
    size = (11, 2.4 * len(found))
    settings = {"figsize": size, "layout": "constrained", "squeeze": False}
    figure, rows = plt.subplots(len(found), len(VOICES), sharex=True, **settings)
    for axes_of_row, (name, by_voice) in zip(rows, found.items(), strict=True):
        for v, axes in enumerate(axes_of_row):
            look = {"cmap": "gray_r", "vmin": 0, "vmax": 1, "aspect": "auto"}
            axes.imshow(by_voice[v][phrase].T, origin="lower", **look)
            axes.plot(music.sung[phrase, :, v], "o", color=COLORS[v], ms=4)
            axes.set_title(VOICES[v], fontsize="medium")
        axes_of_row[0].set_ylabel(f"{name}\nnote")
    for axes in rows[-1]:
        axes.set_xlabel("beat")
    return figure
