"""`python -m model.training`: the same as `leukoscope train`."""

from model.training.cli import app

app()
