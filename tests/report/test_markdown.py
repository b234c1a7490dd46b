from sgnet_nnunet.report.tables import Cell, Table, escape_markdown, table_to_markdown

TABLE = Table(
    title="tumour: masks",
    header=("Model", "Dice"),
    rows=(
        (Cell(text="BaselineUNetTrainer__a|b"), Cell(text="0.9 ± 0.1", detail="0.8 to 1.0", best=True)),
        (Cell(text="Other"), Cell(text="–")),
    ),
    note="How to read it.",
)


def test_a_table_is_github_markdown():
    assert table_to_markdown(TABLE) == "\n".join(
        [
            "## tumour: masks",
            "",
            "| Model | Dice |",
            "| --- | --- |",
            "| BaselineUNetTrainer__a\\|b | **0.9 ± 0.1** (0.8 to 1.0) |",
            "| Other | – |",
            "",
            "How to read it.",
        ]
    )


def test_only_underscores_that_would_be_markup_are_escaped():
    assert escape_markdown("a__b __c__ _d *e* <f> < 1") == "a__b \\_\\_c\\_\\_ \\_d \\*e\\* \\<f> < 1"
