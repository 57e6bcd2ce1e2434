"""Tables for people."""

from rich.console import Console
from rich.table import Table

COLUMNS = (
    ("pretrained\nlinear", "linear"),
    ("\nlast", "linear_last"),
    ("\nbest*", "linear_best_on_test"),
    ("\n1-NN", "knn1"),
    ("random\nlinear", "random_linear"),
    ("\n1-NN", "random_knn1"),
    ("raw\nlinear", "raw_linear"),
    ("\n1-NN", "raw_knn1"),
)


def accuracy_table(results: dict[str, dict[str, float]], title: str) -> None:
    """Print test accuracy in percent: the pretrained encoder, a random one of the same shape, and no network at all.

    A number that an older probe did not write is a dash."""
    caption = (
        "test accuracy in %; linear: at the epoch that held-aside training subjects chose; last: the last epoch; "
        "*best: the epoch that is best on the test part, the field's habit; random: encoder before pretraining; raw: 64-frame clips"
    )
    console = Console()
    console.print(title, style="italic", highlight=False, soft_wrap=True)
    table = Table(caption=caption, caption_justify="left")
    table.add_column("\nstream")
    for name, _ in COLUMNS:
        table.add_column(name, justify="right")
    for stream, row in results.items():
        table.add_row(stream, *(f"{row[key]:.1f}" if key in row else "-" for _, key in COLUMNS))
    console.print(table)
