"""Side-by-side measurements. Each prints its result as one line of JSON.

This file makes the folder a package of its own: a dependency installs a top-level
package of the same name, which would otherwise be found in its place.
"""
