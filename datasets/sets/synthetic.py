"""``--dataset Synthetic``: street clips in Cityscapes' layout, drawn on first use."""

import logging
import os
from pathlib import Path

from datasets.cityscapes import Roots, resolve_roots
from datasets.registry import register_dataset
from datasets.sets.cityscapes import Cityscapes
from datasets.synthetic.options import DEFAULT_ROOT, DEFAULT_SIZE, TRAIN_CLIPS, VAL_CLIPS, StreetOptions
from utils.json_text import from_json

log = logging.getLogger(__name__)


class Synthetic(Cityscapes):
    """Clips of drawn streets, whose size is in the folder's dataset.json."""

    name = "Synthetic"
    summary = "street clips drawn on first use"
    default_root = DEFAULT_ROOT

    def prepare(self, option: str | None) -> None:
        root = self._folder(option)
        if (root / "dataset.json").is_file():
            return
        from datasets.synthetic.disk import write_dataset  # only here: other data sets need no painter

        log.info("drawing synthetic street clips into %s", root)
        write_dataset(root, TRAIN_CLIPS, VAL_CLIPS, StreetOptions(), os.cpu_count() or 1)

    def root(self, option: str | None) -> Roots:
        return resolve_roots(str(self._folder(option)))

    def work_size(self, option: str | None) -> tuple[int, int]:
        try:
            description = from_json((self._folder(option) / "dataset.json").read_text(encoding="utf-8"))
            return description["height"], description["width"]
        except (OSError, ValueError, KeyError, TypeError):
            return DEFAULT_SIZE  # not drawn yet; ``root`` raises what is wrong with the folder

    def _folder(self, option: str | None) -> Path:
        return Path(option or self.default_root)


register_dataset(Synthetic())
