"""Names that try to get out of the page, the picture or the table that they stand in."""

CLASS_NAMES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "$\\frac{")
