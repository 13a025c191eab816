"""The protocols of other servers: their paths, bodies, answers and errors, over the same pipeline as `/classify`.

They are not in the OpenAPI document: each is described where it comes from, which its module names.
"""
