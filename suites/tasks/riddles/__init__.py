"""Conversations about riddles, in ChatML."""
