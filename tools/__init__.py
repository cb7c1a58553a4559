"""Tools for developers: what makes releases and measurements. They are not part of the installed package."""
