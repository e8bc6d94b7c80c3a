"""Values with errors, as pyerrors writes them."""

import math

import pytest

from skild_physics.tables import with_error


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.314979, 0.00072, "0.31498(72)"),
        (-1.4336, 0.012, "-1.434(12)"),
        (2.0, 0.096, "2.000(96)"),
        (2.0, 0.0996, "2.00(10)"),
        (2.0, 0.996, "2.0(1.0)"),
        (76.9, 2.28, "76.9(2.3)"),
        (76.9, 22.8, "77(23)"),
        (123.456, 9.96, "123(10)"),
        (123.456, 99.6, "123(100)"),
        (1234.5, 230.4, "1234(230)"),
        (-3.2e9, 1.5e6, "-3200000000(1500000)"),
        (5.0, 0.0, "5"),
        (5.0, math.nan, "5"),
        (5.0, math.inf, "5"),
        (math.nan, 0.1, "nan"),
        (math.inf, 0.1, "inf"),
        # equal pictures: what rounding leaves of one and of zero
        (1 - 1e-16, 3e-17, "1"),
        (-4e-14, 1.1e-13, "-0.4(1.1)e-13"),
        (3.14159e-12, 2e-15, "3.1416(20)e-12"),
        (0.0123456789, 1.2e-13, "1.234567890000(12)e-2"),
        # a parameter that is held, from a jackknife
        (100.0, 4.9e-13, "100"),
        (0.0, 5e-324, "0"),
    ],
)
def test_values_with_errors(value, stderr, text):
    """As pyerrors 2.17 writes them, but for errors that round up to 10 and those near 1e-16."""
    assert with_error(value, stderr) == text
