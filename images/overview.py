"""Draws images/overview.png, the data flow of LMANet: ``make images``."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

Point = tuple[float, float]
OLD, NEW, INK, PALE = "#d9d9d9", "#9ecae9", "#222222", "#f5f5f5"


def box(
    ax: Axes, x: float, y: float, width: float, height: float, title: str, note: str = "", color: str = OLD
) -> None:
    """A rounded box with its middle at (x, y)."""
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, "round,pad=0,rounding_size=.12", fc=color, ec=INK, lw=1.2
        )
    )
    ax.text(x, y + (0.17 if note else 0), title, ha="center", va="center", fontsize=12, color=INK, weight="bold")
    if note:
        ax.text(x, y - 0.2, note, ha="center", va="center", fontsize=9.5, color=INK)


def arrow(ax: Axes, start: Point, end: Point, text: str = "", offset: Point = (0.0, 0.17), bend: float = 0.0) -> None:
    """An arrow with a word beside its middle."""
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=15, lw=1.5, color=INK, connectionstyle=f"arc3,rad={bend}"
        )
    )
    if text:
        x, y = (start[0] + end[0]) / 2 + offset[0], (start[1] + end[1]) / 2 + offset[1]
        ax.text(x, y, text, ha="center", va="center", fontsize=9.5, color=INK)


def queue(ax: Axes, x: float, y: float) -> None:
    """The memory: T frames of keys and values, one behind the other."""
    for shift in (0.3, 0.15, 0.0):
        ax.add_patch(Rectangle((x - 1.0 + shift, y - 0.55 + shift), 2.0, 1.1, fc=NEW, ec=INK, lw=1.2))
    ax.text(x, y + 0.17, "memory", ha="center", va="center", fontsize=12, weight="bold", color=INK)
    ax.text(x, y - 0.2, "last T frames", ha="center", va="center", fontsize=9.5, color=INK)


def neighborhood(ax: Axes, x: float, y: float) -> None:
    """A query pixel, and the n x n pixels of a past frame that it attends to."""
    ax.text(x, y + 1.02, "what one pixel reads", ha="center", fontsize=10.5, weight="bold", color=INK)
    for left, title in ((x - 2.3, "frame t"), (x + 0.3, "frame t-1 ... t-T")):
        ax.add_patch(Rectangle((left, y - 0.6), 2.0, 1.2, fc=PALE, ec=INK, lw=1.0))
        ax.text(left + 1.0, y - 0.82, title, ha="center", fontsize=9, color=INK)
    ax.add_patch(Rectangle((x - 1.25, y - 0.05), 0.12, 0.12, fc="#d55e00", ec="none"))
    ax.add_patch(Rectangle((x + 0.96, y - 0.44), 0.9, 0.9, fc=NEW, ec="#0072b2", lw=1.5))
    ax.text(x + 1.41, y + 0.0, "n x n", ha="center", va="center", fontsize=9, color=INK)
    arrow(ax, (x - 1.1, y + 0.02), (x + 0.93, y + 0.02))


def main() -> None:
    """Draws the picture and writes it beside this file."""
    figure, ax = plt.subplots(figsize=(12.6, 5.6), dpi=110)
    ax.set_xlim(0, 15.6)
    ax.set_ylim(0, 7.0)
    ax.axis("off")
    box(ax, 1.2, 5.6, 1.8, 1.0, "frame t", "3 x H x W", PALE)
    box(ax, 4.0, 5.6, 1.8, 1.0, "encoder", "as it was")
    box(ax, 7.0, 5.6, 2.0, 1.0, "query head", "two 3x3", NEW)
    box(ax, 10.2, 5.6, 1.8, 1.0, "fusion", "gated sum", NEW)
    box(ax, 12.7, 5.6, 1.6, 1.0, "decoder", "as it was")
    box(ax, 14.75, 5.6, 1.3, 1.0, "labels", "H x W", PALE)
    box(ax, 10.2, 3.4, 3.1, 1.1, "local attention", "n x n window, T frames", NEW)
    box(ax, 4.0, 1.7, 2.3, 1.0, "memory head", "two 3x3", NEW)
    queue(ax, 7.3, 1.7)
    arrow(ax, (2.1, 5.6), (3.1, 5.6))
    arrow(ax, (4.9, 5.6), (6.0, 5.6), "features")
    arrow(ax, (8.0, 5.6), (9.3, 5.6), "value")
    arrow(ax, (7.0, 5.1), (8.65, 3.6), "key", (-0.35, -0.12))
    arrow(ax, (10.2, 3.95), (10.2, 5.1), "read", (0.38, 0.0))
    arrow(ax, (11.1, 5.6), (11.9, 5.6))
    arrow(ax, (13.5, 5.6), (14.1, 5.6))
    arrow(ax, (4.0, 5.1), (4.0, 2.2), "features", (-0.6, 0.0))
    arrow(ax, (5.15, 1.7), (6.3, 1.7), "push")
    arrow(ax, (8.45, 2.2), (9.6, 2.85), "keys, values", (0.85, -0.1))
    neighborhood(ax, 13.1, 1.35)
    ax.text(1.2, 6.65, "gray: the single-frame network, unchanged", fontsize=10, color=INK)
    ax.text(6.6, 6.65, "blue: what LMANet adds", fontsize=10, color=INK)
    figure.savefig(Path(__file__).with_name("overview.png"), bbox_inches="tight", pad_inches=0.05)


if __name__ == "__main__":
    main()
