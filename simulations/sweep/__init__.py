"""A sweep: a stream learned by several methods, seeds and orders of tasks, cell by cell; most often by CA-SAM alone."""
