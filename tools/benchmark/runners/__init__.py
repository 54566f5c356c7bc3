"""What is measured: each contender runs alone in a process of its own, told what to do by ``serve``."""
