"""What decides which epoch is the best, and when a training ends early; it stays the same where one is resumed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from datasets.clip_dataset import ClipDataset
from engine.options.checks import checked
from engine.options.settings import Settings
from utils.errors import CheckpointError

_SHOWN = 8  # scenes in a message


@dataclass(frozen=True)
class Validation:
    """The share of the training clips that is held out, 0 for none, their scenes, and how many epochs that are not
    better end a training, 0 for none."""

    hold_out: float = 0.0
    patience: int = 0
    scenes: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings, clips: ClipDataset) -> Self:
        """That of a training which is validated on these clips."""
        data = settings.data
        scenes = sorted({clip.scene for clip in clips.clips}) if data.hold_out else ()
        return cls(data.hold_out, settings.train.patience, tuple(scenes))

    @classmethod
    def in_checkpoint(cls, content: Mapping[str, Any], source: object) -> Self:
        """That of the training that wrote a checkpoint; without ``--hold-out`` where it does not say."""
        try:
            found = content.get("validation", {})
            values = float(found.get("hold_out", 0)), int(found.get("patience", 0)), tuple(found.get("scenes", ()))
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{source}: does not say what its training was validated on ({error})") from error
        return cls(*values)

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"hold_out": self.hold_out, "patience": self.patience, "scenes": list(self.scenes)}

    def check_same_scenes(self, before: Self, source: object) -> None:
        """Raises ``CheckpointError`` where a training was validated on other scenes before it was interrupted."""
        if self.scenes != before.scenes:
            raise CheckpointError(
                f"{source}: was validated on {before.text()}, now it would be on {self.text()}: give the same data, "
                "--seed and --hold-out with --resume"
            )

    def text(self) -> str:
        """The scenes in words."""
        if not self.scenes:
            return "the split val"
        more = f" and {len(self.scenes) - _SHOWN} more" if len(self.scenes) > _SHOWN else ""
        return f"{len(self.scenes)} held-out videos ({', '.join(self.scenes[:_SHOWN])}{more})"


def with_validation_of(settings: Settings, content: Mapping[str, Any], source: object) -> Settings:
    """The settings with the ``--hold-out`` and ``--patience`` of a checkpoint, where they were not typed.

    Raises ``CheckpointError`` where a typed ``--hold-out`` differs.
    """
    before, own = Validation.in_checkpoint(content, source), settings.data.hold_out
    if "hold_out" in settings.typed and own != before.hold_out:
        raise CheckpointError(
            f"--hold-out {own:g} contradicts {source}, whose training was validated on {before.text()}: leave it out, "
            "or start a training of its own"
        )
    values = {"hold_out": before.hold_out, "patience": before.patience}
    taken = {name: value for name, value in values.items() if name not in settings.typed}
    return checked({**settings.untouched, **taken}, settings.typed, settings.command, settings.network.classes)
