"""The papers' design methods: scale, search and adapt networks for the user's own data and machine."""

from effdet.adaptation.netadapt import Adapted, AdaptSettings, adapt

__all__ = ["AdaptSettings", "Adapted", "adapt"]
