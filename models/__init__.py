"""Model families. Each folder here is one family; `models.registry` finds them."""
