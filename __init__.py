"""phibench: what an adapter did to a model, measured in every form in which it can be shipped."""

__version__ = "0.1.0"
