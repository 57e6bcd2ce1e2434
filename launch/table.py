"""Tables for people."""

from rich.console import Console
from rich.table import Table

COLUMNS = (
    ("linear", "linear"),
    ("knn1", "1-NN"),
    ("random_linear", "linear"),
    ("random_knn1", "1-NN"),
    ("raw_linear", "linear"),
    ("raw_knn1", "1-NN"),
)


def accuracy_table(results: dict[str, dict[str, float]], title: str) -> None:
    """Print test accuracy in percent: the pretrained encoder, a random one of the same shape, and no network at all."""
    table = Table(title=title, caption="test accuracy in %; pretrained | random encoder | raw 64-frame clips", title_justify="left")
    table.add_column("stream")
    for group, (_, name) in zip(("pretrained",) * 2 + ("random",) * 2 + ("raw",) * 2, COLUMNS):
        table.add_column(f"{group}\n{name}", justify="right")
    for stream, row in results.items():
        table.add_row(stream, *(f"{row[key]:.1f}" for key, _ in COLUMNS))
    Console().print(table)
