"""Prediction of a model's memory, by part: made by its engine before it is loaded."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a model, in bytes. `private`: unreclaimable memory; `mapped`: file cache, of which
    speech touches `touched`."""

    name: str
    disk: int
    private: int
    mapped: int = 0
    touched: int = 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Prediction for a fork server and its workers, in bytes; `load_s` in seconds.

    `graph`: "lazy" (composed while decoding), "static" (copied into memory) or "mapped".
    """

    graph: str
    parts: tuple[Part, ...]
    growth: int
    """Growth of each worker, after minutes of speech."""
    load_s: float
    wider: tuple[float, int] = (1.0, 0)
    """Factor and bytes by which the profile "accurate" enlarges `growth`."""
    loading: int = 0
    """Memory held beside `model` during the load, and released after that."""
    rests_on: str = "the sizes of its files"

    @property
    def disk(self) -> int:
        """Size of all files."""
        return sum(part.disk for part in self.parts)

    @property
    def model(self) -> int:
        """Unreclaimable memory that all workers share."""
        return sum(part.private for part in self.parts)

    @property
    def mapped(self) -> int:
        """Memory that the kernel can reclaim."""
        return sum(part.mapped for part in self.parts)

    @property
    def touched(self) -> int:
        """Part of `mapped` that should be in memory for full speed."""
        return sum(part.touched for part in self.parts)

    @property
    def most_while_loading(self) -> int:
        """Largest memory of the process that loads it."""
        return self.model + self.loading

    def total(self, workers: int) -> int:
        """Return the memory of the fork server and `workers` workers, after minutes of speech."""
        return self.model + workers * self.growth

    @property
    def growth_accurate(self) -> int:
        """Growth of each worker that uses the profile "accurate", after minutes of speech."""
        factor, more = self.wider
        return int(self.growth * factor) + more


def measured(prediction: Prediction, *, model: int, growth: int, load_s: float) -> Prediction:
    """Return the prediction corrected by measurements: the parts in proportion."""
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
