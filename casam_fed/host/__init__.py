"""The machine we run on: files, processes, signals, time, the terminal.

Nothing of the method, of Flower or of torch may live here.
"""
