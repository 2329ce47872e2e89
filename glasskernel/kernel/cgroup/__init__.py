"""Control groups: hierarchies of groups of tasks, and controllers that limit what a group may use."""
