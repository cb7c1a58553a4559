"""Names that try to break out of the page, picture or table that shows them."""

CLASS_NAMES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "$\\frac{")
