"""The search: a study's folder, searchers, the trainable, and what a person sees of it."""
