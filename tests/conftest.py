"""What holds for all tests: nothing depends on the clock, which other work on the machine slows down."""

from hypothesis import HealthCheck, settings

settings.register_profile("clockless", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("clockless")
