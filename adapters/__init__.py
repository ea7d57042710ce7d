"""Adapters: everything that turns a base model into a variant — load, quantise, attach, merge, train."""
