"""The papers' design methods: scale, search and adapt networks for the user's own data and machine."""
