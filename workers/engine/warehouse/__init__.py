"""What the warehouse allows, its connections, and the fencing of executions that lost their lease."""
