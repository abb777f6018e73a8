"""Steering of consumers while they run: who may say what to them is decided in `web` and by the app.

An action is what is done to a consumer, an actor who does it, and why: see `actions`.
"""
