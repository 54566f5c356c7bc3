"""What is measured: each runner runs alone in a process of its own, told what to do by ``serve``."""
