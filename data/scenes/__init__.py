"""The generated world of the demo and the tests: scenes, images, and dense and sparse text.

A scene has four to six things on a ground. Each image comes with a dense description, which states
every fact, and five sparse captions worded like a person's, which mention what is large and central
and leave out much of the rest. The ground truth is stored with them, so that hallucinations and the
best possible recall can be computed instead of estimated. Written for d2s, Apache-2.0.
"""
