"""Looking at results and at cost: what the tools print and draw."""
