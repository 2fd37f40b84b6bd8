"""Noise drawn by threads while gradients are computed: random numbers of a step depend on nothing
that it computes."""

from concurrent.futures import ThreadPoolExecutor

from trainer.mechanism import Draw

SMALLEST_FOR_A_THREAD = 2**16  # so many normals take longer than starting a thread for them


def by_thread(draw: Draw, size: int) -> Draw:
    """Let a thread begin to draw, if the numbers are many; returns what waits for them.

    An error of the thread is raised by what waits for it.
    """
    if size < SMALLEST_FOR_A_THREAD:
        return draw
    thread = ThreadPoolExecutor(1)
    drawn = thread.submit(draw)
    thread.shutdown(wait=False)  # it ends once the numbers are drawn, also if nobody asks for them
    return drawn.result
