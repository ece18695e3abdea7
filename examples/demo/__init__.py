"""Real work, on a real machine, with a worker killed in the middle of it.

    python -m examples.demo [DIR]

One PostgreSQL, one broker and three workers start as processes of their own.
Each file of a folder becomes a task; the workers answer with its SHA-256 and
its number of lines. Half-way, one worker is killed while it holds locks. Then
every result is read back and held against what was computed beforehand.

    files.py      what is fingerprinted, and how
    worker.py     the worker, as anybody would write one
    processes.py  starting, watching and stopping what takes part
    run.py        the story: create, kill, wait
    verdict.py    whether every file was done exactly once, and right
    screen.py     what a person sees

The demo judges by what it reads back, from the API and from the table of
outcomes. It must never count on its own word that something was done.
"""
