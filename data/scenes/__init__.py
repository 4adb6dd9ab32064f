"""The generated world of the demo and the tests: scenes, their pictures, and two ways to tell them.

A scene holds four to six things on a ground. Each picture comes with one dense description, which
tells every fact, and five sparse captions worded like a person's, which name what is large and
central and leave much untold. The ground truth is kept beside them, so that hallucination and the
best recall that any model could reach can be computed instead of guessed. Ours, Apache-2.0.
"""
