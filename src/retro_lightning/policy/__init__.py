"""The policy: a causal language model, a distribution over valid actions and a value head."""
