"""Large MRI archives through Ray: prepare, train, score. The README's tree says what lies where."""

__version__ = "0.1.0"
