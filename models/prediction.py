"""Prediction of the memory that a model takes, by part: made by its engine before it is loaded."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model. `private`: what cannot be dropped; `mapped`: file cache, of which
    speech touches `touched`. In bytes."""

    name: str
    disk: int
    private: int
    mapped: int = 0
    touched: int = 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a fork server and its workers will hold, in bytes; `load_s` in seconds.

    `graph`: "lazy" (composed while decoding), "static" (copied into memory) or "mapped".
    """

    graph: str
    parts: tuple[Part, ...]
    growth: int
    """Of each worker, after minutes of speech."""
    load_s: float
    wider: tuple[float, int] = (1.0, 0)
    """Factor and bytes by which the profile "accurate" enlarges `growth`."""
    loading: int = 0
    """Held beside `model` while it is being loaded, and released after that."""
    rests_on: str = "the sizes of its files"

    @property
    def disk(self) -> int:
        """All files."""
        return sum(part.disk for part in self.parts)

    @property
    def model(self) -> int:
        """What is held once for all workers and cannot be dropped."""
        return sum(part.private for part in self.parts)

    @property
    def mapped(self) -> int:
        """What the kernel can take back."""
        return sum(part.mapped for part in self.parts)

    @property
    def touched(self) -> int:
        """How much of `mapped` should be there for full speed."""
        return sum(part.touched for part in self.parts)

    @property
    def most_while_loading(self) -> int:
        """What the process that loads it holds at the most."""
        return self.model + self.loading

    def total(self, workers: int) -> int:
        """Of the fork server and so many workers, after minutes of speech."""
        return self.model + workers * self.growth

    @property
    def growth_accurate(self) -> int:
        """Of each worker that is asked for the profile "accurate", after minutes of speech."""
        factor, more = self.wider
        return int(self.growth * factor) + more


def measured(prediction: Prediction, *, model: int, growth: int, load_s: float) -> Prediction:
    """The same, corrected by what was measured: the parts in proportion."""
    factor = model / prediction.model
    parts = tuple(replace(part, private=int(part.private * factor)) for part in prediction.parts)
    return replace(
        prediction,
        parts=parts,
        growth=growth,
        loading=int(prediction.loading * factor),
        load_s=round(load_s, 1),
        rests_on="a measurement here; each part's share of it is predicted",
    )
