"""How often an agent that a test serves has yielded; the agent imports this module, as the test does."""

made = 0
