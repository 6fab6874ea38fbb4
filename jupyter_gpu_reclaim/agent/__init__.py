"""Runs inside the user's kernel, loaded by path in a stranger's environment.

Stdlib only, torch late, relative imports only, Python 3.9 syntax; imports nothing of this package outside agent/.
"""

running = None  # the Agent of this kernel, once it has started


def start(kernel, invitation):
    """Start the agent of this kernel. On its main thread, once."""
    global running
    from .agent import Agent

    agent = Agent(kernel, invitation)
    agent.start()
    running = agent
