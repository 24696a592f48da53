"""`remit prove`: what a tester does by hand against a running deployment, done, measured, signed and kept.

It is a client like any other: it calls the listeners with tokens, acts at the source with the rights of whoever runs
it or of a login that is given for it, and knows nothing from inside the service. So a service that leaks cannot make it
pass.
"""
