"""What the aggregator collected, turned into what a researcher reads: numbers, figures and one page."""

from simulations.report.write import write_report

__all__ = ["write_report"]
