"""Rankers: which of the candidates first, by what is known of the user, the item and the moment."""
